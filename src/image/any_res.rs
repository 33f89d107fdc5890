//! AnyRes (LLaVA-NeXT, LLaVA-OneVision): a single image as a base view of the whole and tiles at a higher resolution.
//!
//! Reference: `LlavaNextImageProcessor._get_image_patches` and `select_best_resolution` of transformers 5.24. Of the
//! checkpoint's resolutions (`image_grid_pinpoints`) the one is chosen that keeps the most pixels of the image, then
//! the one that wastes the least. The image is resized to it in proportion, padded with black on all sides, and cut
//! into squares of the tower's side, row by row. The base view is the image squeezed to that square.

use ::image::{RgbImage, imageops};

use super::config::PreprocessConfig;
use super::resize::{Resampling, resize};

/// The resolutions that images are brought to, and the resize that does it.
#[derive(Debug, Clone, PartialEq)]
pub struct AnyRes {
    /// Side of a view, in pixels: the tower's.
    side: u32,
    /// Width and height, multiples of the side, in the checkpoint's order.
    resolutions: Vec<Size>,
    resampling: Resampling,
}

/// Width and height.
type Size = (u32, u32);

/// The resolution that an image is brought to, and the tiles that it is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Width and height of the image.
    pub image: Size,
    /// Rows of tiles.
    pub rows: u32,
    /// Tiles of a row.
    pub columns: u32,
}

impl AnyRes {
    /// Resolutions for views of `side x side`, resized as `config` says.
    ///
    /// # Errors
    /// In words, for a resolution that is not made of such views.
    pub fn new(side: u32, resolutions: Vec<Size>, config: &PreprocessConfig) -> Result<Self, String> {
        let is_whole = |length: u32| length > 0 && length.is_multiple_of(side);
        if resolutions.is_empty() {
            return Err("image_grid_pinpoints names no resolution".to_owned());
        }
        if let Some((width, height)) =
            resolutions.iter().find(|(width, height)| !is_whole(*width) || !is_whole(*height))
        {
            return Err(format!(
                "image_grid_pinpoints has {height} x {width} (height, width), but a view of the tower is {side} x {side}"
            ));
        }
        Ok(Self { side, resolutions, resampling: Resampling { filter: config.filter, arithmetic: config.arithmetic } })
    }

    /// Side of a view, in pixels.
    pub fn side(&self) -> u32 {
        self.side
    }

    /// The tilings of images that have exactly one of the resolutions each.
    pub fn tilings(&self) -> impl Iterator<Item = Tiling> {
        self.resolutions.iter().map(|&size| self.tiling_at(size, size))
    }

    /// The tiling of an image of this width and height: `select_best_resolution`.
    pub fn tiling(&self, image: Size) -> Tiling {
        let (width, height) = (f64::from(image.0), f64::from(image.1));
        let n_pixels = u64::from(image.0) * u64::from(image.1);
        let (mut most_kept, mut least_wasted, mut best) = (0, u64::MAX, (self.side, self.side));
        for &resolution in &self.resolutions {
            let scale = (f64::from(resolution.0) / width).min(f64::from(resolution.1) / height);
            let n_scaled = (width * scale) as u64 * (height * scale) as u64;
            let n_kept = n_scaled.min(n_pixels);
            let n_wasted = u64::from(resolution.0) * u64::from(resolution.1) - n_kept;
            if n_kept > most_kept || (n_kept == most_kept && n_wasted < least_wasted) {
                (most_kept, least_wasted, best) = (n_kept, n_wasted, resolution);
            }
        }
        self.tiling_at(best, image)
    }

    fn tiling_at(&self, (width, height): Size, image: Size) -> Tiling {
        Tiling { image, rows: height / self.side, columns: width / self.side }
    }

