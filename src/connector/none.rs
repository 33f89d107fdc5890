//! No Dense Connector: the final state alone, as in LLaVA.
//!
//! # Shapes
//! `(T, N, D)` to `(T, N, D)`.

use candle_core::{Result, Tensor};

use super::{Fold, Kept};
use crate::units::LayerIndex;

pub(super) struct NoneFold(Kept);

impl NoneFold {
    pub(super) fn new(final_layer: LayerIndex) -> Self {
        Self(Kept::new(&[final_layer]))
    }
}

impl Fold for NoneFold {
    fn visit(&mut self, layer: LayerIndex, state: &Tensor) -> Result<()> {
        self.0.visit(layer, state);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        Tensor::cat(&self.0.finish()?, 2)
    }
}
