//! No fusion: the final state alone, as in LLaVA (arXiv 2310.03744).
//!
//! Released LLaVA checkpoints take state `L - 1` of `L` layers (`mm_vision_select_layer: -2`), so the last layer of the
//! tower never runs.
//!
//! # Shapes
//! `(T, N, D)` to `(T, N, D)`. Token cost: none. Width: `D`. Memory: one state.

use super::sci::ChannelConcat;
use super::{Connector, ConnectorKind, HiddenStateFold};
use crate::units::LayerIndex;

/// The final state alone.
#[derive(Debug)]
pub(crate) struct FinalLayer {
    final_layer: LayerIndex,
}

impl FinalLayer {
    pub(super) fn new(final_layer: LayerIndex) -> Self {
        Self { final_layer }
    }
}

impl Connector for FinalLayer {
    fn kind(&self) -> ConnectorKind {
        ConnectorKind::None
    }

    fn layers(&self) -> Vec<LayerIndex> {
        vec![self.final_layer]
    }

    fn final_layer(&self) -> LayerIndex {
        self.final_layer
    }

    fn width(&self, d_hidden: usize) -> usize {
        d_hidden
    }

    fn begin(&self) -> Box<dyn HiddenStateFold> {
        Box::new(ChannelConcat::new(&[self.final_layer]))
    }

    fn describe(&self) -> String {
        format!("none: hidden state {}", self.final_layer.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn the_final_state_passes_unchanged() {
        let connector = FinalLayer::new(LayerIndex(1));
        let mut fold = connector.begin();
        for layer in 0..3 {
            let state = Tensor::new(&[[[layer as f32, 9.0]]], &Device::Cpu).expect("small");
            fold.visit(LayerIndex(layer), &state).expect("it fits");
        }
        assert_eq!(fold.finish().and_then(|x| x.to_vec3::<f32>()).expect("rank 3"), [[[1.0, 9.0]]]);
        assert_eq!((connector.n_tokens(576), connector.width(1024)), (576, 1024));
        assert_eq!(connector.last_layer(), LayerIndex(1));
    }
}
