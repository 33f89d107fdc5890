//! How pixels are prepared: read from `preprocessor_config.json`, or the default of the tower's family.

use serde::Serialize;
use serde_json::Value;

/// Why frames could not be prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreprocessError {
    /// A key of `preprocessor_config.json` has an unusable value.
    #[error("preprocessor_config.json: {key}: {value} is not usable; expected {expected}")]
    Config {
        /// The key.
        key: &'static str,
        /// Its value, as JSON.
        value: String,
        /// What would be.
        expected: &'static str,
    },
    /// A frame whose padded square would not fit in memory.
    #[error(
        "a frame of {width} x {height} pixels would be padded to {side} x {side}, over the limit of {limit} a side"
    )]
    TooLarge {
        /// Of the frame.
        width: u32,
        /// Of the frame.
        height: u32,
        /// Of the padded square.
        side: u32,
        /// The largest side.
        limit: u32,
    },
}

/// The first resize, before any crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The shorter side to this many pixels, the longer in proportion, rounded down.
    ShortestEdge(u32),
    /// To this size, whatever the proportions.
    Exact {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// None.
    None,
}

/// Pillow's resampling filters, by the numbers that `preprocessor_config.json` uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// 0.
    Nearest,
    /// 1.
    Lanczos,
    /// 2.
    Bilinear,
    /// 3: what CLIP and SigLIP use.
    Bicubic,
    /// 4.
    Box,
    /// 5.
    Hamming,
}

/// Everything between a decoded frame and the tower's input.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PreprocessConfig {
    /// Pad to a square with this colour first (LLaVA's `image_aspect_ratio: pad`).
    pub pad: Option<[u8; 3]>,
    /// The resize.
    pub resize: Resize,
    /// Its filter.
    pub filter: Filter,
    /// Cut this (width, height) out of the middle; what is missing is black.
    pub crop: Option<(u32, u32)>,
    /// Each level is multiplied by this. Usually 1/255.
    pub rescale: f64,
    /// Subtracted from each channel, after `rescale`.
    pub mean: [f64; 3],
    /// Each channel is divided by this, last.
    pub std: [f64; 3],
}

const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

impl PreprocessConfig {
    /// CLIP's own: shortest edge to `size`, centre crop, CLIP's mean and standard deviation.
    pub fn clip(size: u32) -> Self {
        Self {
            pad: None,
            resize: Resize::ShortestEdge(size),
            filter: Filter::Bicubic,
            crop: Some((size, size)),
            rescale: 1.0 / 255.0,
            mean: CLIP_MEAN,
            std: CLIP_STD,
        }
    }

    /// SigLIP's own: straight to `size` x `size`, levels to -1 .. 1.
    pub fn siglip(size: u32) -> Self {
        Self {
            resize: Resize::Exact { width: size, height: size },
            crop: None,
            mean: [0.5; 3],
            std: [0.5; 3],
            ..Self::clip(size)
        }
    }

    /// Reads Hugging Face's `preprocessor_config.json`; what it leaves out comes from `default`.
    ///
    /// # Errors
    /// [`PreprocessError::Config`] naming the first key that is unusable.
    pub fn from_json(json: &Value, default: Self) -> Result<Self, PreprocessError> {
        let on = |key: &str| json.get(key).and_then(Value::as_bool).unwrap_or(true);
        let mut config = default;
        if !on("do_resize") {
            config.resize = Resize::None;
        } else if let Some(size) = json.get("size") {
            config.resize = resize_from(size)?;
        }
        if json.get("do_center_crop").and_then(Value::as_bool) == Some(false) {
            config.crop = None;
        } else if let Some(size) = json.get("crop_size") {
            config.crop = Some(crop_from(size)?);
        }
        if let Some(value) = json.get("resample") {
            config.filter = filter_from(value)?;
        }
        config.rescale = match json.get("rescale_factor") {
            _ if !on("do_rescale") => 1.0,
            Some(value) => finite("rescale_factor", value)?,
            None => config.rescale,
        };
        if on("do_normalize") {
            config.mean = json.get("image_mean").map_or(Ok(config.mean), |value| triple("image_mean", value))?;
            config.std = json.get("image_std").map_or(Ok(config.std), |value| triple("image_std", value))?;
        } else {
            (config.mean, config.std) = ([0.0; 3], [1.0; 3]);
        }
        if config.std.contains(&0.0) {
            return Err(wrong("image_std", &json["image_std"], "three numbers other than zero"));
        }
        Ok(config)
    }

    /// The same, padding to a square with the mean colour first: `int(mean * 255)` a channel.
    #[must_use]
    pub fn padded(self) -> Self {
        Self { pad: Some(self.mean.map(|mean| (mean * 255.0) as u8)), ..self }
    }

