//! S2: the mean of each frame's tokens. One token a frame.
//!
//! # Shapes
//! `(T, N', H)` to `(T, H)`.

use candle_core::{Result, Tensor};

use super::{Fold, no_frames};

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
