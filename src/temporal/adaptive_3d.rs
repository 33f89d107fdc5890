//! All frames' patch grids averaged to fewer frames of smaller grids (`AdaptiveAvgPool3d`).
//!
//! # Shapes
//! `(T, Hg Wg, H)` to `(min(frames, T) h w, H)`. Reference: `adaptive_3d` of apple/ml-slowfast-llava (arXiv
//! 2407.15841), where it is 16 x 12 x 12. A mean over a box is the mean over frames of the means over its rectangle, so
//! each frame is pooled as it comes; a video of fewer frames keeps all of them.

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Error, FrameFold, FrameTokens, Grid, PoolMode, Strategy, kernels_of, no_frames};
use crate::kernels::GridPool;

/// The pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Adaptive3d {
    /// Frames that are left. Default: `16`.
    #[schemars(range(min = 1, max = 100_000))]
    pub frames: usize,
    /// Rows that are left. Default: `12`.
    #[schemars(range(min = 1))]
    pub height: usize,
    /// Columns that are left. Default: `12`.
    #[schemars(range(min = 1))]
    pub width: usize,
}

impl Default for Adaptive3d {
    fn default() -> Self {
        Self { frames: 16, height: 12, width: 12 }
    }
}

impl Strategy for Adaptive3d {
    fn n_tokens(&self, n_frames: usize, _: FrameTokens) -> usize {
        n_frames.min(self.frames).saturating_mul(self.height.saturating_mul(self.width))
    }

    fn explain(&self, n_frames: usize, _: FrameTokens) -> String {
        let (height, width) = (self.height, self.width);
        format!(
            "{} mean frames x {} tokens ({height} x {width})",
            n_frames.min(self.frames),
            height.saturating_mul(width)
        )
    }

    fn check(&self, frame: FrameTokens) -> crate::error::Result<()> {
        if self.frames == 0 {
            return Err(Error::invalid("pools to 0 frames").with_hint("16"));
        }
        frame.grid_for(self.height, self.width).map(|_| ())
    }

    fn begin(&self, frame: FrameTokens) -> Box<dyn FrameFold> {
        Box::new(Adaptive3dFold { config: *self, frame, pooled: Vec::new() })
    }
}

struct Adaptive3dFold {
    config: Adaptive3d,
    frame: FrameTokens,
    pooled: Vec<Tensor>,
}

impl FrameFold for Adaptive3dFold {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        let Adaptive3d { height, width, .. } = self.config;
        let from = self.frame.grid_for(height, width).map_err(candle_core::Error::msg)?;
        let pool = from.pool_to(Grid { height, width }, PoolMode::Average);
        self.pooled.push(kernels_of(frames).pool_grid(frames, &pool)?); // (t, h w, H)
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        if self.pooled.is_empty() {
            return Err(no_frames());
        }
        let frames = Tensor::cat(&self.pooled, 0)?; // (T, h w, H)
        let (t, n, d) = frames.dims3()?;
        let left = t.min(self.config.frames);
        // Frames are the rows of a grid of one column, whose tokens are whole frames.
        let pool = GridPool { from: [t, 1], to: [left, 1], mode: PoolMode::Average };
        kernels_of(&frames).pool_grid(&frames.reshape((1, t, n * d))?, &pool)?.reshape((left * n, d))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_box_is_averaged_over_frames_rows_and_columns() {
        // Three frames of 1 x 2 patches to two frames of one: frames 0..2 and 1..3, as the adaptive pool overlaps.
        let config = Adaptive3d { frames: 2, height: 1, width: 1 };
        let mut fold = config.begin(FrameTokens::on_grid(Grid { height: 1, width: 2 }));
        for frame in [[1f32, 3.0], [5.0, 7.0], [0.0, 4.0]] {
            let frame = Tensor::new(&frame, &Device::Cpu).and_then(|x| x.reshape((1, 2, 1))).expect("small");
            fold.push(&frame).expect("it fits");
        }
        let out = fold.finish().and_then(|x| x.flatten_all()?.to_vec1::<f32>()).expect("three frames came");
        assert_eq!(out, [4.0, 4.0]);
    }
}