    /// The same, but squeezed to `size` x `size` whatever the proportions: LLaVA's base view under `anyres`.
    #[must_use]
    pub fn squeezed(self, size: u32) -> Self {
        Self { pad: None, resize: Resize::Exact { width: size, height: size }, crop: None, ..self }
    }
}

fn wrong(key: &'static str, value: &Value, expected: &'static str) -> PreprocessError {
    PreprocessError::Config { key, value: value.to_string(), expected }
}

/// Sides beyond this are a mistake: no tower takes them.
const MAX_SIDE: u64 = 16_384;

fn side(key: &'static str, value: &Value) -> Result<u32, PreprocessError> {
    let expected = "a number of pixels from 1 to 16384";
    let side = value.as_u64().filter(|side| (1..=MAX_SIDE).contains(side));
    side.and_then(|side| u32::try_from(side).ok()).ok_or_else(|| wrong(key, value, expected))
}

fn resize_from(value: &Value) -> Result<Resize, PreprocessError> {
    if value.is_u64() {
        return Ok(Resize::ShortestEdge(side("size", value)?));
    }
    match (value.get("shortest_edge"), value.get("width"), value.get("height")) {
        (Some(edge), _, _) => Ok(Resize::ShortestEdge(side("size", edge)?)),
        (None, Some(width), Some(height)) => {
            Ok(Resize::Exact { width: side("size", width)?, height: side("size", height)? })
        }
        _ => Err(wrong("size", value, "a number, {shortest_edge}, or {height, width}")),
    }
}

fn crop_from(value: &Value) -> Result<(u32, u32), PreprocessError> {
    if value.is_u64() {
        let size = side("crop_size", value)?;
        return Ok((size, size));
    }
    match (value.get("width"), value.get("height")) {
        (Some(width), Some(height)) => Ok((side("crop_size", width)?, side("crop_size", height)?)),
        _ => Err(wrong("crop_size", value, "a number, or {height, width}")),
    }
}

fn filter_from(value: &Value) -> Result<Filter, PreprocessError> {
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

fn finite(key: &'static str, value: &Value) -> Result<f64, PreprocessError> {
    value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| wrong(key, value, "a number"))
}

fn triple(key: &'static str, value: &Value) -> Result<[f64; 3], PreprocessError> {
    let numbers = value.as_array().filter(|list| list.len() == 3).ok_or_else(|| wrong(key, value, "three numbers"))?;
    Ok([finite(key, &numbers[0])?, finite(key, &numbers[1])?, finite(key, &numbers[2])?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_spellings_of_the_sizes_are_read() {
        let old = json!({"size": 336, "crop_size": 224, "resample": 3});
        let new = json!({"size": {"shortest_edge": 336}, "crop_size": {"height": 224, "width": 224}});
        let of = |json| PreprocessConfig::from_json(json, PreprocessConfig::clip(1)).expect("a good file");
        assert_eq!(of(&old), of(&new));
        assert_eq!((of(&old).resize, of(&old).crop), (Resize::ShortestEdge(336), Some((224, 224))));
        let straight = json!({"size": {"height": 64, "width": 48}, "do_center_crop": false});
        assert_eq!((of(&straight).resize, of(&straight).crop), (Resize::Exact { width: 48, height: 64 }, None));
    }

    #[test]
    fn the_pad_colour_is_the_mean_rounded_down() {
        assert_eq!(PreprocessConfig::clip(336).padded().pad, Some([122, 116, 104]));
        assert_eq!(PreprocessConfig::siglip(384).padded().pad, Some([127, 127, 127]));
    }

    #[test]
    fn unusable_values_are_named() {
        for (json, message) in [
            (
                json!({"size": 0}),
                "preprocessor_config.json: size: 0 is not usable; expected a number of pixels from 1 to 16384",
            ),
            (
                json!({"size": {"longest_edge": 3}}),
                "preprocessor_config.json: size: {\"longest_edge\":3} is not usable; expected a number, {shortest_edge}, or {height, width}",
            ),
            (
                json!({"resample": 9}),
                "preprocessor_config.json: resample: 9 is not usable; expected Pillow's number of a filter, 0 to 5 (3 is bicubic)",
            ),
            (
                json!({"image_std": [1, 0, 1]}),
                "preprocessor_config.json: image_std: [1,0,1] is not usable; expected three numbers other than zero",
            ),
            (
                json!({"image_mean": [1, 2]}),
                "preprocessor_config.json: image_mean: [1,2] is not usable; expected three numbers",
            ),
        ] {
            let error = PreprocessConfig::from_json(&json, PreprocessConfig::clip(336)).expect_err("a bad file");
            assert_eq!(error.to_string(), message);
        }
    }
}
