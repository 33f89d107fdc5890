//! S3: the spatial means of all frames (S2), then the temporal means of all tokens (S1).
//!
//! # Shapes
//! `(T, N', H)` to `(T + N', H)`.

use candle_core::{Result, Tensor};

use super::Fold;
use super::spatial_mean::SpatialMean;
use super::temporal_mean::TemporalMean;

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
