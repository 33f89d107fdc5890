//! Hugging Face's image processors: the classes that are known, their defaults, and the keys of their files.
//!
//! Reference: `models/*/image_processing_pil_*.py` and `image_processing_backends.py` of transformers 5.24. A key that
//! a file leaves out has the default of its class; one that is null switches its step off, or is missing in a step that
//! is on. Classes differ in the order of their steps too.

use serde_json::Value;

use super::config::{Arithmetic, Filter, PreprocessConfig, Resize};
use crate::error::{Error, Kind};

/// An image processor class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageProcessor {
    /// `CLIPImageProcessor`.
    Clip,
    /// `BitImageProcessor`: CLIP's steps and defaults, without its key `use_square_size`.
    Bit,
    /// `SiglipImageProcessor`.
    Siglip,
    /// `LlavaImageProcessor`: CLIP's steps, after padding to a square where `do_pad` says so.
    Llava,
    /// `LlavaNextImageProcessor`: of its views, the base view alone, which is squeezed to `size`.
    LlavaNext,
    /// `ViTImageProcessor`.
    Vit,
    /// `DeiTImageProcessor`.
    Deit,
    /// `BlipImageProcessor`.
    Blip,
    /// `Idefics3ImageProcessor`, without splitting: an image is resized twice.
    Idefics3,
    /// `SmolVLMVideoProcessor`: Idefics3's steps.
    SmolVlm,
    /// `LlavaOnevisionVideoProcessor`: frames are squeezed.
    LlavaOnevision,
    /// `InternVLVideoProcessor`: frames are squeezed.
    InternVl,
}

/// A processor file's contents as far as they are understood.
#[derive(Debug)]
pub struct ProcessorReading {
    /// The steps.
    pub config: PreprocessConfig,
    /// Keys whose values would change the pixels and are not obeyed.
    pub refused: Vec<Error>,
    /// Keys that no processor class knows.
    pub unknown: Vec<String>,
}

/// Keys that decide nothing of the pixel values of one RGB frame.
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

/// Keys that are obeyed.
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

