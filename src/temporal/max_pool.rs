//! D2: each frame's tokens max-pooled along the flattened, row-major token axis (`MaxPool1d(s, s)`, not a 2-D pool),
//! then one frame after the other. A rest shorter than the stride is dropped.
//!
//! # Shapes
//! `(T, N', H)` to `(T floor(N' / s), H)`.

use candle_core::{Result, Tensor};

use super::{Fold, no_frames};

pub(super) struct MaxPool {
    stride: usize,
    pooled: Vec<Tensor>,
}

impl MaxPool {
    pub(super) fn new(stride: usize) -> Self {
        Self { stride: stride.max(1), pooled: Vec::new() }
    }
}

impl Fold for MaxPool {
    fn push(&mut self, frames: &Tensor) -> Result<()> {
        let (t, n, h) = frames.dims3()?;
        let whole = n / self.stride;
        if whole == 0 {
            candle_core::bail!("max_pool: a stride of {} leaves none of {n} tokens", self.stride);
        }
        let windows = frames.narrow(1, 0, whole * self.stride)?.reshape((t * whole, self.stride, h))?;
        self.pooled.push(windows.max(1)?); // (t floor(N' / s), H)
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        if self.pooled.is_empty() { Err(no_frames()) } else { Tensor::cat(&self.pooled, 0) }
    }
}
