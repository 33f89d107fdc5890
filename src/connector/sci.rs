//! SCI, sparse channel integration (arXiv 2405.13800, section 3.2): `[final, early, middle]` on the channel axis.
//!
//! # Shapes
//! Three states `(T, N, D)` to `(T, N, 3D)`.

use candle_core::{Result, Tensor};

use super::{Fold, Kept};
use crate::units::LayerIndex;

pub(super) struct SciFold(Kept);

impl SciFold {
    pub(super) fn new(final_layer: LayerIndex, [early, middle]: [LayerIndex; 2]) -> Self {
        Self(Kept::new(&[final_layer, early, middle]))
    }
}

impl Fold for SciFold {
    fn visit(&mut self, layer: LayerIndex, state: &Tensor) -> Result<()> {
        self.0.visit(layer, state);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        Tensor::cat(&self.0.finish()?, 2) // (T, N, 3D)
    }
}
