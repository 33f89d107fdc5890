//! Preparation of an RGB frame: the tower's pixel values, computed on the CPU.
//!
//! The steps and their order are those of LLaVA's `expand2square` and Hugging Face's `CLIPImageProcessor` and
//! `SiglipImageProcessor`: pad, resize on u8, centre crop, rescale, normalise. [`super::ImageProcessor`] brings the
//! steps of the other classes to this order; [`super::plan`] describes them to devices that run them.

use ::image::{Rgb, RgbImage, imageops};

use super::config::{ImageSize, PreprocessConfig, Resize};
use super::plan::FramePlan;
use super::resize::{Resampling, resize, taps};
use crate::error::{Error, Kind, Result};

/// Pixels of a padded square's side at most: a larger square would take over 800 MB.
const MAX_PADDED_SIDE: u32 = 16_384;

/// Prepares frames by one configuration.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    config: PreprocessConfig,
    /// Normalised value of every level, for each channel.
    levels: [[f32; 256]; 3],
}

impl Preprocessor {
    /// Makes a preprocessor for `config`.
    pub fn new(config: PreprocessConfig) -> Self {
        let mut levels = [[0.0; 256]; 3];
        for (channel, table) in levels.iter_mut().enumerate() {
            for (level, value) in table.iter_mut().enumerate() {
                *value = ((level as f64 * config.rescale - config.mean[channel]) / config.std[channel]) as f32;
            }
        }
        Self { config, levels }
    }

    /// Configuration of the steps.
    pub fn config(&self) -> &PreprocessConfig {
        &self.config
    }

    /// Prepares one frame: pixel values, width and height.
    ///
    /// # Shapes
    /// The values are `(3, height, width)`, row-major.
    ///
    /// # Errors
    /// [`Error`] for a frame too large to pad.
    pub fn run(&self, frame: RgbImage) -> Result<(Vec<f32>, u32, u32)> {
        let image = self.image(frame)?;
        Ok((self.normalise(&image), image.width(), image.height()))
    }

    /// Returns the u8 image that is normalised: padded, resized, cropped.
    ///
    /// # Errors
    /// See [`Self::run`].
    pub fn image(&self, frame: RgbImage) -> Result<RgbImage> {
        let image = match self.config.pad {
            Some(colour) => pad_to_square(frame, colour)?,
            None => frame,
        };
        let target = target_size(self.config.resize, ImageSize::of(&image));
        let resampling = Resampling::of(&self.config);
        let image = resize(image, target, resampling);
        let image = match self.config.squeeze {
            Some(size) => resize(image, size.into(), resampling),
            None => image,
        };
        Ok(match self.config.crop {
            Some(size) => centre_crop(image, size.into()),
            None => image,
        })
    }

    /// Returns whether frames are resized once at most, and so can be prepared by tables: see [`Self::plan`].
    pub(crate) fn has_plan(&self) -> bool {
        self.config.squeeze.is_none()
    }

    /// Returns the preparation of frames of a size as tables. Requires `has_plan`.
    ///
    /// # Errors
    /// See [`Self::run`].
    pub fn plan(&self, frame: ImageSize) -> Result<FramePlan> {
        let config = &self.config;
        let (canvas, offset) = match config.pad {
            Some(_) => {
                let PaddedSquare { side, left, top } = PaddedSquare::around(frame)?;
                (ImageSize { width: side, height: side }, (left, top))
            }
            None => (frame, (0, 0)),
        };
        let resized = target_size(config.resize, canvas);
        let crop = config.crop.map_or(resized, ImageSize::from);
        let resampling = Resampling::of(config);
        let crop_offset = |side: u32, crop: u32| crop_offset(side, crop) as i32;
        Ok(FramePlan {
            frame: frame.into(),
            canvas_height: canvas.height,
            offset,
            colour: config.pad.unwrap_or_default(),
            horizontal: taps(canvas.width, resized.width, resampling),
            vertical: taps(canvas.height, resized.height, resampling),
            crop: (crop_offset(resized.width, crop.width), crop_offset(resized.height, crop.height)),
            size: crop.into(),
            levels: self.levels,
        })
    }