/// Keys of other classes. The class that a file names ignores them; in a file that names none they tell of another
/// class, unless they are null or false.
const FOREIGN: [&str; 20] = [
    "rescale_offset",
    "crop_pct",
    "do_image_splitting",
    "max_image_size",
    "do_thumbnail",
    "do_align_long_axis",
    "do_flip_channel_order",
    "size_divisor",
    "do_reduce_labels",
    "min_pixels",
    "max_pixels",
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

/// Keys of [`FOREIGN`], and others, that the classes of videos and of several images know. Those of sampling are obeyed
/// where frames are sampled; images that stand for frames are not split.
const OF_VIDEOS: [&str; 13] = [
    "video_processor_type",
    "max_image_size",
    "do_image_splitting",
    "return_row_col_info",
    "video_sampling",
    "do_sample_frames",
    "fps",
    "num_frames",
    "return_metadata",
    "initial_shift",
    "crop_to_patches",
    "max_patches",
    "min_patches",
];

const MAX_SIDE: u64 = 16_384;

impl ImageProcessor {
    /// The class that a file names, `Fast` and `Pil` left out; of old files the feature extractor's name.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.replace("FeatureExtractor", "ImageProcessor");
        let base = ["Fast", "Pil"].into_iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
        Some(match base {
            "CLIPImageProcessor" => Self::Clip,
            "BitImageProcessor" => Self::Bit,
            "SiglipImageProcessor" => Self::Siglip,
            "LlavaImageProcessor" => Self::Llava,
            "LlavaNextImageProcessor" => Self::LlavaNext,
            "ViTImageProcessor" => Self::Vit,
            "DeiTImageProcessor" => Self::Deit,
            "BlipImageProcessor" => Self::Blip,
            "Idefics3ImageProcessor" => Self::Idefics3,
            "SmolVLMImageProcessor" | "SmolVLMVideoProcessor" => Self::SmolVlm,
            "LlavaOnevisionImageProcessor" | "LlavaOnevisionVideoProcessor" => Self::LlavaOnevision,
            "GotOcr2ImageProcessor" | "InternVLVideoProcessor" => Self::InternVl,
            _ => return None,
        })
    }

    /// Whether a single number in `size` means a square rather than the shorter side.
    fn defaults_to_square(self) -> bool {
        matches!(self, Self::Vit | Self::Deit | Self::Blip | Self::InternVl)
    }

    /// The steps of a file that says nothing.
    fn default_config(self) -> PreprocessConfig {
        let square = |side| Resize::Exact { width: side, height: side };
        match self {
            Self::Clip | Self::Bit | Self::Llava => PreprocessConfig::clip(224),
            Self::LlavaNext => PreprocessConfig { resize: square(224), ..PreprocessConfig::clip(224) },
            Self::Siglip => PreprocessConfig::siglip(224),
            Self::Vit => PreprocessConfig { filter: Filter::Bilinear, ..PreprocessConfig::siglip(224) },
            Self::Deit => PreprocessConfig { crop: Some((224, 224)), ..PreprocessConfig::siglip(256) },
            Self::Idefics3 | Self::SmolVlm => PreprocessConfig::idefics3(364),
            Self::LlavaOnevision | Self::InternVl => PreprocessConfig {
                resize: square(384),
                crop: None,
                arithmetic: Arithmetic::Torch,
                ..PreprocessConfig::clip(384)
            },
            Self::Blip => PreprocessConfig { resize: square(384), crop: None, ..PreprocessConfig::clip(384) },
        }
    }

    /// Reads a processor file of this class.
    ///
    /// # Errors
    /// [`Error`] naming the first key that has an unusable value.
    pub fn read(self, json: &Value) -> Result<ProcessorReading, Error> {
        let keys = ProcessorKeys(json);
        let default = self.default_config();
        let mut config = default.clone();
        self.read_resize(&keys, &mut config)?;
        config.crop = match json.get("crop_size") {
            _ if !keys.flag("do_center_crop", default.crop.is_some())? => None,
            Some(size) => Some(crop_from(size)?),
            None => Some(default.crop.ok_or_else(|| {
                wrong("crop_size", &Value::Null, "a number, or {height, width}, as do_center_crop is true")
            })?),
        };
        if config.resize != Resize::None
            && let Some(value) = json.get("resample")
        {
            config.filter = filter_from(value)?;
        }
        config.rescale = match json.get("rescale_factor") {
            _ if !keys.flag("do_rescale", true)? => 1.0,
            Some(value) => finite("rescale_factor", value)?,
            None => default.rescale,
        };
        let is_normalised = keys.flag("do_normalize", true)?;
        let mean = match json.get("image_mean") {
            // Padding is black then.
            Some(Value::Null) if !is_normalised => [0.0; 3],
            Some(value) => triple("image_mean", value)?,
            None => default.mean,
        };
        (config.mean, config.std) = match json.get("image_std") {
            _ if !is_normalised => ([0.0; 3], [1.0; 3]),
            Some(value) => (mean, triple("image_std", value)?),
            None => (mean, default.std),
        };
        if config.std.contains(&0.0) {
            return Err(wrong("image_std", &json["image_std"], "three numbers other than zero"));
        }
        config.mean_colour = PreprocessConfig::colour_of(mean);
        if self == Self::Llava && keys.flag("do_pad", false)? {
            if let Some(value) = keys.get("image_mean").filter(|value| !value.is_array()) {
                return Err(wrong("image_mean", value, "three numbers, which do_pad takes the colour of"));
            }
            config = config.padded();
        }
        let refused = self.refused(&keys);
        let unknown = keys.unknown().into_iter().filter(|key| !self.is_of_videos() || !OF_VIDEOS.contains(&&**key));
        Ok(ProcessorReading { config, refused, unknown: unknown.collect() })
    }

    /// Keys that would change the pixels and are not obeyed. `pad_size` counts where `do_pad` fills a batch; in LLaVA's
    /// classes `do_pad` means something else.
    fn refused(self, keys: &ProcessorKeys<'_>) -> Vec<Error> {
        let is_filled = !matches!(self, Self::Llava | Self::LlavaNext | Self::Idefics3 | Self::SmolVlm)
            && keys.flag("do_pad", false).unwrap_or(true);
        let padding = keys.get("pad_size").filter(|_| is_filled);
        let padding = padding.map(|value| wrong("pad_size", value, "no size to pad to, which is not obeyed"));
        let known: &[&str] = if self.is_of_videos() { &OF_VIDEOS } else { &[] };
        keys.refused(known).into_iter().chain(padding).collect()
    }

    /// Whether the class prepares frames of videos, or several images as frames.
    fn is_of_videos(self) -> bool {
        matches!(self, Self::Idefics3 | Self::SmolVlm | Self::LlavaOnevision | Self::InternVl)
    }

    fn read_resize(self, keys: &ProcessorKeys<'_>, config: &mut PreprocessConfig) -> Result<(), Error> {
        let is_square = keys.flag("default_to_square", self.defaults_to_square())?;
        let is_resized = keys.flag("do_resize", true)?;
        if matches!(self, Self::Idefics3 | Self::SmolVlm) {
            return self.read_two_resizes(keys, is_resized, config);
        }
        if let Some(size) = keys.0.get("size").filter(|_| is_resized || self == Self::LlavaNext) {
            config.resize = resize_from(size, is_square)?;
        }
        if self == Self::Clip && keys.flag("use_square_size", false)? {
            config.resize = Resize::Exact { width: 224, height: 224 };
        }
        if self == Self::LlavaNext {
            // The base view has been squeezed before the steps that `do_resize` switches begin.
            config.resize = match config.resize {
                Resize::ShortestEdge(side) => Resize::Exact { width: side, height: side },
                exact @ Resize::Exact { .. } => exact,
                _ => return Err(wrong("size", &keys.0["size"], "a number, {shortest_edge}, or {height, width}")),
            };
        } else if !is_resized {
            config.resize = Resize::None;
        }
        Ok(())
    }
}

