//! SCI, sparse channel integration (arXiv 2405.13800, section 3.2): `[final, early, middle]` on the channel axis. A
//! checkpoint that lists its layers itself (`vision_feature_layer` of Hugging Face's LLaVA) is the same with other
//! states.
//!
//! # Shapes
//! `k` states `(T, N, D)` to `(T, N, k D)`; `k` is 3 in the paper.

use candle_core::{Result, Tensor};

use super::{Fold, Kept};
use crate::units::LayerIndex;

pub(super) struct SciFold(Kept);

impl SciFold {
    pub(super) fn new(layers: &[LayerIndex]) -> Self {
        Self(Kept::new(layers))
    }
}

impl Fold for SciFold {
    fn visit(&mut self, layer: LayerIndex, state: &Tensor) -> Result<()> {
        self.0.visit(layer, state);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        Tensor::cat(&self.0.finish()?, 2) // (T, N, k D)
    }
}
