//! Resizing on u8 as Pillow does it: antialiased convolution, horizontal pass first, rounded in between.

use ::image::RgbImage;
use fast_image_resize as fir;
use fir::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};

use super::config::{Filter, PreprocessError};

/// Resizes to `width` x `height`. A side that has its length already is not touched.
pub(super) fn resize(
    picture: RgbImage,
    (width, height): (u32, u32),
    filter: Filter,
) -> Result<RgbImage, PreprocessError> {
    let (from_width, from_height) = picture.dimensions();
    let failed = |cause: String| PreprocessError::Resize { width: from_width, height: from_height, cause };
    // Two calls fix the order: what the first pass clips at black and white is lost to the second.
    let widened = pass(picture, (width, from_height), filter).map_err(&failed)?;
    pass(widened, (width, height), filter).map_err(failed)
}

/// One call of the library, along one side.
fn pass(picture: RgbImage, (width, height): (u32, u32), filter: Filter) -> Result<RgbImage, String> {
    let (from_width, from_height) = picture.dimensions();
    if (from_width, from_height) == (width, height) {
        return Ok(picture);
    }
    let source = Image::from_vec_u8(from_width, from_height, picture.into_raw(), PixelType::U8x3);
    let source = source.map_err(|error| error.to_string())?;
    let mut target = Image::new(width, height, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(algorithm(filter)).use_alpha(false);
    Resizer::new().resize(&source, &mut target, &options).map_err(|error| error.to_string())?;
    RgbImage::from_raw(width, height, target.into_vec()).ok_or_else(|| "short picture".to_owned())
}

fn algorithm(filter: Filter) -> ResizeAlg {
    match filter {
        Filter::Nearest => ResizeAlg::Nearest,
        Filter::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
        Filter::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        // Pillow's bicubic has a = -0.5, which is Catmull and Rom's.
        Filter::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Filter::Box => ResizeAlg::Convolution(FilterType::Box),
        Filter::Hamming => ResizeAlg::Convolution(FilterType::Hamming),
    }
}
