//! S3: the spatial means of all frames (S2), then the temporal means of all tokens (S1).
//!
//! # Shapes
//! `(T, N', H)` to `(T + N', H)`.

use candle_core::{Result, Tensor};

use super::spatial_mean::SpatialMeanFold;
use super::temporal_mean::TemporalMeanFold;
use super::{FrameFold, FrameTokens, Strategy};

pub(super) struct SpatialTemporalMeanStrategy;

impl Strategy for SpatialTemporalMeanStrategy {
    fn n_tokens(&self, n_frames: usize, frame: FrameTokens) -> usize {
        n_frames.saturating_add(frame.count)
    }

    fn explain(&self, n_frames: usize, frame: FrameTokens) -> String {
        format!("{n_frames} frames + {} tokens of a mean frame", frame.count)
    }

    fn begin(&self, _: FrameTokens) -> Box<dyn FrameFold> {
        Box::new(SpatialTemporalMeanFold::default())
    }
}

#[derive(Default)]
pub(super) struct SpatialTemporalMeanFold {
    spatial: Box<SpatialMeanFold>,
    temporal: Box<TemporalMeanFold>,
}

impl FrameFold for SpatialTemporalMeanFold {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        self.spatial.push(frames)?;
        self.temporal.push(frames)
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        Tensor::cat(&[self.spatial.finish()?, self.temporal.finish()?], 0)
    }
}
