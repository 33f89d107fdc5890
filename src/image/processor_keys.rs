//! Keys of a processor's file: their names, and the reading of their values.
//!
//! [`super::processor`] decides by the class of a processor which keys are read and what a missing key means.

use serde_json::Value;

use super::config::{Filter, PreprocessConfig, Resize};
use crate::error::{Error, Kind, Result};

/// Keys without an effect on the pixel values of an RGB frame.
const NEUTRAL: [&str; 22] = [
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "auto_map",
    "_valid_processor_keys",
    "do_convert_rgb",
    "input_data_format",
    "device",
    "return_tensors",
    "disable_grouping",
    "image_seq_length",
    "model_input_names",
    "image_grid_pinpoints",
    "aspect_ratio_setting",
    "patch_size",
    "num_additional_image_tokens",
    "vision_feature_select_strategy",
    "image_token",
    "video_token",
    "chat_template",
    "transformers_version",
    "_name_or_path",
];

/// Keys with an effect that is implemented.
const OBEYED: [&str; 15] = [
    "pad_size",
    "do_resize",
    "size",
    "default_to_square",
    "use_square_size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_pad",
    "data_format",
];

/// Keys of other classes. The class that a file names ignores them; in a file that names no class they are signs of
/// another class, unless they are null or false.
const FOREIGN: [&str; 9] = [
    "rescale_offset",
    "crop_pct",
    "do_thumbnail",
    "do_align_long_axis",
    "do_flip_channel_order",
    "size_divisor",
    "do_reduce_labels",
    "min_pixels",
    "max_pixels",
];

/// Keys of the classes for videos and for several images, foreign to the others. Keys of sampling take effect where
/// frames are sampled; images that stand for frames are not split.
pub(super) const OF_VIDEOS: [&str; 11] = [
    "do_image_splitting",
    "max_image_size",
    "video_processor_type",
    "video_sampling",
    "do_sample_frames",
    "fps",
    "num_frames",
    "return_metadata",
    "initial_shift",
    "crop_to_patches",
    "max_patches",
];

/// Keys of the same classes without an effect where another class is named.
const NEUTRAL_OF_VIDEOS: [&str; 2] = ["return_row_col_info", "min_patches"];

/// Returns whether a key is one of the classes for videos and for several images.
pub(super) fn is_of_videos(key: &str) -> bool {
    OF_VIDEOS.contains(&key) || NEUTRAL_OF_VIDEOS.contains(&key)
}

/// Pixels of a side in a file at most.
const MAX_SIDE: u64 = 16_384;

/// Keys of a file.
pub(super) struct ProcessorKeys<'a>(pub(super) &'a Value);

impl ProcessorKeys<'_> {
    /// Returns the value of a key, unless it is null.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Returns a switch, which is off where it is null.
    pub(super) fn flag(&self, key: &'static str, default: bool) -> Result<bool> {
        match self.0.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            // In Python the numbers 0 and 1 are switches.
            Some(value) => match (value.as_bool(), value.as_f64()) {
                (Some(flag), _) => Ok(flag),
                (None, Some(number)) if number == 0.0 || number == 1.0 => Ok(number == 1.0),
                _ => Err(wrong(key, value, "true or false")),
            },
        }
    }

    /// Reads the keys of the centre crop over the defaults of a class.
    pub(super) fn read_crop(&self, config: &mut PreprocessConfig) -> Result<()> {
        config.crop = match self.0.get("crop_size") {
            _ if !self.flag("do_center_crop", config.crop.is_some())? => None,
            Some(size) => Some(crop_from(size)?),
            None => Some(config.crop.ok_or_else(|| {
                wrong("crop_size", &Value::Null, "a number, or {height, width}, as do_center_crop is true")
            })?),
        };
        Ok(())
    }

    /// Reads the keys of mean and standard deviation over the defaults of a class.
    pub(super) fn read_normalisation(&self, config: &mut PreprocessConfig) -> Result<()> {
        let is_normalised = self.flag("do_normalize", true)?;
        let mean = match self.0.get("image_mean") {
            // Padding is black then.
            Some(Value::Null) if !is_normalised => [0.0; 3],
            Some(value) => triple("image_mean", value)?,
            None => config.mean,
        };
        (config.mean, config.std) = match self.0.get("image_std") {
            _ if !is_normalised => ([0.0; 3], [1.0; 3]),
            Some(value) => (mean, triple("image_std", value)?),
            None => (mean, config.std),
        };
        if config.std.contains(&0.0) {
            return Err(wrong("image_std", &self.0["image_std"], "three numbers other than zero"));
        }
        config.mean_colour = PreprocessConfig::colour_of(mean);
        Ok(())
    }

    fn names_class(&self) -> bool {
        ["image_processor_type", "feature_extractor_type"].into_iter().any(|key| self.get(key).is_some())
    }

    /// Keys of other classes whose values take effect there.
    fn foreign(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        let keys = FOREIGN.iter().chain(&OF_VIDEOS);
        keys.filter_map(|&key| Some((key, self.get(key).filter(|value| value.as_bool() != Some(false))?)))
    }

    pub(super) fn refused(&self, known: &[&str]) -> Vec<Error> {
        let foreign = self.foreign().filter(|(key, _)| !self.names_class() && !known.contains(key));
        let foreign = foreign.map(|(key, value)| wrong(key, value, "no such key, which is not obeyed"));
        let layout = self.get("data_format").filter(|value| value.as_str() != Some("channels_first"));
        foreign.chain(layout.map(|value| wrong("data_format", value, "\"channels_first\""))).collect()
    }

    pub(super) fn unknown(&self) -> Vec<String> {
        let is_known =
            |key: &str| [&NEUTRAL[..], &OBEYED, &FOREIGN, &OF_VIDEOS].into_iter().any(|keys| keys.contains(&key));
        let keys = self.0.as_object().into_iter().flat_map(|object| object.keys());
        let ignored = self.foreign().filter(|_| self.names_class()).map(|(key, _)| key.to_owned());
        keys.filter(|key| !is_known(key)).cloned().chain(ignored).collect()
    }
}