    /// The views of an image: the base view, then the tiles of its tiling, each `side x side`.
    pub fn views(&self, image: &RgbImage, tiling: Tiling) -> Vec<RgbImage> {
        let side = self.side;
        let base = resize(image.clone(), (side, side), self.resampling);
        let resolution = (tiling.columns * side, tiling.rows * side);
        let size = fitted_size(image.dimensions(), resolution);
        let fitted = resize(image.clone(), size, self.resampling);
        let mut canvas = RgbImage::new(resolution.0, resolution.1);
        let (left, top) = ((resolution.0 - size.0) / 2, (resolution.1 - size.1) / 2);
        imageops::replace(&mut canvas, &fitted, i64::from(left), i64::from(top));
        let tile =
            |row: u32, column: u32| imageops::crop_imm(&canvas, column * side, row * side, side, side).to_image();
        let tiles = (0..tiling.rows).flat_map(|row| (0..tiling.columns).map(move |column| (row, column)));
        std::iter::once(base).chain(tiles.map(|(row, column)| tile(row, column))).collect()
    }
}

/// The largest size in proportion within a resolution, its free side rounded up: `get_patch_output_size`.
fn fitted_size((width, height): Size, (most_width, most_height): Size) -> Size {
    let scale_width = f64::from(most_width) / f64::from(width);
    let scale_height = f64::from(most_height) / f64::from(height);
    let fit = |length: u32, scale: f64, most: u32| ((f64::from(length) * scale).ceil() as u32).min(most);
    if scale_width < scale_height {
        (most_width, fit(height, scale_width, most_height))
    } else {
        (fit(width, scale_height, most_width), most_height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::Rgb;

    /// LLaVA-NeXT's resolutions, as width and height.
    const NEXT: [Size; 5] = [(672, 336), (336, 672), (672, 672), (336, 1008), (1008, 336)];

    fn any_res(side: u32, resolutions: &[Size]) -> AnyRes {
        AnyRes::new(side, resolutions.to_vec(), &PreprocessConfig::clip(side)).expect("whole views")
    }

    #[test]
    fn the_resolution_that_keeps_the_most_pixels_is_chosen_then_the_one_that_wastes_the_least() {
        let any_res = any_res(336, &NEXT);
        let tiles = |image| {
            let Tiling { rows, columns, .. } = any_res.tiling(image);
            (rows, columns)
        };
        // 1000 x 300 keeps 672 x 201 at 672 x 336, 1008 x 302 = all of its 300,000 pixels at 1008 x 336.
        assert_eq!(tiles((1000, 300)), (1, 3));
        assert_eq!(tiles((300, 1000)), (3, 1));
        // All five keep all of 100 x 100; the first that wastes the least has 2 tiles.
        assert_eq!(tiles((100, 100)), (1, 2));
        assert_eq!(tiles((2000, 1500)), (2, 2));
        // Half a row is none: nothing is kept at any of them.
        assert_eq!(tiles((2000, 1)), (1, 2));
    }

    #[test]
    fn tiles_are_cut_row_by_row_from_the_padded_image() {
        let any_res = any_res(2, &[(4, 4)]);
        // 4 x 3 fits 4 x 4 as it is: (4 - 3) / 2 = 0 rows of padding above, one below.
        let image = RgbImage::from_fn(4, 3, |x, y| Rgb([10 * y as u8 + x as u8 + 1, 0, 0]));
        let tiling = any_res.tiling((4, 3));
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
        assert_eq!(fitted_size((7, 3), (672, 336)), (672, 288));
        assert_eq!(fitted_size((300, 101), (672, 336)), (672, 227));
        assert_eq!(fitted_size((101, 300), (336, 672)), (227, 672));
        assert_eq!(fitted_size((5, 5), (672, 336)), (336, 336));
    }

    #[test]
    fn resolutions_that_are_not_made_of_views_are_refused() {
        let refused = |resolutions| AnyRes::new(336, resolutions, &PreprocessConfig::clip(336)).expect_err("refused");
        let rule = refused(vec![(672, 336), (500, 336)]);
        assert_eq!(rule, "image_grid_pinpoints has 336 x 500 (height, width), but a view of the tower is 336 x 336");
        assert_eq!(refused(Vec::new()), "image_grid_pinpoints names no resolution");
    }
}
