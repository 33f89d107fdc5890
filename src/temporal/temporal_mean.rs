//! S1: the mean of the frames, token by token, behind the projector or before it. FreeVA's `N'` tokens, whatever the
//! frame count.
//!
//! # Shapes
//! `(T, N', H)` to `(N', H)`. A running sum in f32 is all that is kept.

use candle_core::{DType, Result, Tensor};

use super::{AggregationPoint, FrameFold, FrameTokens, Strategy, kernels_of, no_frames};

pub(super) struct TemporalMeanStrategy {
    pub(super) point: AggregationPoint,
}

impl Strategy for TemporalMeanStrategy {
    fn n_tokens(&self, _: usize, frame: FrameTokens) -> usize {
        frame.count
    }

    fn explain(&self, _: usize, frame: FrameTokens) -> String {
        format!("{} tokens of a mean frame", frame.count)
    }

    fn aggregation_point(&self) -> AggregationPoint {
        self.point
    }

    fn begin(&self, _: FrameTokens) -> Box<dyn FrameFold> {
        Box::new(TemporalMeanFold::default())
    }
}

#[derive(Default)]
pub(super) struct TemporalMeanFold {
    sum: Option<Tensor>,
    n_frames: usize,
    dtype: Option<DType>,
}

impl FrameFold for TemporalMeanFold {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        self.dtype = Some(frames.dtype());
        let kernels = kernels_of(frames);
        // Frame by frame, so that the rounding does not depend on how frames were batched.
        for t in 0..frames.dim(0)? {
            let frame = frames.get(t)?; // (N', H)
            self.sum = Some(kernels.accumulate(self.sum.take(), &frame)?);
            self.n_frames += 1;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        let (sum, dtype) = self.sum.zip(self.dtype).ok_or_else(no_frames)?;
        (sum / self.n_frames as f64)?.to_dtype(dtype)
    }
}
