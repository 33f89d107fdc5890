//! AnyRes (LLaVA-NeXT, LLaVA-OneVision): the views of one image as one sequence, the base view first, then the tiles as
//! one large grid.
//!
//! # Shapes
//! `(1 + R C, Hg Wg, H)` for `R x C` tiles to `(Hg Wg + h (w + 1), H)`: the tiles make a grid of `R Hg x C Wg` tokens,
//! of which those of the padding are cut off by the proportions of the image; LLaVA-OneVision interpolates what is
//! larger than `max_tiles` tiles (`interpolate(mode="bilinear", align_corners=False)`); the row `image_newline` ends
//! each row of the `h x w` that are left. Of an image of 1000 x 300 at 336 x 1008 with views of 24 x 24 patches:
//! 576 + 22 (72 + 1) = 2,182.
//!
//! Reference: `pack_image_features` and `unpad_image` of transformers 5.24, `modeling_llava_next.py` and
//! `modeling_llava_onevision.py`; `mm_patch_merge_type: spatial_unpad` of LLaVA-NeXT's code, `llava_arch.py`.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{Error, FrameFold, FrameTokens, Grid, PoolMode, Strategy, kernels_of};

/// The tiles of an image, and what is left of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnyRes {
    /// Width and height of the image, in pixels.
    pub image: (u32, u32),
    /// Rows of tiles.
    pub rows: usize,
    /// Tiles of a row.
    pub columns: usize,
    /// Rounding of the side without the padding.
    pub unpad: Unpad,
    /// Tokens beyond those of this number of tiles are interpolated away (`anyres_max_9`), where the family does that.
    pub max_tiles: Option<usize>,
}

/// Rounding of a length to whole tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unpad {
    /// `int(round(length, 7))`, as transformers does it.
    Rounded,
    /// `int(length)`, as LLaVA's code does it.
    Truncated,
}

/// More tokens than allowed by this factor along a side are interpolated away.
const SLACK: f64 = 1.1;

impl AnyRes {
    /// Returns the grid of all tiles.
    fn tiled(self, view: Grid) -> Grid {
        Grid { height: self.rows * view.height, width: self.columns * view.width }
    }

    /// Returns the part of the tiles' grid without the padding; it is centred.
    fn unpadded(self, view: Grid) -> Grid {
        let tiled = self.tiled(view);
        let (width, height) = (f64::from(self.image.0), f64::from(self.image.1));
        let (grid_width, grid_height) = (tiled.width as f64, tiled.height as f64);
        let whole = |length: f64| match self.unpad {
            // What is that little below a whole number is one.
            Unpad::Rounded => (length + 0.5e-7) as usize,
            Unpad::Truncated => length as usize,
        };
        let left = |have: usize, want: usize| have - (have - want.min(have)) / 2 * 2;
        if width / height > grid_width / grid_height {
            Grid { height: left(tiled.height, whole(height * (grid_width / width))), ..tiled }
        } else {
            Grid { width: left(tiled.width, whole(width * (grid_height / height))), ..tiled }
        }
    }

    /// Returns the grid of the packed tokens.
    fn packed(self, view: Grid) -> Grid {
        let unpadded = self.unpadded(view);
        let Some(max_tiles) = self.max_tiles else { return unpadded };
        let ratio = (unpadded.n_patches() as f64 / (max_tiles * view.height * view.height) as f64).sqrt();
        if ratio > SLACK {
            Grid { height: floor_division(unpadded.height, ratio), width: floor_division(unpadded.width, ratio) }
        } else {
            unpadded
        }
    }

    /// Returns a packing of views whose rows end with this row, `(H)`.
    pub(super) fn packing(self, frame: FrameTokens, newline: Option<Tensor>) -> Box<dyn FrameFold> {
        Box::new(AnyResFold { config: self, frame, newline, views: Vec::new() })
    }
}

/// Python's `length // ratio`, which rounds the exact quotient, not the nearest float to it.
fn floor_division(length: usize, ratio: f64) -> usize {
    let length = length as f64;
    ((length - length % ratio) / ratio).round() as usize
}

impl Strategy for AnyRes {
    fn n_tokens(&self, _: usize, frame: FrameTokens) -> usize {
        let packed = frame.grid.map(|view| self.packed(view));
        frame.count + packed.map_or(0, |grid| grid.height * (grid.width + 1))
    }

    fn explain(&self, _: usize, frame: FrameTokens) -> String {
        let Some(packed) = frame.grid.map(|view| self.packed(view)) else { return "no grid of patches".to_owned() };
        format!(
            "{} tokens of the base view + {} rows x ({} tokens + 1 newline) of {} x {} tiles",
            frame.count, packed.height, packed.width, self.rows, self.columns
        )
    }

