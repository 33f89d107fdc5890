//! STI, sparse token integration (arXiv 2405.13800, section 3.2): `[final, pooled early, pooled middle]` on the
//! token axis. The pool is an average over runs of 8 tokens in row-major order; a rest is dropped.
//!
//! # Shapes
//! Three states `(T, N, D)` to `(T, N + 2 floor(N / 8), D)`.

use candle_core::{Result, Tensor};

use super::{Fold, Kept};
use crate::units::LayerIndex;

/// Tokens that become one.
pub(super) const POOL: usize = 8;

pub(super) struct StiFold(Kept);

impl StiFold {
    pub(super) fn new(final_layer: LayerIndex, [early, middle]: [LayerIndex; 2]) -> Self {
        Self(Kept::new(&[final_layer, early, middle]))
    }
}

impl Fold for StiFold {
    fn visit(&mut self, layer: LayerIndex, state: &Tensor) -> Result<()> {
        self.0.visit(layer, state);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        let states = self.0.finish()?;
        let pooled = states[1..].iter().map(average_pool).collect::<Result<Vec<_>>>()?;
        let all: Vec<&Tensor> = states[..1].iter().chain(&pooled).collect();
        Tensor::cat(&all, 1) // (T, N + 2 floor(N / 8), D)
    }
}

/// `AvgPool1d(8, 8)` over tokens: `(T, N, D)` to `(T, floor(N / 8), D)`.
fn average_pool(state: &Tensor) -> Result<Tensor> {
    let (frames, n, d) = state.dims3()?;
    let whole = n / POOL;
    state.narrow(1, 0, whole * POOL)?.reshape((frames, whole, POOL, d))?.mean(2)
}
