//! D1: the frames one after the other, every token kept.
//!
//! # Shapes
//! `(T, N', H)` to `(T N', H)`.

use candle_core::{Result, Tensor};

use super::{Fold, no_frames};

#[derive(Default)]
pub(super) struct Concat {
    frames: Vec<Tensor>,
}

impl Fold for Concat {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        self.frames.push(frames.flatten_to(1)?); // (t N', H)
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        if self.frames.is_empty() { Err(no_frames()) } else { Tensor::cat(&self.frames, 0) }
    }
}