pub(super) fn wrong(key: &'static str, value: &Value, expected: &'static str) -> Error {
    Error::new(Kind::Preprocess, format!("{value} is not usable; expected {expected}")).about(key)
}

fn side(key: &'static str, value: &Value) -> Result<u32> {
    value
        .as_u64()
        .filter(|&n| (1..=MAX_SIDE).contains(&n))
        .map(|n| n as u32)
        .ok_or_else(|| wrong(key, value, "a number of pixels from 1 to 16384"))
}

pub(super) fn resize_from(value: &Value, is_square: bool) -> Result<Resize> {
    const KEY: &str = "size";
    match value {
        Value::Number(_) if is_square => {
            let side = side(KEY, value)?;
            Ok(Resize::Exact { width: side, height: side })
        }
        Value::Number(_) => Ok(Resize::ShortestEdge(side(KEY, value)?)),
        Value::Array(list) if list.len() == 2 => {
            Ok(Resize::Exact { height: side(KEY, &list[0])?, width: side(KEY, &list[1])? })
        }
        Value::Object(object) => {
            let get = |key: &str| object.get(key).filter(|value| !value.is_null());
            let sides = ["shortest_edge", "longest_edge", "height", "width", "max_height", "max_width"];
            if object.iter().any(|(key, value)| !value.is_null() && !sides.contains(&key.as_str())) {
                return Err(wrong(KEY, value, "sides in pixels"));
            }
            match sides.map(get) {
                [Some(edge), None, None, None, None, None] => Ok(Resize::ShortestEdge(side(KEY, edge)?)),
                [Some(shortest), Some(longest), None, None, None, None] => {
                    Ok(Resize::Edges { shortest: side(KEY, shortest)?, longest: side(KEY, longest)? })
                }
                [None, None, Some(height), Some(width), None, None] => {
                    Ok(Resize::Exact { width: side(KEY, width)?, height: side(KEY, height)? })
                }
                [None, None, None, None, Some(height), Some(width)] => {
                    Ok(Resize::Within { width: side(KEY, width)?, height: side(KEY, height)? })
                }
                _ => Err(wrong(
                    KEY,
                    value,
                    "a number, {shortest_edge}, {shortest_edge, longest_edge}, {height, width}, \
                     or {max_height, max_width}",
                )),
            }
        }
        _ => Err(wrong(KEY, value, "a number, {shortest_edge}, or {height, width}")),
    }
}

pub(super) fn longest_edge(key: &'static str, value: &Value) -> Result<u32> {
    let edge = value.get("longest_edge").ok_or_else(|| wrong(key, value, "{longest_edge}"))?;
    side(key, edge)
}

fn crop_from(value: &Value) -> Result<(u32, u32)> {
    const KEY: &str = "crop_size";
    match (value, value.get("width"), value.get("height")) {
        (Value::Number(_), ..) => side(KEY, value).map(|side| (side, side)),
        (Value::Array(list), ..) if list.len() == 2 => Ok((side(KEY, &list[1])?, side(KEY, &list[0])?)),
        (_, Some(width), Some(height)) => Ok((side(KEY, width)?, side(KEY, height)?)),
        _ => Err(wrong(KEY, value, "a number, or {height, width}")),
    }
}

pub(super) fn filter_from(value: &Value) -> Result<Filter> {
    match value.as_u64() {
        Some(0) => Ok(Filter::Nearest),
        Some(1) => Ok(Filter::Lanczos),
        Some(2) => Ok(Filter::Bilinear),
        Some(3) => Ok(Filter::Bicubic),
        Some(4) => Ok(Filter::Box),
        Some(5) => Ok(Filter::Hamming),
        _ => Err(wrong("resample", value, "Pillow's number of a filter, 0 to 5 (3 is bicubic)")),
    }
}

pub(super) fn finite(key: &'static str, value: &Value) -> Result<f64> {
    value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| wrong(key, value, "a number"))
}

/// Reads a number for each channel, or one number for all.
fn triple(key: &'static str, value: &Value) -> Result<[f64; 3]> {
    match value.as_array().map(Vec::as_slice) {
        Some([red, green, blue]) => Ok([finite(key, red)?, finite(key, green)?, finite(key, blue)?]),
        None if value.is_number() => Ok([finite(key, value)?; 3]),
        _ => Err(wrong(key, value, "three numbers, or one for all channels")),
    }
}