    fn normalise(&self, image: &RgbImage) -> Vec<f32> {
        let plane = (image.width() * image.height()) as usize;
        let mut values = vec![0.0; 3 * plane];
        let (red, rest) = values.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        for (i, pixel) in image.as_raw().chunks_exact(3).enumerate() {
            red[i] = self.levels[0][pixel[0] as usize];
            green[i] = self.levels[1][pixel[1] as usize];
            blue[i] = self.levels[2][pixel[2] as usize];
        }
        values
    }
}

/// LLaVA's `expand2square`: the image in the middle, `(long - short) / 2` rounded down from the edge.
fn pad_to_square(image: RgbImage, colour: [u8; 3]) -> Result<RgbImage> {
    let padded = PaddedSquare::around(ImageSize::of(&image))?;
    if image.dimensions() == (padded.side, padded.side) {
        return Ok(image);
    }
    let mut square = RgbImage::from_pixel(padded.side, padded.side, Rgb(colour));
    imageops::replace(&mut square, &image, i64::from(padded.left), i64::from(padded.top));
    Ok(square)
}

/// Square around an image.
struct PaddedSquare {
    side: u32,
    /// Left edge of the image in the square.
    left: u32,
    /// Upper edge of the image in the square.
    top: u32,
}

impl PaddedSquare {
    fn around(image: ImageSize) -> Result<Self> {
        let ImageSize { width, height } = image;
        let side = width.max(height);
        if width != height && side > MAX_PADDED_SIDE {
            let rule = format!(
                "a frame of {width} x {height} pixels would be padded to {side} x {side}, over the limit of {MAX_PADDED_SIDE} a side"
            );
            return Err(Error::new(Kind::Preprocess, rule));
        }
        Ok(Self { side, left: (side - width) / 2, top: (side - height) / 2 })
    }
}

/// Returns the size after the resize, with the roundings of transformers: `int(size * long / short)` for the longer
/// side.
fn target_size(resize: Resize, image: ImageSize) -> ImageSize {
    let ImageSize { width, height } = image;
    match resize {
        Resize::None => image,
        Resize::Exact { width, height } => ImageSize { width, height },
        Resize::ShortestEdge(size) => {
            let longer = |long: u32, short: u32| {
                // A line of pixels would grow beyond all bounds; the crop takes its middle anyway.
                (u64::from(size) * u64::from(long) / u64::from(short)).min(u64::from(MAX_PADDED_SIDE)) as u32
            };
            if width <= height {
                ImageSize { width: size, height: longer(height, width) }
            } else {
                ImageSize { width: longer(width, height), height: size }
            }
        }
        Resize::LongestEdge(size) => longest_edge_size(size, image),
        Resize::Edges { shortest, longest } => bounded_edges_size(shortest, longest, image),
        Resize::Within { width: max_width, height: max_height } => {
            let scale = (f64::from(max_height) / f64::from(height)).min(f64::from(max_width) / f64::from(width));
            let scaled = |side: u32| ((f64::from(side) * scale) as u32).max(1);
            ImageSize { width: scaled(width), height: scaled(height) }
        }
    }
}

/// `_resize_output_size_rescale_to_max_len` of Idefics3: the shorter side is rounded down, then made even.
fn longest_edge_size(size: u32, image: ImageSize) -> ImageSize {
    let ImageSize { width, height } = image;
    let ratio = f64::from(width) / f64::from(height);
    let even = |side: f64| (side as u32).next_multiple_of(2).max(1);
    if width >= height {
        ImageSize { width: size, height: even(f64::from(size) / ratio) }
    } else {
        ImageSize { width: even(f64::from(size) * ratio), height: size }
    }
}

/// `get_size_with_aspect_ratio` of transformers.
fn bounded_edges_size(shortest: u32, longest: u32, image: ImageSize) -> ImageSize {
    let ImageSize { width, height } = image;
    let (short, long) = (f64::from(width.min(height)), f64::from(width.max(height)));
    let is_over = long / short * f64::from(shortest) > f64::from(longest);
    let exact = if is_over { f64::from(longest) * short / long } else { f64::from(shortest) };
    let shorter = (exact.round_ties_even() as u32).max(1);
    if f64::from(shorter) == short {
        return image;
    }
    let longer = ((exact * long / short) as u32).clamp(1, MAX_PADDED_SIDE);
    if width < height {
        ImageSize { width: shorter, height: longer }
    } else {
        ImageSize { width: longer, height: shorter }
    }
}