impl ImageProcessor {
    /// Idefics3's two resizes. SmolVLM's video size stands apart where `size` does not; without `do_resize` Idefics3
    /// squares images all the same.
    fn read_two_resizes(
        self,
        keys: &ProcessorKeys<'_>,
        is_resized: bool,
        config: &mut PreprocessConfig,
    ) -> Result<(), Error> {
        if let Some(size) = keys.get("max_image_size") {
            let edge = longest_edge("max_image_size", size)?;
            config.squeeze = Some((edge, edge));
        }
        let sampling = keys.get("video_sampling").and_then(|sampling| sampling.get("video_size"));
        let size = keys.get("size").or(sampling.filter(|_| self == Self::SmolVlm));
        config.resize = match size {
            Some(size) if size.get("height").is_some() => resize_from(size, true)?,
            // The classes' upper bound.
            Some(size) => Resize::LongestEdge(longest_edge("size", size)?.min(4096)),
            None => config.resize,
        };
        if !is_resized {
            config.resize = Resize::None;
            config.squeeze = config.squeeze.filter(|_| self == Self::Idefics3);
        }
        Ok(())
    }
}

/// The keys of a file.
struct ProcessorKeys<'a>(&'a Value);

impl ProcessorKeys<'_> {
    /// A value other than null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A switch: off where it is null.
    fn flag(&self, key: &'static str, default: bool) -> Result<bool, Error> {
        match self.0.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            // Python takes the numbers 0 and 1 for them.
            Some(value) => match (value.as_bool(), value.as_f64()) {
                (Some(flag), _) => Ok(flag),
                (None, Some(number)) if number == 0.0 || number == 1.0 => Ok(number == 1.0),
                _ => Err(wrong(key, value, "true or false")),
            },
        }
    }

    fn names_class(&self) -> bool {
        ["image_processor_type", "feature_extractor_type"].into_iter().any(|key| self.get(key).is_some())
    }

    /// Keys of other classes with values that would matter there.
    fn foreign(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        FOREIGN.iter().filter_map(|&key| Some((key, self.get(key).filter(|value| value.as_bool() != Some(false))?)))
    }

    fn refused(&self, known: &[&str]) -> Vec<Error> {
        let foreign = self.foreign().filter(|(key, _)| !self.names_class() && !known.contains(key));
        let foreign = foreign.map(|(key, value)| wrong(key, value, "no such key, which is not obeyed"));
        let layout = self.get("data_format").filter(|value| value.as_str() != Some("channels_first"));
        foreign.chain(layout.map(|value| wrong("data_format", value, "\"channels_first\""))).collect()
    }

    fn unknown(&self) -> Vec<String> {
        let is_known = |key: &str| NEUTRAL.contains(&key) || OBEYED.contains(&key) || FOREIGN.contains(&key);
        let keys = self.0.as_object().into_iter().flat_map(|object| object.keys());
        let ignored = self.foreign().filter(|_| self.names_class()).map(|(key, _)| key.to_owned());
        keys.filter(|key| !is_known(key)).cloned().chain(ignored).collect()
    }
}

