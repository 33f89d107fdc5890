//! AnyRes (LLaVA-NeXT, LLaVA-OneVision): a single image as a base view of the whole and tiles at a higher resolution.
//!
//! Reference: `LlavaNextImageProcessor._get_image_patches` and `select_best_resolution` of transformers 5.24. Among the
//! checkpoint's resolutions (`image_grid_pinpoints`), the chosen resolution keeps the most pixels of the image; ties go
//! to the least waste. The image is resized to that resolution in proportion, padded with black on all sides, and cut
//! into squares of the tower's side, row by row. The base view is the image squeezed to that square. Pixel values are
//! made of the views by [`super::Preprocessor`], tokens by `temporal::AnyRes`.

use ::image::{RgbImage, imageops};

use super::config::{ImageSize, PreprocessConfig};
use super::resize::{Resampling, resize};
use crate::error::{Error, Result};

/// Cuts images into views: the resolutions to choose from, and the resampling that reaches them.
#[derive(Debug, Clone, PartialEq)]
pub struct AnyResTiler {
    /// Side of a view in pixels, equal to the tower's.
    side: u32,
    /// Multiples of the side, in the checkpoint's order.
    resolutions: Vec<ImageSize>,
    resampling: Resampling,
}

/// Size of an image, and the tiles that it is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Size of the image before it is resized.
    pub image: ImageSize,
    /// Rows of tiles.
    pub rows: u32,
    /// Tiles of a row.
    pub columns: u32,
}

impl AnyResTiler {
    /// Makes a tiler for views of `side x side`, with the filter and the arithmetic of `config`.
    ///
    /// # Errors
    /// When there is no resolution, or a resolution whose sides are no multiples of `side`.
    pub fn new(side: u32, resolutions: Vec<ImageSize>, config: &PreprocessConfig) -> Result<Self> {
        let is_multiple = |length: u32| length > 0 && length.is_multiple_of(side);
        if resolutions.is_empty() {
            return Err(Error::invalid("image_grid_pinpoints names no resolution"));
        }
        let uneven = resolutions.iter().find(|size| !is_multiple(size.width) || !is_multiple(size.height));
        if let Some(ImageSize { width, height }) = uneven {
            return Err(Error::invalid(format!(
                "image_grid_pinpoints has {height} x {width} (height, width), but a view of the tower is {side} x {side}"
            )));
        }
        Ok(Self { side, resolutions, resampling: Resampling::of(config) })
    }

    /// Side of a view, in pixels.
    pub fn side(&self) -> u32 {
        self.side
    }

    /// Returns the tilings of images that have exactly one of the resolutions each.
    pub(crate) fn tilings(&self) -> impl Iterator<Item = Tiling> {
        self.resolutions.iter().map(|&size| self.tiling_at(size, size))
    }

    /// Returns the tiling of an image of this size: `select_best_resolution`.
    pub(crate) fn tiling(&self, image: ImageSize) -> Tiling {
        let n_pixels = image.n_pixels();
        let square = ImageSize { width: self.side, height: self.side };
        let (mut most_kept, mut least_wasted, mut best) = (0, u64::MAX, square);
        for &resolution in &self.resolutions {
            let scale_width = f64::from(resolution.width) / f64::from(image.width);
            let scale = scale_width.min(f64::from(resolution.height) / f64::from(image.height));
            let n_scaled = (f64::from(image.width) * scale) as u64 * (f64::from(image.height) * scale) as u64;
            let n_kept = n_scaled.min(n_pixels);
            let n_wasted = resolution.n_pixels() - n_kept;
            if n_kept > most_kept || (n_kept == most_kept && n_wasted < least_wasted) {
                (most_kept, least_wasted, best) = (n_kept, n_wasted, resolution);
            }
        }
        self.tiling_at(best, image)
    }

    fn tiling_at(&self, resolution: ImageSize, image: ImageSize) -> Tiling {
        Tiling { image, rows: resolution.height / self.side, columns: resolution.width / self.side }
    }

    /// Returns the views of an image: the base view, then the tiles of its tiling, each `side x side`.
    pub fn views(&self, image: &RgbImage, tiling: Tiling) -> Vec<RgbImage> {
        let side = self.side;
        let base = resize(image.clone(), ImageSize { width: side, height: side }, self.resampling);
        let resolution = ImageSize { width: tiling.columns * side, height: tiling.rows * side };
        let size = fitted_size(ImageSize::of(image), resolution);
        let fitted = resize(image.clone(), size, self.resampling);
        let mut canvas = RgbImage::new(resolution.width, resolution.height);
        let (left, top) = ((resolution.width - size.width) / 2, (resolution.height - size.height) / 2);
        imageops::replace(&mut canvas, &fitted, i64::from(left), i64::from(top));
        let tile =
            |row: u32, column: u32| imageops::crop_imm(&canvas, column * side, row * side, side, side).to_image();
        let tiles = (0..tiling.rows).flat_map(|row| (0..tiling.columns).map(move |column| (row, column)));
        std::iter::once(base).chain(tiles.map(|(row, column)| tile(row, column))).collect()
    }
}