/// Cuts the middle out; where the image is smaller than the crop, black surrounds the image.
fn centre_crop(image: RgbImage, crop: ImageSize) -> RgbImage {
    if ImageSize::of(&image) == crop {
        return image;
    }
    let (left, top) = (crop_offset(image.width(), crop.width), crop_offset(image.height(), crop.height));
    let mut cropped = RgbImage::new(crop.width, crop.height);
    imageops::replace(&mut cropped, &image, -left, -top);
    cropped
}

/// Returns the edge of a crop of `crop` pixels in the middle of `side` pixels; negative where the side is shorter.
fn crop_offset(side: u32, crop: u32) -> i64 {
    (i64::from(side) - i64::from(crop)).div_euclid(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_puts_an_odd_rest_after_the_image() {
        let image = RgbImage::from_pixel(3, 2, Rgb([9, 9, 9]));
        let square = pad_to_square(image, [1, 2, 3]).expect("small");
        // (3 - 2) / 2 = 0: the image starts at the top, the last row is padding.
        assert_eq!(square.get_pixel(0, 0), &Rgb([9, 9, 9]));
        assert_eq!(square.get_pixel(0, 2), &Rgb([1, 2, 3]));
    }

    #[test]
    fn a_hairline_image_is_refused_before_it_is_padded() {
        let error = pad_to_square(RgbImage::new(20_000, 1), [0; 3]).expect_err("too large");
        assert_eq!(
            error.to_string(),
            "a frame of 20000 x 1 pixels would be padded to 20000 x 20000, over the limit of 16384 a side"
        );
    }

    #[test]
    fn the_crop_takes_the_middle() {
        let image = RgbImage::from_fn(5, 4, |x, y| Rgb([x as u8, y as u8, 0]));
        let cut = centre_crop(image, (2, 2).into());
        // (5 - 2) / 2 = 1 from the left, (4 - 2) / 2 = 1 from the top.
        assert_eq!(cut.get_pixel(0, 0), &Rgb([1, 1, 0]));
    }

    #[test]
    fn sides_are_rounded_as_transformers_rounds_them() {
        let target = |resize, image: (u32, u32)| <(u32, u32)>::from(target_size(resize, image.into()));
        let edges = Resize::Edges { shortest: 224, longest: 300 };
        // 640 / 480 * 224 = 298.7 fits; 1920 / 1080 * 224 = 398 does not: 300 * 1080 / 1920 = 168.75, rounded to 169.
        assert_eq!(target(edges, (640, 480)), (298, 224));
        assert_eq!(target(edges, (1920, 1080)), (300, 169));
        assert_eq!(target(edges, (1080, 1920)), (169, 300));
        assert_eq!(target(edges, (224, 224)), (224, 224));
        // 1152 as it is; 2048 * 101 / 300 = 689.5, made even; upright the same.
        assert_eq!(target(Resize::LongestEdge(2048), (1920, 1080)), (2048, 1152));
        assert_eq!(target(Resize::LongestEdge(2048), (300, 101)), (2048, 690));
        assert_eq!(target(Resize::LongestEdge(2048), (101, 300)), (690, 2048));
        // 100 / 480 is the smaller scale: 640 * 100 / 480 = 133.3.
        assert_eq!(target(Resize::Within { width: 200, height: 100 }, (640, 480)), (133, 100));
    }

    #[test]
    fn pixel_values_are_planes_of_normalised_levels() {
        let config = PreprocessConfig::siglip(1);
        let image = RgbImage::from_pixel(1, 1, Rgb([0, 255, 51]));
        // (0 - 0.5) / 0.5 = -1; (1 - 0.5) / 0.5 = 1; (0.2 - 0.5) / 0.5 = -0.6.
        let (values, width, height) = Preprocessor::new(config).run(image).expect("small");
        assert_eq!((values, width, height), (vec![-1.0, 1.0, -0.6], 1, 1));
    }
}
