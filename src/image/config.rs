//! How pixels are prepared: the steps between a decoded frame and the tower's input.
//!
//! [`super::ImageProcessor`] reads them from a checkpoint's file; without a file they are the defaults of the tower's
//! family.

use serde::Serialize;

/// The first resize, before any crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The shorter side to this many pixels, the longer in proportion, rounded down.
    ShortestEdge(u32),
    /// The shorter side to `shortest` pixels, in proportion, unless the longer would then be over `longest`.
    Edges {
        /// Pixels.
        shortest: u32,
        /// Pixels.
        longest: u32,
    },
    /// The largest size in proportion within this one.
    Within {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// To this size, whatever the proportions.
    Exact {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// The longer side to this many pixels, the other in proportion, rounded down and then made even (Idefics3).
    LongestEdge(u32),
    /// None.
    None,
}

/// How resized pixels are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// As Pillow does it, with coefficients of 22 bits after the point.
    Pillow,
    /// As torchvision does it on u8 tensors, with coefficients of 16 bits.
    Torch,
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
    /// The colour that padding takes: the processor's mean, whether or not levels are normalised by it.
    #[serde(skip)]
    pub mean_colour: [u8; 3],
    /// The resize.
    pub resize: Resize,
    /// A second resize after it, to this width and height, whatever the proportions.
    pub squeeze: Option<(u32, u32)>,
    /// The filter of both.
    pub filter: Filter,
    /// How they round.
    pub arithmetic: Arithmetic,
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
            mean_colour: Self::colour_of(CLIP_MEAN),
            resize: Resize::ShortestEdge(size),
            squeeze: None,
            filter: Filter::Bicubic,
            arithmetic: Arithmetic::Pillow,
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
            mean_colour: Self::colour_of([0.5; 3]),
            mean: [0.5; 3],
            std: [0.5; 3],
            ..Self::clip(size)
        }
    }

    /// Idefics3's and SmolVLM's own: the longer side to `4 size`, then straight to `size` x `size`, both with Lanczos,
    /// levels to -1 .. 1.
    pub fn idefics3(size: u32) -> Self {
        Self {
            resize: Resize::LongestEdge(4 * size),
            squeeze: Some((size, size)),
            filter: Filter::Lanczos,
            arithmetic: Arithmetic::Torch,
            ..Self::siglip(size)
        }
    }

    /// The same, padding to a square with the mean colour first: `int(mean * 255)` a channel.
    #[must_use]
    pub fn padded(self) -> Self {
        Self { pad: Some(self.mean_colour), ..self }
    }

    /// The mean as a colour, rounded down, as LLaVA's code takes it.
    pub(super) fn colour_of(mean: [f64; 3]) -> [u8; 3] {
        mean.map(|mean| (mean * 255.0) as u8)
    }

    /// The same, but squeezed to `size` x `size` whatever the proportions: LLaVA's base view under `anyres`.
    #[must_use]
    pub fn squeezed(self, size: u32) -> Self {
        Self { pad: None, resize: Resize::Exact { width: size, height: size }, squeeze: None, crop: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pad_colour_is_the_mean_rounded_down() {
        assert_eq!(PreprocessConfig::clip(336).padded().pad, Some([122, 116, 104]));
        assert_eq!(PreprocessConfig::siglip(384).padded().pad, Some([127, 127, 127]));
    }
}
