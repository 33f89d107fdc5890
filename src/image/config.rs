//! Configuration of the steps between a decoded frame and the tower's input: pad, resize, crop, rescale, normalise.
//!
//! [`super::ImageProcessor`] reads the configuration from a checkpoint's file; without a file it has the defaults of
//! the tower's family. [`super::Preprocessor`] runs the steps.

use ::image::RgbImage;

use serde::Serialize;

/// Width and height of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSize {
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl ImageSize {
    /// Returns the size of an image.
    pub fn of(image: &RgbImage) -> Self {
        image.dimensions().into()
    }

    /// Number of pixels.
    pub(crate) fn n_pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

impl From<(u32, u32)> for ImageSize {
    fn from(size: (u32, u32)) -> Self {
        Self { width: size.0, height: size.1 }
    }
}

impl From<ImageSize> for (u32, u32) {
    fn from(ImageSize { width, height }: ImageSize) -> Self {
        (width, height)
    }
}

/// First resize, before any crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Resizes the shorter side to this many pixels, and the longer side in proportion, rounded down.
    ShortestEdge(u32),
    /// Resizes the shorter side to `shortest` pixels in proportion, or to fewer where the longer side would be over
    /// `longest`.
    Edges {
        /// Pixels of the shorter side.
        shortest: u32,
        /// Pixels of the longer side at most.
        longest: u32,
    },
    /// Resizes to the largest size in proportion within this size.
    Within {
        /// Pixels of a row at most.
        width: u32,
        /// Rows at most.
        height: u32,
    },
    /// Resizes to this size, whatever the proportions.
    Exact {
        /// Pixels of a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// Resizes the longer side to this many pixels, and the other side in proportion, rounded down and then made even
    /// (Idefics3).
    LongestEdge(u32),
    /// Keeps the size.
    None,
}

/// Arithmetic of resampling, which decides the rounding of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// Pillow's: coefficients with 22 fractional bits.
    Pillow,
    /// Torchvision's on u8 tensors: coefficients of 16 bits.
    Torch,
}

/// Pillow's resampling filters, with the numbers that `preprocessor_config.json` uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// 0.
    Nearest,
    /// 1.
    Lanczos,
    /// 2.
    Bilinear,
    /// 3, used by CLIP and SigLIP.
    Bicubic,
    /// 4.
    Box,
    /// 5.
    Hamming,
}

/// Configuration of the steps between a decoded frame and the tower's input.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PreprocessConfig {
    /// Colour of the padding to a square, the first step (LLaVA's `image_aspect_ratio: pad`).
    pub pad: Option<[u8; 3]>,
    /// Colour that padding takes where it is switched on: the processor's mean, even where `mean` is not subtracted.
    #[serde(skip)]
    pub mean_colour: [u8; 3],
    /// First resize.
    pub resize: Resize,
    /// Width and height of a second resize, whatever the proportions.
    pub squeeze: Option<(u32, u32)>,
    /// Filter of both resizes.
    pub filter: Filter,
    /// Arithmetic of both resizes.
    pub arithmetic: Arithmetic,
    /// Width and height of the centre crop; missing pixels are black.
    pub crop: Option<(u32, u32)>,
    /// Factor of each level, usually 1/255.
    pub rescale: f64,
    /// Mean of each channel, subtracted after `rescale`.
    pub mean: [f64; 3],
    /// Standard deviation of each channel, the divisor of the last step.
    pub std: [f64; 3],
}

const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

impl PreprocessConfig {
    /// Returns CLIP's configuration: shortest edge to `size`, centre crop, CLIP's mean and standard deviation.
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

    /// Returns SigLIP's configuration: resize to `size` x `size`, levels to -1 .. 1.
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

    /// Returns the configuration of Idefics3 and SmolVLM: the longer side to `4 size`, then `size` x `size`, both with
    /// Lanczos, levels to -1 .. 1.
    pub fn idefics3(size: u32) -> Self {
        Self {
            resize: Resize::LongestEdge(4 * size),
            squeeze: Some((size, size)),
            filter: Filter::Lanczos,
            arithmetic: Arithmetic::Torch,
            ..Self::siglip(size)
        }
    }

    /// Adds padding to a square with the mean colour: `int(mean * 255)` in each channel.
    #[must_use]
    pub fn padded(self) -> Self {
        Self { pad: Some(self.mean_colour), ..self }
    }

    /// Converts a mean to a colour, rounded down, as LLaVA's code does.
    pub(super) fn colour_of(mean: [f64; 3]) -> [u8; 3] {
        mean.map(|mean| (mean * 255.0) as u8)
    }

    /// Replaces padding, resizes and crop by a resize to `size` x `size`, whatever the proportions: LLaVA's base view
    /// under `anyres`.
    #[must_use]
    pub(crate) fn squeezed(self, size: u32) -> Self {
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