/// Returns the largest size in proportion within a resolution, with the free side rounded up: `get_patch_output_size`.
fn fitted_size(image: ImageSize, within: ImageSize) -> ImageSize {
    let scale_width = f64::from(within.width) / f64::from(image.width);
    let scale_height = f64::from(within.height) / f64::from(image.height);
    let fit = |length: u32, scale: f64, max: u32| ((f64::from(length) * scale).ceil() as u32).min(max);
    if scale_width < scale_height {
        ImageSize { width: within.width, height: fit(image.height, scale_width, within.height) }
    } else {
        ImageSize { width: fit(image.width, scale_height, within.width), height: within.height }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::Rgb;

    /// LLaVA-NeXT's resolutions, as width and height.
    const NEXT: [(u32, u32); 5] = [(672, 336), (336, 672), (672, 672), (336, 1008), (1008, 336)];

    fn sizes(resolutions: &[(u32, u32)]) -> Vec<ImageSize> {
        resolutions.iter().map(|&size| size.into()).collect()
    }

    fn any_res(side: u32, resolutions: &[(u32, u32)]) -> AnyResTiler {
        AnyResTiler::new(side, sizes(resolutions), &PreprocessConfig::clip(side)).expect("multiples of the side")
    }

    #[test]
    fn the_resolution_that_keeps_the_most_pixels_is_chosen_then_the_one_that_wastes_the_least() {
        let any_res = any_res(336, &NEXT);
        let tiles = |image: (u32, u32)| {
            let Tiling { rows, columns, .. } = any_res.tiling(image.into());
            (rows, columns)
        };
        // 1000 x 300 keeps 672 x 201 at 672 x 336, 1008 x 302 = all of its 300,000 pixels at 1008 x 336.
        assert_eq!(tiles((1000, 300)), (1, 3));
        assert_eq!(tiles((300, 1000)), (3, 1));
        // All five keep all pixels of 100 x 100; the first with the least waste has 2 tiles.
        assert_eq!(tiles((100, 100)), (1, 2));
        assert_eq!(tiles((2000, 1500)), (2, 2));
        // Half a row rounds down to no row: nothing is kept at any resolution.
        assert_eq!(tiles((2000, 1)), (1, 2));
    }

    #[test]
    fn tiles_are_cut_row_by_row_from_the_padded_image() {
        let any_res = any_res(2, &[(4, 4)]);
        // 4 x 3 fits 4 x 4 as it is: (4 - 3) / 2 = 0 rows of padding above, one below.
        let image = RgbImage::from_fn(4, 3, |x, y| Rgb([10 * y as u8 + x as u8 + 1, 0, 0]));
        let tiling = any_res.tiling((4, 3).into());
        assert_eq!((tiling.rows, tiling.columns), (2, 2));
        let views = any_res.views(&image, tiling);
        let red = |view: &RgbImage| view.pixels().map(|pixel| pixel[0]).collect::<Vec<u8>>();
        assert_eq!(
            views.iter().skip(1).map(red).collect::<Vec<_>>(),
            [[1, 2, 11, 12], [3, 4, 13, 14], [21, 22, 0, 0], [23, 24, 0, 0]]
        );
        assert_eq!((views.len(), views[0].dimensions()), (5, (2, 2)));
    }

    #[test]
    fn the_free_side_is_rounded_up_within_the_resolution() {
        // 3 * 672 / 7 = 288; 101 * 672 / 300 = 226.2.
        let fitted =
            |image: (u32, u32), within: (u32, u32)| <(u32, u32)>::from(fitted_size(image.into(), within.into()));
        assert_eq!((672, 288), fitted((7, 3), (672, 336)));
        assert_eq!((672, 227), fitted((300, 101), (672, 336)));
        assert_eq!((227, 672), fitted((101, 300), (336, 672)));
        assert_eq!((336, 336), fitted((5, 5), (672, 336)));
    }

    #[test]
    fn resolutions_that_are_not_made_of_views_are_refused() {
        let refused = |resolutions: &[(u32, u32)]| {
            let error = AnyResTiler::new(336, sizes(resolutions), &PreprocessConfig::clip(336)).expect_err("refused");
            error.to_string()
        };
        let rule = refused(&[(672, 336), (500, 336)]);
        assert_eq!(rule, "image_grid_pinpoints has 336 x 500 (height, width), but a view of the tower is 336 x 336");
        assert_eq!(refused(&[]), "image_grid_pinpoints names no resolution");
    }
}