    fn check(&self, frame: FrameTokens) -> crate::error::Result<()> {
        if !frame.has_newline {
            return Err(Error::invalid("ends rows of tokens with the row image_newline, which the checkpoint lacks")
                .with_hint("single_image: frame"));
        }
        frame.grid_for(1, 1).map(|_| ())
    }

    fn frame_rows(&self, frame: FrameTokens) -> Option<usize> {
        Some(self.n_tokens(1, frame))
    }

    fn begin(&self, frame: FrameTokens) -> Box<dyn FrameFold> {
        self.packing(frame, None)
    }
}

struct AnyResFold {
    config: AnyRes,
    frame: FrameTokens,
    newline: Option<Tensor>,
    /// The base view, then the tiles row by row, each `(1, N', H)`.
    views: Vec<Tensor>,
}

impl FrameFold for AnyResFold {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        self.views.push(frames.clone());
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        let Self { config, frame, newline, views } = *self;
        let view = frame.grid_for(1, 1).map_err(candle_core::Error::msg)?;
        let newline = newline.ok_or_else(|| candle_core::Error::msg("no row to end rows of tokens with"))?;
        let views = if views.is_empty() { return Err(super::no_frames()) } else { Tensor::cat(&views, 0)? };
        let (n_views, _, d) = views.dims3()?; // (1 + R C, N', H)
        let AnyRes { rows, columns, .. } = config;
        if n_views != 1 + rows * columns {
            candle_core::bail!("{n_views} views of an image of {rows} x {columns} tiles and a base view");
        }
        let (tiled, unpadded, packed) = (config.tiled(view), config.unpadded(view), config.packed(view));
        let base = views.get(0)?; // (N', H)
        if packed.n_patches() == 0 {
            // Rows without a token are ended all the same.
            return with_newlines(&base, None, packed, &newline);
        }
        let tiles = views
            .narrow(0, 1, rows * columns)?
            .reshape((rows, columns, view.height, view.width * d))?
            .transpose(1, 2)? // (R, Hg, C, Wg H)
            .contiguous()?
            .reshape((tiled.height, tiled.width, d))?;
        let (top, left) = ((tiled.height - unpadded.height) / 2, (tiled.width - unpadded.width) / 2);
        let tiles = tiles.narrow(0, top, unpadded.height)?.narrow(1, left, unpadded.width)?.contiguous()?;
        let tiles = tiles.reshape((1, unpadded.n_patches(), d))?;
        let tiles = match packed == unpadded {
            true => tiles,
            false => kernels_of(&tiles).pool_grid(&tiles, &unpadded.pool_to(packed, PoolMode::Bilinear))?,
        };
        with_newlines(&base, Some(tiles.reshape((packed.height, packed.width, d))?), packed, &newline)
    }
}

