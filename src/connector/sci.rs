//! SCI, sparse channel integration (arXiv 2405.13800, section 3.2): `[final, early, middle]` on the channel axis.
//!
//! The early and the middle state are the ends of the first two thirds of the tower, as in STI: 7 and 15 of CLIP's 24
//! layers. Checkpoints that list their layers themselves (`vision_feature_layer` of Hugging Face's LLaVA) are SCI with
//! other states. Reference: `dense_connector.py`, `sci`.
//!
//! # Shapes
//! `k` states `(T, N, D)` to `(T, N, k D)`; `k` is 3 in the paper. Token cost: none. Width: `k D`, which the first
//! matrix of the projector takes. Memory: `k` states.

use candle_core::{Result, Tensor};

use super::states::KeptStates;
use super::{Connector, ConnectorKind, HiddenStateFold, check_depth, sparse_layers};
use crate::units::LayerIndex;

/// Sparse channel integration.
#[derive(Debug)]
pub struct Sci {
    /// Hidden states in their order on the channel axis.
    layers: Vec<LayerIndex>,
}

impl Sci {
    pub(super) fn new(final_layer: LayerIndex, n_layers: usize) -> crate::error::Result<Self> {
        check_depth(ConnectorKind::Sci, 3, n_layers)?;
        let [early, middle] = sparse_layers(n_layers);
        Ok(Self::of_states(vec![final_layer, early, middle]))
    }

    pub(super) fn of_states(layers: Vec<LayerIndex>) -> Self {
        Self { layers }
    }
}

impl Connector for Sci {
    fn kind(&self) -> ConnectorKind {
        ConnectorKind::Sci
    }

    fn layers(&self) -> Vec<LayerIndex> {
        self.layers.clone()
    }

    fn final_layer(&self) -> LayerIndex {
        self.layers[0]
    }

    fn width(&self, d_hidden: usize) -> usize {
        self.layers.len() * d_hidden
    }

    fn begin(&self) -> Box<dyn HiddenStateFold> {
        Box::new(ChannelConcat::new(&self.layers))
    }

    fn describe(&self) -> String {
        let layers: Vec<String> = self.layers.iter().map(|layer| layer.0.to_string()).collect();
        let (last, others) = layers.split_last().map_or(("", &[][..]), |(last, others)| (last.as_str(), others));
        format!("sci: hidden states {} and {last} on the channel axis", others.join(", "))
    }
}

/// Concatenation of hidden states on the channel axis.
pub(super) struct ChannelConcat(KeptStates);

impl ChannelConcat {
    pub(super) fn new(layers: &[LayerIndex]) -> Self {
        Self(KeptStates::new(layers))
    }
}

impl HiddenStateFold for ChannelConcat {
    fn visit(&mut self, layer: LayerIndex, state: &Tensor) -> Result<()> {
        self.0.visit(layer, state);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        Tensor::cat(&self.0.finish()?, 2) // (T, N, k D)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_final_state_comes_before_the_earlier_ones() {
        let connector = Sci::new(LayerIndex(5), 6).expect("deep enough");
        let mut fold = connector.begin();
        for layer in 0..=5 {
            fold.visit(LayerIndex(layer), &Tensor::new(&[[[layer as f32]]], &Device::Cpu).expect("small"))
                .expect("it fits");
        }
        assert_eq!(fold.finish().and_then(|x| x.to_vec3::<f32>()).expect("rank 3"), [[[5.0, 1.0, 3.0]]]);
        assert_eq!((connector.n_tokens(576), connector.width(1024)), (576, 3072));
        assert_eq!(connector.describe(), "sci: hidden states 5, 1 and 3 on the channel axis");
    }

    #[test]
    fn a_missing_state_is_an_error() {
        let error = Sci::new(LayerIndex(5), 6).expect("deep enough").begin().finish().expect_err("no state came");
        assert!(error.to_string().contains("hidden state 5 is missing"), "{error}");
    }
}
