//! SlowFast-LLaVA (arXiv 2407.15841; apple/ml-slowfast-llava): a few frames in detail, then every frame in little.
//!
//! The slow pathway takes frames `trunc(linspace(0, T, slow_frames + 1))` without the last, each max-pooled along its
//! rows (`MaxPool1d` on the row-major tokens); the fast one averages every frame's grid to `fast_grid x fast_grid`.
//!
//! # Shapes
//! `(T, Hg Wg, H)` to `(slow floor(N / stride) + T fast_grid^2, H)`, slow tokens first, no separators. Of 50 frames of
//! 24 x 24 patches: 10 x 288 + 50 x 16 = 3,680. A video of fewer frames than the slow pathway takes gives it all it
//! has. ActivityNet and EgoSchema, 7B: both pathways 54.6 and 46.0, fast alone 49.7 and 37.0, slow alone 54.1 and 46.6.

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::max_pool::pool_tokens;
use super::{Error, FrameFold, FrameTokens, Grid, PoolMode, Strategy, kernels_of, no_frames};

/// The two pathways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SlowFast {
    /// Frames of the slow pathway. Default: `10`.
    #[schemars(range(min = 1, max = 100_000))]
    pub slow_frames: usize,
    /// Neighbouring tokens that become one there. Default: `2`.
    #[schemars(range(min = 1))]
    pub slow_stride: usize,
    /// Rows and columns that each frame has in the fast pathway. Default: `4`.
    #[schemars(range(min = 1))]
    pub fast_grid: usize,
}

impl Default for SlowFast {
    fn default() -> Self {
        Self { slow_frames: 10, slow_stride: 2, fast_grid: 4 }
    }
}

impl SlowFast {
    /// Returns the frames of the slow pathway: `trunc(i T / n)`.
    fn slow(self, n_frames: usize) -> Vec<usize> {
        let n = self.slow_frames.min(n_frames);
        (0..n).map(|i| i * n_frames / n).collect()
    }
}

impl Strategy for SlowFast {
    fn n_tokens(&self, n_frames: usize, frame: FrameTokens) -> usize {
        let slow = self.slow_frames.min(n_frames).saturating_mul(frame.count / self.slow_stride.max(1));
        slow.saturating_add(n_frames.saturating_mul(self.fast_grid.saturating_mul(self.fast_grid)))
    }

    fn explain(&self, n_frames: usize, frame: FrameTokens) -> String {
        let (slow, of_slow) = (self.slow_frames.min(n_frames), frame.count / self.slow_stride.max(1));
        let of_fast = self.fast_grid.saturating_mul(self.fast_grid);
        format!("{slow} slow frames x {of_slow} + {n_frames} fast frames x {of_fast} tokens")
    }

    fn check(&self, frame: FrameTokens) -> crate::error::Result<()> {
        if self.slow_frames == 0 {
            return Err(Error::invalid("takes 0 slow frames").with_hint("10"));
        }
        if self.slow_stride == 0 || self.slow_stride > frame.count {
            return Err(Error::invalid(format!(
                "slow_stride {} is not from 1 to the {} tokens of a frame",
                self.slow_stride, frame.count
            )));
        }
        frame.grid_for(self.fast_grid, self.fast_grid).map(|_| ())
    }

    fn n_dropped(&self, frame: FrameTokens) -> usize {
        frame.count % self.slow_stride.max(1)
    }

    fn begin(&self, frame: FrameTokens) -> Box<dyn FrameFold> {
        Box::new(SlowFastFold { config: *self, frame, slow: Vec::new(), fast: Vec::new() })
    }
}

struct SlowFastFold {
    config: SlowFast,
    frame: FrameTokens,
    /// Pooled tokens of every frame: the number of frames is known only at the end.
    slow: Vec<Tensor>,
    fast: Vec<Tensor>,
}

impl FrameFold for SlowFastFold {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        let side = self.config.fast_grid;
        let from = self.frame.grid_for(side, side).map_err(candle_core::Error::msg)?;
        self.slow.push(pool_tokens(frames, self.config.slow_stride)?); // (t, floor(N / stride), H)
        let pool = from.pool_to(Grid { height: side, width: side }, PoolMode::Average);
        self.fast.push(kernels_of(frames).pool_grid(frames, &pool)?.flatten_to(1)?); // (t side^2, H)
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        if self.slow.is_empty() {
            return Err(no_frames());
        }
        let slow = Tensor::cat(&self.slow, 0)?; // (T, floor(N / stride), H)
        let mut parts: Vec<Tensor> =
            self.config.slow(slow.dim(0)?).into_iter().map(|i| slow.get(i)).collect::<Result<_>>()?;
        parts.extend(self.fast);
        Tensor::cat(&parts, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_tokens_come_before_fast_ones() {
        // Two frames of 2 x 2 patches; one slow frame, pooled by two along its rows; the mean of each frame.
        let config = SlowFast { slow_frames: 1, slow_stride: 2, fast_grid: 1 };
        let mut fold = config.begin(FrameTokens::on_grid(Grid { height: 2, width: 2 }));
        for frame in [[1f32, 5.0, 3.0, 7.0], [2.0, 2.0, 4.0, 8.0]] {
            let frame =
                Tensor::new(&frame, &candle_core::Device::Cpu).and_then(|x| x.reshape((1, 4, 1))).expect("small");
            fold.push(&frame).expect("it fits");
        }
        let out = fold.finish().and_then(|x| x.flatten_all()?.to_vec1::<f32>()).expect("two frames came");
        assert_eq!(out, [5.0, 7.0, 4.0, 4.0]);
    }

    #[test]
    fn the_slow_frames_are_those_of_the_reference() {
        assert_eq!(SlowFast::default().slow(50), [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]);
        // trunc(linspace(0, 8, 4)) = 0, 2.67, 5.33, without 8.
        assert_eq!(SlowFast { slow_frames: 3, ..SlowFast::default() }.slow(8), [0, 2, 5]);
        assert_eq!(SlowFast::default().slow(3), [0, 1, 2]);
    }
}