/// Returns the base view's tokens, then those of the rows, each ended by the newline row.
fn with_newlines(base: &Tensor, rows: Option<Tensor>, grid: Grid, newline: &Tensor) -> Result<Tensor> {
    let d = base.dim(1)?;
    let newline = newline.to_device(base.device())?.to_dtype(base.dtype())?;
    if grid.height == 0 {
        return Ok(base.clone());
    }
    let ends = newline.reshape((1, 1, d))?.broadcast_as((grid.height, 1, d))?.contiguous()?;
    let rows = match rows {
        Some(rows) => Tensor::cat(&[&rows, &ends], 1)?, // (h, w + 1, H)
        None => ends,
    };
    Tensor::cat(&[base, &rows.flatten_to(1)?], 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn on_grid(height: usize, width: usize) -> FrameTokens {
        FrameTokens { has_newline: true, ..FrameTokens::on_grid(Grid { height, width }) }
    }

    fn any_res(image: (u32, u32), (rows, columns): (usize, usize)) -> AnyRes {
        AnyRes { image, rows, columns, unpad: Unpad::Rounded, max_tiles: None }
    }

    #[test]
    fn counts_are_those_of_the_processors() {
        let count = |any_res: AnyRes, side| any_res.n_tokens(1, on_grid(side, side));
        // 300 * 72 / 1000 = 21.6 rows of 24: one row on either side is padding.
        let wide = any_res((1000, 300), (1, 3));
        assert_eq!(count(wide, 24), 576 + 22 * 73);
        assert_eq!(
            wide.explain(1, on_grid(24, 24)),
            "576 tokens of the base view + 22 rows x (72 tokens + 1 newline) of 1 x 3 tiles"
        );
        // Upright: 72 rows of 22 tokens.
        assert_eq!(count(any_res((300, 1000), (3, 1)), 24), 576 + 72 * 23);
        assert_eq!(count(any_res((700, 700), (2, 2)), 24), 576 + 48 * 49);
        // 1500 * 48 / 2000 = 36 of 48 rows.
        assert_eq!(count(any_res((2000, 1500), (2, 2)), 24), 576 + 36 * 49);
        // 162 x 162 tokens are 36 tiles, 4 times nine: the ratio is 2.
        let large = AnyRes { max_tiles: Some(9), ..any_res((2304, 2304), (6, 6)) };
        assert_eq!(count(large, 27), 729 + 81 * 82);
        // 10 tiles of nine are within the slack: sqrt(10 / 9) = 1.054.
        let within = AnyRes { max_tiles: Some(9), ..any_res((1920, 768), (2, 5)) };
        assert_eq!(count(within, 27), 729 + 54 * 136);
    }

    #[test]
    fn lengths_a_rounding_below_a_whole_number_are_cut_by_llavas_code_alone() {
        // 423 * (48 / 752) = 26.999999999999996: of 48 rows 27 leave (48 - 27) / 2 = 10 on either side, 26 leave 11.
        let height =
            |unpad| AnyRes { unpad, ..any_res((752, 423), (2, 2)) }.unpadded(Grid { height: 24, width: 24 }).height;
        assert_eq!((height(Unpad::Rounded), height(Unpad::Truncated)), (28, 26));
    }

    #[test]
    fn an_image_without_a_row_of_its_own_is_its_base_view() {
        let views = Tensor::zeros((3, 4, 1), DType::F32, &Device::Cpu).expect("small");
        let row = Tensor::ones(1, DType::F32, &Device::Cpu).expect("small");
        // An upright one has rows without a token, which the newline ends all the same.
        for (hairline, n_newlines) in [(any_res((2000, 1), (1, 2)), [0, 0]), (any_res((1, 2000), (2, 1)), [48, 4])] {
            assert_eq!(hairline.n_tokens(1, on_grid(24, 24)), 576 + n_newlines[0]);
            let mut fold = hairline.packing(on_grid(2, 2), Some(row.clone()));
            fold.push(&views).expect("any");
            let sum = fold.finish().and_then(|tokens| tokens.sum_all()?.to_scalar::<f32>()).expect("three views");
            assert_eq!(sum, n_newlines[1] as f32);
        }
    }

    #[test]
    fn tiles_are_one_grid_without_padding_whose_rows_end_with_the_newline() {
        // A base view of 0, two tiles side by side of 2 x 2 tokens: 10 y + x over 2 x 4; half of the rows is padding of
        // an image of 4 x 1: 1 * 4 / 4 = 1 of 2 rows, and (2 - 1) / 2 = 0 is cut on either side.
        let views = [[0f32; 4], [0.0, 1.0, 10.0, 11.0], [2.0, 3.0, 12.0, 13.0]];
        let row = Tensor::new(&[9f32], &Device::Cpu).expect("small");
        let packed = |image| {
            let mut fold = any_res(image, (1, 2)).packing(on_grid(2, 2), Some(row.clone()));
            for view in views {
                fold.push(&Tensor::from_slice(&view, (1, 4, 1), &Device::Cpu)?)?;
            }
            fold.finish()?.flatten_all()?.to_vec1::<f32>()
        };
        let whole = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 9.0, 10.0, 11.0, 12.0, 13.0, 9.0];
        assert_eq!(packed((4, 1)).expect("three views"), whole);
        // Of an image of 1 x 1 the outer column on either side is padding.
        assert_eq!(packed((1, 1)).expect("three views"), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 9.0, 11.0, 12.0, 9.0]);
    }

    #[test]
    fn other_numbers_of_views_and_models_without_the_row_are_refused() {
        let frame = on_grid(2, 2);
        let row = Tensor::new(&[9f32], &Device::Cpu).expect("small");
        let mut fold = any_res((4, 1), (1, 2)).packing(frame, Some(row));
        fold.push(&Tensor::zeros((2, 4, 1), DType::F32, &Device::Cpu).expect("small")).expect("any");
        let error = fold.finish().expect_err("one view is missing").to_string();
        assert!(error.contains("2 views of an image of 1 x 2 tiles and a base view"), "{error}");
        let without = FrameTokens { has_newline: false, ..frame };
        assert!(
            any_res((4, 1), (1, 2)).check(without).expect_err("no row").to_string().contains("single_image: frame")
        );
        assert!(any_res((4, 1), (1, 2)).check(FrameTokens { has_newline: true, ..FrameTokens::loose(5) }).is_err());
    }
}
