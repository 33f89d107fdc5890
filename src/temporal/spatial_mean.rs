//! S2: the mean of each frame's tokens. One token a frame.
//!
//! # Shapes
//! `(T, N', H)` to `(T, H)`.

use candle_core::{Result, Tensor};

use super::{Fold, FrameTokens, Strategy, no_frames};

pub(super) struct SpatialMeans;

impl Strategy for SpatialMeans {
    fn n_tokens(&self, n_frames: usize, _: FrameTokens) -> usize {
        n_frames
    }

    fn explain(&self, n_frames: usize, _: FrameTokens) -> String {
        format!("{n_frames} frames x 1 token")
    }

    fn frame_rows(&self, _: FrameTokens) -> Option<usize> {
        Some(1)
    }

    fn begin(&self, _: FrameTokens) -> Box<dyn Fold> {
        Box::new(SpatialMean::default())
    }
}

#[derive(Default)]
pub(super) struct SpatialMean {
    means: Vec<Tensor>,
}

impl Fold for SpatialMean {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        self.means.push(frames.mean(1)?); // (t, H)
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        if self.means.is_empty() { Err(no_frames()) } else { Tensor::cat(&self.means, 0) }
    }
}
