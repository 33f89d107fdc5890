//! From an RGB frame to the tower's pixel values.
//!
//! The steps and their order are those of LLaVA's `expand2square` and Hugging Face's `CLIPImageProcessor` and
//! `SiglipImageProcessor`: pad, resize on u8, centre crop, rescale, normalise. [`super::ImageProcessor`] brings the
//! steps of the other classes to this order.

use ::image::{Rgb, RgbImage, imageops};

use super::config::{PreprocessConfig, Resize};
use super::plan::FramePlan;
use super::resize::{Resampling, resize, taps};
use crate::error::{Error, Kind};

/// A padded square beyond this would take over 800 MB.
const MAX_PADDED_SIDE: u32 = 16_384;

/// Prepares frames after one configuration.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    config: PreprocessConfig,
    /// The normalised value of every level, a channel.
    levels: [[f32; 256]; 3],
}

impl Preprocessor {
    /// A preprocessor for `config`.
    pub fn new(config: PreprocessConfig) -> Self {
        let mut levels = [[0.0; 256]; 3];
        for (channel, table) in levels.iter_mut().enumerate() {
            for (level, value) in table.iter_mut().enumerate() {
                *value = ((level as f64 * config.rescale - config.mean[channel]) / config.std[channel]) as f32;
            }
        }
        Self { config, levels }
    }

    /// What it was made from.
    pub fn config(&self) -> &PreprocessConfig {
        &self.config
    }

    /// Prepares one frame: pixel values, their width and their height.
    ///
    /// # Shapes
    /// The values are `(3, height, width)`, row-major.
    ///
    /// # Errors
    /// [`Error`] for a frame too large to pad.
    pub fn run(&self, picture: RgbImage) -> Result<(Vec<f32>, u32, u32), Error> {
        let picture = self.picture(picture)?;
        Ok((self.normalise(&picture), picture.width(), picture.height()))
    }

    /// The u8 picture that is normalised: padded, resized, cropped.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn picture(&self, picture: RgbImage) -> Result<RgbImage, Error> {
        let picture = match self.config.pad {
            Some(colour) => pad_to_square(picture, colour)?,
            None => picture,
        };
        let target = target_size(self.config.resize, picture.dimensions());
        let resampling = Resampling { filter: self.config.filter, arithmetic: self.config.arithmetic };
        let picture = resize(picture, target, resampling);
        let picture = match self.config.squeeze {
            Some(size) => resize(picture, size, resampling),
            None => picture,
        };
        Ok(match self.config.crop {
            Some(size) => centre_crop(picture, size),
            None => picture,
        })
    }

    /// Whether frames are resized once at most, and so can be prepared by tables: see [`Self::plan`].
    pub fn has_plan(&self) -> bool {
        self.config.squeeze.is_none()
    }

    /// The preparation of frames of this width and height as tables, of a preprocessor that [`Self::has_plan`].
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn plan(&self, frame: (u32, u32)) -> Result<FramePlan, Error> {
        let config = &self.config;
        let (canvas, offset) = match config.pad {
            Some(_) => square(frame)?,
            None => (frame, (0, 0)),
        };
        let resized = target_size(config.resize, canvas);
        let size = config.crop.unwrap_or(resized);
        let resampling = Resampling { filter: config.filter, arithmetic: config.arithmetic };
        Ok(FramePlan {
            frame,
            canvas_height: canvas.1,
            offset,
            colour: config.pad.unwrap_or_default(),
            horizontal: taps(canvas.0, resized.0, resampling),
            vertical: taps(canvas.1, resized.1, resampling),
            crop: (crop_offset(resized.0, size.0) as i32, crop_offset(resized.1, size.1) as i32),
            size,
            levels: self.levels,
        })
    }

    fn normalise(&self, picture: &RgbImage) -> Vec<f32> {
        let plane = (picture.width() * picture.height()) as usize;
        let mut values = vec![0.0; 3 * plane];
        let (red, rest) = values.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        for (i, pixel) in picture.as_raw().chunks_exact(3).enumerate() {
            red[i] = self.levels[0][pixel[0] as usize];
            green[i] = self.levels[1][pixel[1] as usize];
            blue[i] = self.levels[2][pixel[2] as usize];
        }
        values
    }
}

/// LLaVA's `expand2square`: the picture in the middle, `(long - short) / 2` rounded down from the edge.
fn pad_to_square(picture: RgbImage, colour: [u8; 3]) -> Result<RgbImage, Error> {
    let (size, (left, top)) = square(picture.dimensions())?;
    if picture.dimensions() == size {
        return Ok(picture);
    }
    let mut square = RgbImage::from_pixel(size.0, size.1, Rgb(colour));
    imageops::replace(&mut square, &picture, i64::from(left), i64::from(top));
    Ok(square)
}

/// Width and height, or left and top.
type Pair = (u32, u32);

/// Size of the square around a picture, and the position of its corner there.
fn square((width, height): Pair) -> Result<(Pair, Pair), Error> {
    let side = width.max(height);
    if width != height && side > MAX_PADDED_SIDE {
        let rule = format!(
            "a frame of {width} x {height} pixels would be padded to {side} x {side}, over the limit of {MAX_PADDED_SIDE} a side"
        );
        return Err(Error::new(Kind::Preprocess, rule));
    }
    Ok(((side, side), ((side - width) / 2, (side - height) / 2)))
}

