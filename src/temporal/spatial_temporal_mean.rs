//! S3: the spatial means of all frames (S2), then the temporal means of all tokens (S1).
//!
//! # Shapes
//! `(T, N', H)` to `(T + N', H)`.

use candle_core::{Result, Tensor};

use super::spatial_mean::SpatialMean;
use super::temporal_mean::TemporalMean;
use super::{Fold, FrameTokens, Strategy};

pub(super) struct SpatialTemporalMeans;

impl Strategy for SpatialTemporalMeans {
    fn n_tokens(&self, n_frames: usize, frame: FrameTokens) -> usize {
        n_frames.saturating_add(frame.count)
    }

    fn explain(&self, n_frames: usize, frame: FrameTokens) -> String {
        format!("{n_frames} frames + {} tokens of a mean frame", frame.count)
    }

    fn begin(&self, _: FrameTokens) -> Box<dyn Fold> {
        Box::new(SpatialTemporalMean::default())
    }
}

#[derive(Default)]
pub(super) struct SpatialTemporalMean {
    spatial: Box<SpatialMean>,
    temporal: Box<TemporalMean>,
}

impl Fold for SpatialTemporalMean {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        self.spatial.push(frames)?;
        self.temporal.push(frames)
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        Tensor::cat(&[self.spatial.finish()?, self.temporal.finish()?], 0)
    }
}