fn wrong(key: &'static str, value: &Value, expected: &'static str) -> Error {
    Error::new(Kind::Preprocess, format!("{value} is not usable; expected {expected}")).about(key)
}

fn side(key: &'static str, value: &Value) -> Result<u32, Error> {
    value
        .as_u64()
        .filter(|&n| (1..=MAX_SIDE).contains(&n))
        .map(|n| n as u32)
        .ok_or_else(|| wrong(key, value, "a number of pixels from 1 to 16384"))
}

fn resize_from(value: &Value, is_square: bool) -> Result<Resize, Error> {
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

fn longest_edge(key: &'static str, value: &Value) -> Result<u32, Error> {
    let edge = value.get("longest_edge").ok_or_else(|| wrong(key, value, "{longest_edge}"))?;
    side(key, edge)
}

fn crop_from(value: &Value) -> Result<(u32, u32), Error> {
    const KEY: &str = "crop_size";
    match (value, value.get("width"), value.get("height")) {
        (Value::Number(_), ..) => side(KEY, value).map(|side| (side, side)),
        (Value::Array(list), ..) if list.len() == 2 => Ok((side(KEY, &list[1])?, side(KEY, &list[0])?)),
        (_, Some(width), Some(height)) => Ok((side(KEY, width)?, side(KEY, height)?)),
        _ => Err(wrong(KEY, value, "a number, or {height, width}")),
    }
}

fn filter_from(value: &Value) -> Result<Filter, Error> {
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

fn finite(key: &'static str, value: &Value) -> Result<f64, Error> {
    value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| wrong(key, value, "a number"))
}

/// A number a channel, or one for all.
fn triple(key: &'static str, value: &Value) -> Result<[f64; 3], Error> {
    match value.as_array().map(Vec::as_slice) {
        Some([red, green, blue]) => Ok([finite(key, red)?, finite(key, green)?, finite(key, blue)?]),
        None if value.is_number() => Ok([finite(key, value)?; 3]),
        _ => Err(wrong(key, value, "three numbers, or one for all channels")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn clip(json: Value) -> PreprocessConfig {
        ImageProcessor::Clip.read(&json).expect("a good file").config
    }

    #[test]
    fn both_spellings_of_the_sizes_are_read() {
        let old = json!({"size": 336, "crop_size": 224, "resample": 3});
        let new = json!({"size": {"shortest_edge": 336}, "crop_size": {"height": 224, "width": 224}});
        assert_eq!(clip(old.clone()), clip(new));
        assert_eq!((clip(old.clone()).resize, clip(old).crop), (Resize::ShortestEdge(336), Some((224, 224))));
        let straight = clip(json!({"size": {"height": 64, "width": 48}, "do_center_crop": false}));
        assert_eq!((straight.resize, straight.crop), (Resize::Exact { width: 48, height: 64 }, None));
    }

    #[test]
    fn each_class_has_its_own_defaults_and_meanings() {
        let size = json!({"size": 56});
        let resize = |class: ImageProcessor| class.read(&size).expect("a good file").config.resize;
        let square = Resize::Exact { width: 56, height: 56 };
        assert_eq!(resize(ImageProcessor::Clip), Resize::ShortestEdge(56));
        assert_eq!(resize(ImageProcessor::Siglip), Resize::ShortestEdge(56));
        assert_eq!((resize(ImageProcessor::Vit), resize(ImageProcessor::LlavaNext)), (square, square));
        // `do_pad` pads to a square in LLaVA's class alone; in the others it fills a batch.
        let padding = json!({"do_pad": true});
        let pad = |class: ImageProcessor| class.read(&padding).expect("a good file").config.pad;
        assert_eq!(pad(ImageProcessor::Llava), Some([122, 116, 104]));
        assert_eq!((pad(ImageProcessor::Clip), pad(ImageProcessor::LlavaNext)), (None, None));
        let vit = ImageProcessor::Vit.read(&json!({})).expect("a good file").config;
        assert_eq!((vit.filter, vit.crop, vit.mean), (Filter::Bilinear, None, [0.5; 3]));
        // The base view is squeezed whether or not the views are resized afterwards.
        let base = ImageProcessor::LlavaNext.read(&json!({"size": {"shortest_edge": 56}, "do_resize": false}));
        assert_eq!(base.expect("a good file").config.resize, square);
    }

    #[test]
    fn idefics3_and_smolvlm_resize_twice() {
        let read = |class: ImageProcessor, json: Value| {
            let reading = class.read(&json).expect("a good file");
            assert!(reading.refused.is_empty() && reading.unknown.is_empty(), "{reading:?}");
            (reading.config.resize, reading.config.squeeze)
        };
        let sampling = json!({"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}});
        let file = json!({"do_image_splitting": true, "do_pad": true, "size": {"longest_edge": 2048},
            "max_image_size": {"longest_edge": 512}, "video_sampling": sampling, "resample": 1});
        let two = (Resize::LongestEdge(2048), Some((512, 512)));
        // `size` takes the place of the video's own.
        assert_eq!(read(ImageProcessor::SmolVlm, file.clone()), two);
        assert_eq!(read(ImageProcessor::Idefics3, file), two);
        let apart = json!({"video_sampling": sampling});
        assert_eq!(read(ImageProcessor::SmolVlm, apart), (Resize::LongestEdge(512), Some((364, 364))));
        let off = json!({"do_resize": false});
        assert_eq!(read(ImageProcessor::SmolVlm, off.clone()), (Resize::None, None));
        assert_eq!(read(ImageProcessor::Idefics3, off), (Resize::None, Some((364, 364))));
    }

    #[test]
    fn null_switches_a_step_off_and_is_missing_in_one_that_is_on() {
        let nulls = json!({"do_resize": null, "size": null, "resample": null, "do_center_crop": null, "crop_size": null,
            "do_normalize": null, "image_mean": null, "image_std": null, "do_rescale": null, "rescale_factor": null});
        let off = clip(nulls);
        assert_eq!(
            (off.resize, off.crop, off.rescale, off.mean, off.std),
            (Resize::None, None, 1.0, [0.0; 3], [1.0; 3])
        );
        for key in ["size", "resample", "crop_size", "image_mean", "image_std", "rescale_factor"] {
            let error = ImageProcessor::Clip.read(&json!({key: null})).expect_err("it is needed").to_string();
            assert!(error.starts_with(&format!("{key}: null is not usable")), "{error}");
        }
    }

    #[test]
    fn names_of_every_age_lead_to_a_class() {
        for name in ["CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor"] {
            assert_eq!(ImageProcessor::named(name), Some(ImageProcessor::Clip), "{name}");
        }
        assert_eq!(ImageProcessor::named("Emu3ImageProcessor"), None);
    }

    #[test]
    fn the_pad_colour_is_that_of_the_mean_even_without_normalisation() {
        let json = json!({"do_pad": true, "do_normalize": false, "image_mean": [0.5, 0.25, 0.0]});
        assert_eq!(ImageProcessor::Llava.read(&json).expect("a good file").config.pad, Some([127, 63, 0]));
    }

    #[test]
    fn one_number_stands_for_all_channels() {
        let config = clip(json!({"image_mean": 0.5, "image_std": 0.25}));
        assert_eq!((config.mean, config.std), ([0.5; 3], [0.25; 3]));
    }

    #[test]
    fn keys_of_other_classes_are_refused_and_unknown_ones_named() {
        let json = json!({"rescale_offset": true, "crop_pct": 0.9, "size_divisor": null, "brightness": 2});
        let reading = ImageProcessor::Clip.read(&json).expect("a good file");
        let refused: Vec<String> = reading.refused.iter().map(ToString::to_string).collect();
        assert_eq!(
            refused,
            [
                "rescale_offset: true is not usable; expected no such key, which is not obeyed",
                "crop_pct: 0.9 is not usable; expected no such key, which is not obeyed"
            ]
        );
        assert_eq!(reading.unknown, ["brightness"]);
        // The class that a file names ignores them.
        let json = json!({"image_processor_type": "CLIPImageProcessor", "rescale_offset": true, "pad_size": {"height": 9, "width": 9}});
        let reading = ImageProcessor::Clip.read(&json).expect("a good file");
        assert!(reading.refused.is_empty() && reading.unknown == ["rescale_offset"], "{reading:?}");
        // `do_pad` obeys `pad_size`, but in LLaVA's class.
        let padded = json!({"do_pad": true, "pad_size": {"height": 9, "width": 9}});
        let n_refused = |class: ImageProcessor| class.read(&padded).expect("a good file").refused.len();
        assert_eq!((n_refused(ImageProcessor::Clip), n_refused(ImageProcessor::Llava)), (1, 0));
    }

    #[test]
    fn a_square_by_its_own_key_is_of_clips_class_alone() {
        let json = json!({"use_square_size": true});
        let resize = |class: ImageProcessor| class.read(&json).expect("a good file").config.resize;
        assert_eq!(resize(ImageProcessor::Clip), Resize::Exact { width: 224, height: 224 });
        assert_eq!(resize(ImageProcessor::Bit), Resize::ShortestEdge(224));
        assert_eq!(ImageProcessor::named("BitImageProcessor"), Some(ImageProcessor::Bit));
    }

    #[test]
    fn zero_and_one_are_switches() {
        assert_eq!(clip(json!({"do_center_crop": 0})), clip(json!({"do_center_crop": false})));
        assert_eq!(clip(json!({"do_center_crop": 1.0})), clip(json!({"do_center_crop": true})));
        assert!(ImageProcessor::Clip.read(&json!({"do_center_crop": 2})).is_err());
    }

    #[test]
    fn unusable_values_are_named() {
        for (json, message) in [
            (json!({"size": 0}), "size: 0 is not usable; expected a number of pixels from 1 to 16384"),
            (
                json!({"size": {"longest_edge": 3}}),
                "size: {\"longest_edge\":3} is not usable; expected a number, {shortest_edge}, \
                 {shortest_edge, longest_edge}, {height, width}, or {max_height, max_width}",
            ),
            (
                json!({"resample": 9}),
                "resample: 9 is not usable; expected Pillow's number of a filter, 0 to 5 (3 is bicubic)",
            ),
            (json!({"do_resize": "no"}), "do_resize: \"no\" is not usable; expected true or false"),
            (
                json!({"image_std": [1, 0, 1]}),
                "image_std: [1,0,1] is not usable; expected three numbers other than zero",
            ),
            (
                json!({"image_mean": [1, 2]}),
                "image_mean: [1,2] is not usable; expected three numbers, or one for all channels",
            ),
        ] {
            assert_eq!(ImageProcessor::Clip.read(&json).expect_err("a bad file").to_string(), message);
        }
        let siglip = ImageProcessor::Siglip.read(&json!({"do_center_crop": true})).expect_err("no size to cut");
        assert_eq!(
            siglip.to_string(),
            "crop_size: null is not usable; expected a number, or {height, width}, as do_center_crop is true"
        );
    }
}
