//! STI, sparse token integration (arXiv 2405.13800, section 3.2): `[final, pooled early, pooled middle]` on the token
//! axis.
//!
//! The early and the middle state are the ends of the first two thirds of the tower: 7 and 15 of CLIP's 24 layers and
//! of SigLIP's 26. Each is averaged over runs of 8 tokens in row-major order (`AvgPool1d(8, 8)`, not a 2-D pool); a
//! rest of fewer than 8 tokens is dropped. Reference: `dense_connector.py`, `sti`.
//!
//! # Shapes
//! Three states `(T, N, D)` to `(T, N + 2 floor(N / 8), D)`. Token cost: a quarter more (576 patches: 720 tokens; 729:
//! 911). Width: `D`, so the projector keeps its size. Memory: three states.
//!
//! The tokens of a frame no longer are the patch grid: temporal strategies that pool on it refuse STI.

use candle_core::{Result, Tensor};

use super::states::KeptStates;
use super::{Connector, ConnectorKind, HiddenStateFold, check_depth, sparse_layers};
use crate::units::LayerIndex;

/// Tokens of an earlier state that are averaged into one.
const POOL: usize = 8;

/// Sparse token integration.
#[derive(Debug)]
pub struct Sti {
    /// Final, early, middle: their order on the token axis.
    layers: [LayerIndex; 3],
}

impl Sti {
    pub(super) fn new(final_layer: LayerIndex, n_layers: usize) -> crate::error::Result<Self> {
        check_depth(ConnectorKind::Sti, 3, n_layers)?;
        let [early, middle] = sparse_layers(n_layers);
        Ok(Self { layers: [final_layer, early, middle] })
    }
}

impl Connector for Sti {
    fn kind(&self) -> ConnectorKind {
        ConnectorKind::Sti
    }

    fn layers(&self) -> Vec<LayerIndex> {
        self.layers.to_vec()
    }

    fn final_layer(&self) -> LayerIndex {
        self.layers[0]
    }

    fn n_tokens(&self, n_patches: usize) -> usize {
        n_patches + 2 * (n_patches / POOL)
    }

    fn width(&self, d_hidden: usize) -> usize {
        d_hidden
    }

    fn begin(&self) -> Box<dyn HiddenStateFold> {
        Box::new(TokenConcat(KeptStates::new(&self.layers)))
    }

    fn describe(&self) -> String {
        let [last, early, middle] = self.layers.map(|layer| layer.0);
        format!("sti: hidden state {last}, then states {early} and {middle} pooled by {POOL}, on the token axis")
    }
}

struct TokenConcat(KeptStates);

impl HiddenStateFold for TokenConcat {
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn counts_are_those_of_the_released_checkpoints() {
        let of = |n_layers| Sti::new(LayerIndex(n_layers - 1), n_layers).expect("deep enough");
        assert_eq!((of(24).n_tokens(576), of(26).n_tokens(729), of(24).width(1024)), (720, 911, 1024));
    }

    #[test]
    fn earlier_states_are_pooled_behind_the_final_one_and_a_rest_is_dropped() {
        // Six layers: states 1 and 3 are pooled. State l is l + 0, l + 1 .. l + 8: the mean of its first 8 is l + 3.5.
        let connector = Sti::new(LayerIndex(5), 6).expect("deep enough");
        let mut fold = connector.begin();
        for LayerIndex(layer) in connector.layers() {
            let state = Tensor::arange(layer as f32, layer as f32 + 9.0, &Device::Cpu);
            fold.visit(LayerIndex(layer), &state.and_then(|x| x.reshape((1, 9, 1))).expect("small")).expect("it fits");
        }
        let tokens = fold.finish().and_then(|x| x.flatten_all()?.to_vec1::<f32>()).expect("all states came");
        assert_eq!(tokens, [5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 4.5, 6.5]);
        assert_eq!(connector.describe(), "sti: hidden state 5, then states 1 and 3 pooled by 8, on the token axis");
    }
}
