//! D1: the frames one after the other, every token kept.
//!
//! # Shapes
//! `(T, N', H)` to `(T N', H)`.

use candle_core::{Result, Tensor};

use super::{FrameFold, FrameTokens, Strategy, no_frames};

pub(super) struct ConcatFrames;

impl Strategy for ConcatFrames {
    fn n_tokens(&self, n_frames: usize, frame: FrameTokens) -> usize {
        n_frames.saturating_mul(frame.count)
    }

    fn explain(&self, n_frames: usize, frame: FrameTokens) -> String {
        format!("{n_frames} frames x {} tokens", frame.count)
    }

    fn frame_rows(&self, frame: FrameTokens) -> Option<usize> {
        Some(frame.count)
    }

    fn begin(&self, _: FrameTokens) -> Box<dyn FrameFold> {
        Box::new(ConcatFold::default())
    }
}

#[derive(Default)]
pub(super) struct ConcatFold {
    frames: Vec<Tensor>,
}

impl FrameFold for ConcatFold {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        self.frames.push(frames.flatten_to(1)?); // (t N', H)
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        if self.frames.is_empty() { Err(no_frames()) } else { Tensor::cat(&self.frames, 0) }
    }
}
