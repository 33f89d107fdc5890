//! D2: each frame's tokens max-pooled along the flattened, row-major token axis (`MaxPool1d(s, s)`, not a 2-D pool),
//! then one frame after the other. A rest shorter than the stride is dropped.
//!
//! # Shapes
//! `(T, N', H)` to `(T floor(N' / s), H)`.

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FrameFold, FrameTokens, PoolMode, Strategy, kernels_of, no_frames};
use crate::kernels::GridPool;

/// The pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MaxPool {
    /// Tokens that become one. Default: `2`. A larger one fits more frames and blurs more.
    #[schemars(range(min = 1))]
    pub stride: usize,
}

impl Default for MaxPool {
    fn default() -> Self {
        Self { stride: 2 }
    }
}

impl MaxPool {
    fn of_frame(self, frame: FrameTokens) -> usize {
        frame.count / self.stride.max(1)
    }
}

impl Strategy for MaxPool {
    fn n_tokens(&self, n_frames: usize, frame: FrameTokens) -> usize {
        n_frames.saturating_mul(self.of_frame(frame))
    }

    fn explain(&self, n_frames: usize, frame: FrameTokens) -> String {
        format!("{n_frames} frames x {} tokens ({} / {})", self.of_frame(frame), frame.count, self.stride)
    }

    fn n_dropped(&self, frame: FrameTokens) -> usize {
        frame.count % self.stride.max(1)
    }

    fn frame_rows(&self, frame: FrameTokens) -> Option<usize> {
        Some(self.of_frame(frame))
    }

    fn begin(&self, _: FrameTokens) -> Box<dyn FrameFold> {
        Box::new(MaxPoolFold { stride: self.stride, pooled: Vec::new() })
    }
}

struct MaxPoolFold {
    stride: usize,
    pooled: Vec<Tensor>,
}

impl FrameFold for MaxPoolFold {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        self.pooled.push(pool_tokens(frames, self.stride)?.flatten_to(1)?); // (t floor(N' / s), H)
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        if self.pooled.is_empty() { Err(no_frames()) } else { Tensor::cat(&self.pooled, 0) }
    }
}

/// Max-pools the token axis.
///
/// # Shapes
/// `(t, N', H)` to `(t, floor(N' / stride), H)`.
///
/// # Errors
/// When nothing is left.
pub(super) fn pool_tokens(frames: &Tensor, stride: usize) -> Result<Tensor> {
    let ((_, n, _), stride) = (frames.dims3()?, stride.max(1));
    let whole = n / stride;
    if whole == 0 {
        candle_core::bail!("max_pool: a stride of {stride} leaves none of {n} tokens");
    }
    // A grid of `stride` columns, each row of which becomes one token.
    let pool = GridPool { from: [whole, stride], to: [whole, 1], mode: PoolMode::Max };
    kernels_of(frames).pool_grid(&frames.narrow(1, 0, whole * stride)?, &pool)
}
