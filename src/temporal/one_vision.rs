//! LLaVA-OneVision's video (arXiv 2408.03326): each frame's grid interpolated to `ceil(side / stride)`, one frame after
//! the other, then one newline row.
//!
//! # Shapes
//! `(T, Hg Wg, H)` to `(T ceil(Hg / stride) ceil(Wg / stride) + 1, H)`. Of 32 frames of 27 x 27 patches: 32 x 196 + 1 =
//! 6,273. The pool is `interpolate(mode="bilinear", align_corners=False)` behind the projector (`apply_pooling` of
//! `modeling_llava_onevision.py`); the row is the checkpoint's `image_newline`.

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Error, FrameFold, FrameTokens, Grid, PoolMode, Strategy, kernels_of, no_frames};

/// The pool, and the row behind the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OneVision {
    /// Patches along each side of a frame for one that is left, the last of which may be fewer. Default: `2`.
    #[schemars(range(min = 1))]
    pub stride: usize,
    /// The row behind the frames. Default: `end`.
    pub newline: NewlineRow,
}

/// The row behind the frames of a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NewlineRow {
    /// The checkpoint's `image_newline`, once, behind the last frame.
    End,
    /// No row: for checkpoints without one.
    None,
}

impl Default for OneVision {
    fn default() -> Self {
        Self { stride: 2, newline: NewlineRow::End }
    }
}

impl OneVision {
    fn to(self, from: Grid) -> Grid {
        let stride = self.stride.max(1);
        Grid { height: from.height.div_ceil(stride), width: from.width.div_ceil(stride) }
    }

    /// Tokens of one frame.
    fn of_frame(self, frame: FrameTokens) -> usize {
        frame.grid.map_or(0, |grid| self.to(grid).n_patches())
    }

    fn n_rows(self) -> usize {
        usize::from(self.newline == NewlineRow::End)
    }
}

impl Strategy for OneVision {
    fn n_tokens(&self, n_frames: usize, frame: FrameTokens) -> usize {
        n_frames.saturating_mul(self.of_frame(frame)).saturating_add(self.n_rows())
    }

    fn explain(&self, n_frames: usize, frame: FrameTokens) -> String {
        let (each, to) = (self.of_frame(frame), frame.grid.map(|grid| self.to(grid)));
        let sides = to.map(|to| format!(" ({} x {})", to.height, to.width)).unwrap_or_default();
        let row = if self.n_rows() > 0 { " + 1 newline row" } else { "" };
        format!("{n_frames} frames x {each} tokens{sides}{row}")
    }

    fn check(&self, frame: FrameTokens) -> crate::error::Result<()> {
        if self.stride == 0 {
            return Err(Error::invalid("has a stride of 0").with_hint("2"));
        }
        if self.newline == NewlineRow::End && !frame.has_newline {
            return Err(Error::invalid("ends the frames with the row image_newline, which the checkpoint lacks")
                .with_hint("one_vision:newline=none"));
        }
        frame.grid_for(1, 1).map(|_| ())
    }

    fn frame_rows(&self, frame: FrameTokens) -> Option<usize> {
        Some(self.of_frame(frame))
    }

    fn newline(&self) -> NewlineRow {
        self.newline
    }

    fn begin(&self, frame: FrameTokens) -> Box<dyn FrameFold> {
        Box::new(OneVisionFold { config: *self, frame, pooled: Vec::new() })
    }
}

struct OneVisionFold {
    config: OneVision,
    frame: FrameTokens,
    pooled: Vec<Tensor>,
}

impl FrameFold for OneVisionFold {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        let from = self.frame.grid_for(1, 1).map_err(candle_core::Error::msg)?;
        let pool = from.pool_to(self.config.to(from), PoolMode::Bilinear);
        self.pooled.push(kernels_of(frames).pool_grid(frames, &pool)?.flatten_to(1)?); // (t h w, H)
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        if self.pooled.is_empty() { Err(no_frames()) } else { Tensor::cat(&self.pooled, 0) }
    }
}

/// A fold whose sequence ends with a newline row.
pub(super) struct NewlineFold {
    pub(super) fold: Box<dyn FrameFold>,
    /// `(H)`.
    pub(super) row: Tensor,
}

impl FrameFold for NewlineFold {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        self.fold.push(frames)
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        let frames = self.fold.finish()?;
        let row = self.row.to_device(frames.device())?.to_dtype(frames.dtype())?.unsqueeze(0)?;
        Tensor::cat(&[frames, row], 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temporal::Temporal;
    use candle_core::Device;

    #[test]
    fn counts_are_those_of_the_paper() {
        let frame = FrameTokens { has_newline: true, ..FrameTokens::on_grid(Grid { height: 27, width: 27 }) };
        let strategy = OneVision::default();
        assert_eq!(strategy.n_tokens(32, frame), 6273);
        assert!(strategy.check(frame).is_ok());
        assert_eq!(strategy.explain(32, frame), "32 frames x 196 tokens (14 x 14) + 1 newline row");
        let without = FrameTokens { has_newline: false, ..frame };
        assert!(strategy.check(without).expect_err("no row").to_string().ends_with("hint: one_vision:newline=none"));
        assert!(OneVision { newline: NewlineRow::None, ..strategy }.check(without).is_ok());
    }

    #[test]
    fn odd_grids_are_interpolated_and_the_row_comes_last() {
        // 3 x 1 patches to 2 x 1: at 0.25 and 1.75 of 0, 4, 8 lie 1 and 7.
        let frame = FrameTokens { has_newline: true, ..FrameTokens::on_grid(Grid { height: 3, width: 1 }) };
        let row = Tensor::new(&[9f32], &Device::Cpu).expect("small");
        let mut fold = Temporal::OneVision(OneVision::default()).begin_with(frame, Some(row));
        for _ in 0..2 {
            let tokens = Tensor::new(&[[[0f32], [4.0], [8.0]]], &Device::Cpu).expect("small");
            fold.push(&tokens).expect("it fits");
        }
        let out = fold.finish().and_then(|out| out.flatten_all()?.to_vec1::<f32>()).expect("two frames came");
        assert_eq!(out, [1.0, 7.0, 1.0, 7.0, 9.0]);
    }
}
