//! S2: the mean of each frame's tokens. One token a frame.
//!
//! # Shapes
//! `(T, N', H)` to `(T, H)`.

use candle_core::{Result, Tensor};

use super::{FrameFold, FrameTokens, Strategy, no_frames};

pub(super) struct SpatialMeanStrategy;

impl Strategy for SpatialMeanStrategy {
    fn n_tokens(&self, n_frames: usize, _: FrameTokens) -> usize {
        n_frames
    }

    fn explain(&self, n_frames: usize, _: FrameTokens) -> String {
        format!("{n_frames} frames x 1 token")
    }

    fn frame_rows(&self, _: FrameTokens) -> Option<usize> {
        Some(1)
    }

    fn begin(&self, _: FrameTokens) -> Box<dyn FrameFold> {
        Box::new(SpatialMeanFold::default())
    }
}

#[derive(Default)]
pub(super) struct SpatialMeanFold {
    means: Vec<Tensor>,
}

impl FrameFold for SpatialMeanFold {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        self.means.push(frames.mean(1)?); // (t, H)
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        if self.means.is_empty() { Err(no_frames()) } else { Tensor::cat(&self.means, 0) }
    }
}
