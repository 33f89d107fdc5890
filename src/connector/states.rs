//! Hidden states that a connector keeps until the tower has run.

use candle_core::{Result, Tensor};

use crate::units::LayerIndex;

/// The hidden states of a list of layers, which may name a layer twice.
pub(super) struct KeptStates {
    layers: Vec<LayerIndex>,
    states: Vec<Option<Tensor>>,
}

impl KeptStates {
    pub(super) fn new(layers: &[LayerIndex]) -> Self {
        Self { layers: layers.to_vec(), states: vec![None; layers.len()] }
    }

    /// Keeps `state`, `(T, N, D)`, if its layer is listed.
    pub(super) fn visit(&mut self, layer: LayerIndex, state: &Tensor) {
        for (listed, slot) in self.layers.iter().zip(&mut self.states) {
            if *listed == layer {
                *slot = Some(state.clone());
            }
        }
    }

    /// Returns the states in the order of the list.
    pub(super) fn finish(self) -> Result<Vec<Tensor>> {
        let missing = |layer: &LayerIndex| candle_core::Error::msg(format!("hidden state {} is missing", layer.0));
        self.layers.iter().zip(self.states).map(|(layer, state)| state.ok_or_else(|| missing(layer))).collect()
    }
}
