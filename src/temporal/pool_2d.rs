//! Each frame's patch grid pooled to another one, then one frame after the other.
//!
//! # Shapes
//! `(T, Hg Wg, H)` to `(T h w, H)`. Reference: the spatial 2-D pools of apple/ml-slowfast-llava (arXiv 2407.15841).

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FrameFold, FrameTokens, Grid, PoolMode, Strategy, kernels_of, no_frames};

/// The pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pool2d {
    /// Reduction of the patches of a window to one. Default: `average`.
    pub mode: PoolMode,
    /// Rows that are left. Default: `12`.
    #[schemars(range(min = 1))]
    pub height: usize,
    /// Columns that are left. Default: `12`.
    #[schemars(range(min = 1))]
    pub width: usize,
}

impl Default for Pool2d {
    fn default() -> Self {
        Self { mode: PoolMode::Average, height: 12, width: 12 }
    }
}

impl Pool2d {
    fn to(self) -> Grid {
        Grid { height: self.height, width: self.width }
    }
}

impl Strategy for Pool2d {
    fn n_tokens(&self, n_frames: usize, _: FrameTokens) -> usize {
        n_frames.saturating_mul(self.height.saturating_mul(self.width))
    }

    fn explain(&self, n_frames: usize, _: FrameTokens) -> String {
        format!(
            "{n_frames} frames x {} tokens ({} x {})",
            self.height.saturating_mul(self.width),
            self.height,
            self.width
        )
    }

    fn check(&self, frame: FrameTokens) -> crate::error::Result<()> {
        frame.grid_for(self.height, self.width).map(|_| ())
    }

    fn frame_rows(&self, _: FrameTokens) -> Option<usize> {
        Some(self.height.saturating_mul(self.width))
    }

    fn begin(&self, frame: FrameTokens) -> Box<dyn FrameFold> {
        Box::new(Pool2dFold { config: *self, frame, pooled: Vec::new() })
    }
}

struct Pool2dFold {
    config: Pool2d,
    frame: FrameTokens,
    pooled: Vec<Tensor>,
}

impl FrameFold for Pool2dFold {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        let to = self.config.to();
        let from = self.frame.grid_for(to.height, to.width).map_err(candle_core::Error::msg)?;
        let pooled = kernels_of(frames).pool_grid(frames, &from.pool_to(to, self.config.mode))?; // (t, h w, H)
        self.pooled.push(pooled.flatten_to(1)?); // (t h w, H)
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        if self.pooled.is_empty() { Err(no_frames()) } else { Tensor::cat(&self.pooled, 0) }
    }
}
