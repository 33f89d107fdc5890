//! Hugging Face's image processors: the supported classes, their defaults, and the keys of their files.
//!
//! Reference: `models/*/image_processing_pil_*.py` and `image_processing_backends.py` of transformers 5.24. A key that
//! a file leaves out has the default of its class; a null key switches its step off, or is an error of a step that is
//! on. Classes differ in the order of their steps too. `vlm::config` finds the file; [`super::Preprocessor`] runs the
//! steps.

use serde_json::Value;

use super::config::{Arithmetic, Filter, PreprocessConfig, Resize};
use super::processor_keys::{
    OF_VIDEOS, ProcessorKeys, filter_from, finite, is_of_videos, longest_edge, resize_from, wrong,
};
use crate::error::{Error, Result};

/// Class of image processors.
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

/// Contents of a processor file.
#[derive(Debug)]
pub struct ProcessorReading {
    /// Configuration of the steps.
    pub config: PreprocessConfig,
    /// Keys whose values would change the pixels and are not obeyed.
    pub refused: Vec<Error>,
    /// Keys that no processor class knows.
    pub unknown: Vec<String>,
}

impl ImageProcessor {
    /// Returns the class that a file names, without `Fast` and `Pil`; old files name a feature extractor.
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

    /// Returns whether a single number in `size` means a square rather than the shorter side.
    fn defaults_to_square(self) -> bool {
        matches!(self, Self::Vit | Self::Deit | Self::Blip | Self::InternVl)
    }

    /// Configuration of a file without keys.
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
    pub fn read(self, json: &Value) -> Result<ProcessorReading> {
        let keys = ProcessorKeys(json);
        let mut config = self.default_config();
        self.read_resize(&keys, &mut config)?;
        keys.read_crop(&mut config)?;
        if config.resize != Resize::None
            && let Some(value) = json.get("resample")
        {
            config.filter = filter_from(value)?;
        }
        config.rescale = match json.get("rescale_factor") {
            _ if !keys.flag("do_rescale", true)? => 1.0,
            Some(value) => finite("rescale_factor", value)?,
            None => config.rescale,
        };
        keys.read_normalisation(&mut config)?;
        if self == Self::Llava && keys.flag("do_pad", false)? {
            if let Some(value) = keys.get("image_mean").filter(|value| !value.is_array()) {
                return Err(wrong("image_mean", value, "three numbers, which do_pad takes the colour of"));
            }
            config = config.padded();
        }
        let refused = self.refused(&keys);
        let unknown = keys.unknown().into_iter().filter(|key| !self.is_of_videos() || !is_of_videos(key));
        Ok(ProcessorReading { config, refused, unknown: unknown.collect() })
    }

    /// Returns the keys that would change the pixels and are not obeyed. `pad_size` counts where `do_pad` fills a
    /// batch; in LLaVA's classes `do_pad` means something else.
    fn refused(self, keys: &ProcessorKeys<'_>) -> Vec<Error> {
        let is_filled = !matches!(self, Self::Llava | Self::LlavaNext | Self::Idefics3 | Self::SmolVlm)
            && keys.flag("do_pad", false).unwrap_or(true);
        let padding = keys.get("pad_size").filter(|_| is_filled);
        let padding = padding.map(|value| wrong("pad_size", value, "no size to pad to, which is not obeyed"));
        let known: &[&str] = if self.is_of_videos() { &OF_VIDEOS } else { &[] };
        keys.refused(known).into_iter().chain(padding).collect()
    }

    /// Returns whether the class prepares frames of videos, or several images as frames.
    fn is_of_videos(self) -> bool {
        matches!(self, Self::Idefics3 | Self::SmolVlm | Self::LlavaOnevision | Self::InternVl)
    }

    /// Reads the keys of the resizes, `do_resize` among them.
    fn read_resize(self, keys: &ProcessorKeys<'_>, config: &mut PreprocessConfig) -> Result<()> {
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

    /// Reads Idefics3's two resizes. SmolVLM's size for videos is the key `video_sampling.video_size`, after `size`;
    /// without `do_resize` Idefics3 squares images all the same.
    fn read_two_resizes(self, keys: &ProcessorKeys<'_>, is_resized: bool, config: &mut PreprocessConfig) -> Result<()> {
        if let Some(size) = keys.get("max_image_size") {
            let edge = longest_edge("max_image_size", size)?;
            config.squeeze = Some((edge, edge));
        }
        let sampling = keys.get("video_sampling").and_then(|sampling| sampling.get("video_size"));
        let size = keys.get("size").or(sampling.filter(|_| self == Self::SmolVlm));
        config.resize = match size {
            Some(size) if size.get("height").is_some() => resize_from(size, true)?,
            // Upper bound of both classes.
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