/// The size after the resize, with the roundings of transformers: `int(size * long / short)` for the longer side.
fn target_size(resize: Resize, (width, height): (u32, u32)) -> (u32, u32) {
    match resize {
        Resize::None => (width, height),
        Resize::Exact { width, height } => (width, height),
        Resize::ShortestEdge(size) => {
            let longer = |long: u32, short: u32| {
                // A line of pixels would grow beyond all bounds; the crop takes its middle anyway.
                (u64::from(size) * u64::from(long) / u64::from(short)).min(u64::from(MAX_PADDED_SIDE)) as u32
            };
            if width <= height { (size, longer(height, width)) } else { (longer(width, height), size) }
        }
        Resize::LongestEdge(size) => longest_edge(size, (width, height)),
        Resize::Edges { shortest, longest } => edges((shortest, longest), (width, height)),
        Resize::Within { width: most_width, height: most_height } => {
            let scale = (f64::from(most_height) / f64::from(height)).min(f64::from(most_width) / f64::from(width));
            let scaled = |side: u32| ((f64::from(side) * scale) as u32).max(1);
            (scaled(width), scaled(height))
        }
    }
}

/// `_resize_output_size_rescale_to_max_len` of Idefics3: the shorter side is rounded down, then made even.
fn longest_edge(size: u32, (width, height): (u32, u32)) -> (u32, u32) {
    let ratio = f64::from(width) / f64::from(height);
    let even = |side: f64| (side as u32).next_multiple_of(2).max(1);
    if width >= height { (size, even(f64::from(size) / ratio)) } else { (even(f64::from(size) * ratio), size) }
}

/// `get_size_with_aspect_ratio` of transformers.
fn edges((shortest, longest): (u32, u32), (width, height): (u32, u32)) -> (u32, u32) {
    let (short, long) = (f64::from(width.min(height)), f64::from(width.max(height)));
    let is_over = long / short * f64::from(shortest) > f64::from(longest);
    let exact = if is_over { f64::from(longest) * short / long } else { f64::from(shortest) };
    let shorter = (exact.round_ties_even() as u32).max(1);
    if f64::from(shorter) == short {
        return (width, height);
    }
    let longer = ((exact * long / short) as u32).clamp(1, MAX_PADDED_SIDE);
    if width < height { (shorter, longer) } else { (longer, shorter) }
}

/// Cuts the middle out; where the picture is smaller than the cut, black is laid around it.
fn centre_crop(picture: RgbImage, (width, height): (u32, u32)) -> RgbImage {
    if picture.dimensions() == (width, height) {
        return picture;
    }
    let (left, top) = (crop_offset(picture.width(), width), crop_offset(picture.height(), height));
    let mut cut = RgbImage::new(width, height);
    imageops::replace(&mut cut, &picture, -left, -top);
    cut
}

/// Edge of the middle part of a side; negative where the side is shorter.
fn crop_offset(have: u32, want: u32) -> i64 {
    (i64::from(have) - i64::from(want)).div_euclid(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_puts_an_odd_rest_after_the_picture() {
        let picture = RgbImage::from_pixel(3, 2, Rgb([9, 9, 9]));
        let square = pad_to_square(picture, [1, 2, 3]).expect("small");
        // (3 - 2) / 2 = 0: the picture starts at the top, the last row is padding.
        assert_eq!(square.get_pixel(0, 0), &Rgb([9, 9, 9]));
        assert_eq!(square.get_pixel(0, 2), &Rgb([1, 2, 3]));
    }

    #[test]
    fn a_hairline_picture_is_refused_before_it_is_padded() {
        let error = pad_to_square(RgbImage::new(20_000, 1), [0; 3]).expect_err("too large");
        assert_eq!(
            error.to_string(),
            "a frame of 20000 x 1 pixels would be padded to 20000 x 20000, over the limit of 16384 a side"
        );
    }

    #[test]
    fn the_crop_takes_the_middle() {
        let picture = RgbImage::from_fn(5, 4, |x, y| Rgb([x as u8, y as u8, 0]));
        let cut = centre_crop(picture, (2, 2));
        // (5 - 2) / 2 = 1 from the left, (4 - 2) / 2 = 1 from the top.
        assert_eq!(cut.get_pixel(0, 0), &Rgb([1, 1, 0]));
    }

    #[test]
    fn sides_are_rounded_as_transformers_rounds_them() {
        let edges = Resize::Edges { shortest: 224, longest: 300 };
        // 640 / 480 * 224 = 298.7 fits; 1920 / 1080 * 224 = 398 does not: 300 * 1080 / 1920 = 168.75, rounded to 169.
        assert_eq!(target_size(edges, (640, 480)), (298, 224));
        assert_eq!(target_size(edges, (1920, 1080)), (300, 169));
        assert_eq!(target_size(edges, (1080, 1920)), (169, 300));
        assert_eq!(target_size(edges, (224, 224)), (224, 224));
        // 1152 as it is; 2048 * 101 / 300 = 689.5, made even; upright the same.
        assert_eq!(target_size(Resize::LongestEdge(2048), (1920, 1080)), (2048, 1152));
        assert_eq!(target_size(Resize::LongestEdge(2048), (300, 101)), (2048, 690));
        assert_eq!(target_size(Resize::LongestEdge(2048), (101, 300)), (690, 2048));
        // 100 / 480 is the smaller scale: 640 * 100 / 480 = 133.3.
        assert_eq!(target_size(Resize::Within { width: 200, height: 100 }, (640, 480)), (133, 100));
    }

    #[test]
    fn pixel_values_are_planes_of_normalised_levels() {
        let config = PreprocessConfig::siglip(1);
        let picture = RgbImage::from_pixel(1, 1, Rgb([0, 255, 51]));
        // (0 - 0.5) / 0.5 = -1; (1 - 0.5) / 0.5 = 1; (0.2 - 0.5) / 0.5 = -0.6.
        let (values, width, height) = Preprocessor::new(config).run(picture).expect("small");
        assert_eq!((values, width, height), (vec![-1.0, 1.0, -0.6], 1, 1));
    }
}
