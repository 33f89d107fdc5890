//! The Dense Connector (arXiv 2405.13800): how the tower's layers become one set of visual tokens a frame.
//!
//! A connector is a fold over the hidden states as the tower hands them out. Its token count and its width are
//! pure functions, so a plan is checked before a model is loaded. Reference: `dense_connector.py` of the released
//! code. Paper, LLaVA-1.5-7B, GQA: none 62.0, STI 63.3, SCI 63.7, DCI 63.8.

mod dci;
mod none;
mod sci;
mod sti;
mod window;

use std::fmt;
use std::str::FromStr;

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::units::LayerIndex;

pub use window::ChannelWindow;

/// The kind of a connector, as `mm_dense_connector_type` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectorKind {
    /// The final state alone: plain LLaVA.
    None,
    /// Sparse token integration: two earlier states, pooled, as more tokens.
    Sti,
    /// Sparse channel integration: two earlier states as more channels.
    Sci,
    /// Dense channel integration: the means of two groups of states as more channels.
    Dci,
}

/// A connector for a tower of a certain depth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connector {
    kind: ConnectorKind,
    /// The state that is always taken: `mm_vision_select_layer`.
    final_layer: LayerIndex,
    /// `L`: layers that run.
    n_layers: usize,
    /// The states of SCI where a checkpoint lists them itself, in its order.
    listed: Option<Vec<LayerIndex>>,
}

/// A running fusion of the states of some frames.
pub trait Fold {
    /// Takes the next state, `(T, N, D)`. States come in order, from index 0; those that the connector does not take
    /// ([`Connector::takes`]) may be left out.
    ///
    /// # Errors
    /// When candle fails.
    fn visit(&mut self, layer: LayerIndex, state: &Tensor) -> Result<()>;

    /// The fused tokens, `(T, N', k D)`.
    ///
    /// # Errors
    /// When a state that the connector needs never came.
    fn finish(self: Box<Self>) -> Result<Tensor>;
}

impl Connector {
    /// A connector of `kind` over a tower with `n_layers` layers that run.
    ///
    /// # Errors
    /// In words, when the tower is too shallow, or the final state does not exist.
    pub fn new(kind: ConnectorKind, final_layer: LayerIndex, n_layers: usize) -> std::result::Result<Self, String> {
        if final_layer.0 > n_layers {
            return Err(format!("the selected layer {} is beyond the tower's {n_layers} layers", final_layer.0));
        }
        let needed = match kind {
            ConnectorKind::None => 0,
            ConnectorKind::Sti | ConnectorKind::Sci => 3,
            ConnectorKind::Dci => dci::N_GROUPS,
        };
        if n_layers < needed {
            return Err(format!("{kind} needs a tower of at least {needed} layers, this one has {n_layers}"));
        }
        Ok(Self { kind, final_layer, n_layers, listed: None })
    }

    /// The states that a checkpoint lists (`vision_feature_layer: [..]`), on the channel axis in that order; a list of
    /// one is no connector.
    ///
    /// # Errors
    /// In words, when there is none, or one does not exist.
    pub fn listed(layers: Vec<LayerIndex>, n_layers: usize) -> std::result::Result<Self, String> {
        let Some(&first) = layers.first() else { return Err("the list of selected layers is empty".to_owned()) };
        if let Some(layer) = layers.iter().find(|layer| layer.0 > n_layers) {
            return Err(format!("the selected layer {} is beyond the tower's {n_layers} layers", layer.0));
        }
        let (kind, listed) =
            if layers.len() == 1 { (ConnectorKind::None, None) } else { (ConnectorKind::Sci, Some(layers)) };
        Ok(Self { kind, final_layer: first, n_layers, listed })
    }

    /// The states of SCI, in their order on the channel axis.
    fn sci_layers(&self) -> Vec<LayerIndex> {
        let sparse = || {
            let [early, middle] = sparse_layers(self.n_layers);
            vec![self.final_layer, early, middle]
        };
        self.listed.clone().unwrap_or_else(sparse)
    }

    /// Its kind.
    pub fn kind(&self) -> ConnectorKind {
        self.kind
    }

    /// The state that is always taken.
    pub fn final_layer(&self) -> LayerIndex {
        self.final_layer
    }

    /// The last state that it needs; the tower may stop there.
    pub fn last_layer(&self) -> LayerIndex {
        let fused = match self.kind {
            ConnectorKind::None => 0,
            ConnectorKind::Sti => sparse_layers(self.n_layers)[1].0,
            ConnectorKind::Sci => self.sci_layers().iter().map(|layer| layer.0).max().unwrap_or(0),
            ConnectorKind::Dci => dci::N_GROUPS * dci::group_size(self.n_layers) - 1,
        };
        LayerIndex(fused.max(self.final_layer.0))
    }

    /// Whether the connector takes a hidden state; others need not be prepared for it.
    pub fn takes(&self, layer: LayerIndex) -> bool {
        let fused = match self.kind {
            ConnectorKind::None => false,
            ConnectorKind::Sti => sparse_layers(self.n_layers).contains(&layer),
            ConnectorKind::Sci => self.sci_layers().contains(&layer),
            ConnectorKind::Dci => layer.0 < dci::N_GROUPS * dci::group_size(self.n_layers),
        };
        fused || layer == self.final_layer
    }

    /// `N'`: tokens of a frame after the connector.
    pub fn n_tokens(&self, n_patches: usize) -> usize {
        match self.kind {
            ConnectorKind::Sti => n_patches + 2 * (n_patches / sti::POOL),
            _ => n_patches,
        }
    }

    /// `k D`: width of a token after the connector.
    pub fn width(&self, d_hidden: usize) -> usize {
        match self.kind {
            ConnectorKind::None | ConnectorKind::Sti => d_hidden,
            ConnectorKind::Sci => self.sci_layers().len() * d_hidden,
            ConnectorKind::Dci => 3 * d_hidden,
        }
    }

    /// Begins the fusion of some frames.
    pub fn begin(&self) -> Box<dyn Fold> {
        let final_layer = self.final_layer;
        match self.kind {
            ConnectorKind::None => Box::new(none::NoneFold::new(final_layer)),
            ConnectorKind::Sti => Box::new(sti::StiFold::new(final_layer, sparse_layers(self.n_layers))),
            ConnectorKind::Sci => Box::new(sci::SciFold::new(&self.sci_layers())),
            ConnectorKind::Dci => Box::new(dci::DciFold::new(final_layer, self.n_layers)),
        }
    }

    /// What it does with which states, in a line.
    pub fn describe(&self) -> String {
        let last = self.final_layer.0;
        match self.kind {
            ConnectorKind::None => format!("none: hidden state {last}"),
            ConnectorKind::Sti => {
                let [a, b] = sparse_layers(self.n_layers);
                format!(
                    "sti: hidden state {last}, then states {} and {} pooled by {}, on the token axis",
                    a.0,
                    b.0,
                    sti::POOL
                )
            }
            ConnectorKind::Sci => {
                let layers: Vec<String> = self.sci_layers().iter().map(|layer| layer.0.to_string()).collect();
                let (last, others) =
                    layers.split_last().map_or(("", &[][..]), |(last, others)| (last.as_str(), others));
                format!("sci: hidden states {} and {last} on the channel axis", others.join(", "))
            }
            ConnectorKind::Dci => {
                let size = dci::group_size(self.n_layers);
                format!(
                    "dci: hidden state {last} and the means of states 0..{size} and {size}..{}, on the channel axis",
                    2 * size
                )
            }
        }
    }
}

/// The two earlier states of STI and SCI: the ends of the first two thirds of the tower, counting the embedding
/// output as layer 1, as the paper does. 24 and 26 layers both give 7 and 15, as in the released code.
fn sparse_layers(n_layers: usize) -> [LayerIndex; 2] {
    let third = n_layers / 3;
    [LayerIndex(third.saturating_sub(1)), LayerIndex((2 * third).saturating_sub(1))]
}

/// Keeps the states of certain layers.
struct Kept {
    layers: Vec<LayerIndex>,
    states: Vec<Option<Tensor>>,
}

impl Kept {
    fn new(layers: &[LayerIndex]) -> Self {
        Self { layers: layers.to_vec(), states: vec![None; layers.len()] }
    }

    fn visit(&mut self, layer: LayerIndex, state: &Tensor) {
        for (wanted, slot) in self.layers.iter().zip(&mut self.states) {
            if *wanted == layer {
                *slot = Some(state.clone());
            }
        }
    }

    /// The states, in the order in which their layers were named.
    fn finish(self) -> Result<Vec<Tensor>> {
        let never_came = |layer: &LayerIndex| candle_core::Error::msg(format!("hidden state {} never came", layer.0));
        self.layers.iter().zip(self.states).map(|(layer, state)| state.ok_or_else(|| never_came(layer))).collect()
    }
}

impl fmt::Display for ConnectorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Sti => "sti",
            Self::Sci => "sci",
            Self::Dci => "dci",
        })
    }
}

impl FromStr for ConnectorKind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "sti" => Ok(Self::Sti),
            "sci" => Ok(Self::Sci),
            "dci" => Ok(Self::Dci),
            _ => Err(format!("`{text}` is no connector; hint: none, sti, sci, dci")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_released_checkpoints() {
        let of = |kind, n_layers| Connector::new(kind, LayerIndex(n_layers - 1), n_layers).expect("deep enough");
        assert_eq!(of(ConnectorKind::Sti, 24).n_tokens(576), 720);
        assert_eq!(of(ConnectorKind::Sti, 26).n_tokens(729), 911);
        assert_eq!(of(ConnectorKind::Dci, 26).n_tokens(729), 729);
        assert_eq!((of(ConnectorKind::Sti, 24).width(1024), of(ConnectorKind::Sci, 24).width(1024)), (1024, 3072));
    }

    #[test]
    fn layers_follow_the_depth() {
        assert_eq!(sparse_layers(24), [LayerIndex(7), LayerIndex(15)]);
        assert_eq!(sparse_layers(26), [LayerIndex(7), LayerIndex(15)]);
        assert_eq!(sparse_layers(6), [LayerIndex(1), LayerIndex(3)]);
        let taken = |kind| {
            let connector = Connector::new(kind, LayerIndex(5), 6).expect("deep enough");
            (0..=6).filter(|&layer| connector.takes(LayerIndex(layer))).collect::<Vec<_>>()
        };
        assert_eq!((taken(ConnectorKind::None), taken(ConnectorKind::Sci)), (vec![5], vec![1, 3, 5]));
        assert_eq!((taken(ConnectorKind::Sti), taken(ConnectorKind::Dci)), (vec![1, 3, 5], vec![0, 1, 2, 3, 4, 5]));
        let dci = Connector::new(ConnectorKind::Dci, LayerIndex(5), 6).expect("deep enough");
        assert_eq!(dci.describe(), "dci: hidden state 5 and the means of states 0..3 and 3..6, on the channel axis");
    }

    #[test]
    fn the_tower_may_stop_at_the_last_state_needed() {
        // CLIP-L selects state 23 of 24 layers: the last layer never runs.
        let dci = Connector::new(ConnectorKind::Dci, LayerIndex(23), 24).expect("deep enough");
        assert_eq!(dci.last_layer(), LayerIndex(23));
        // DCI's second group ends after an early final state.
        let early = Connector::new(ConnectorKind::Dci, LayerIndex(4), 24).expect("deep enough");
        assert_eq!(early.last_layer(), LayerIndex(23));
    }

    #[test]
    fn layers_that_a_checkpoint_lists_are_sci_in_its_own_order() {
        let of = |layers: &[usize]| Connector::listed(layers.iter().copied().map(LayerIndex).collect(), 6);
        let three = of(&[5, 2, 0, 5]).expect("they exist");
        assert_eq!((three.kind(), three.width(8), three.last_layer()), (ConnectorKind::Sci, 32, LayerIndex(5)));
        assert_eq!(three.describe(), "sci: hidden states 5, 2, 0 and 5 on the channel axis");
        assert_eq!(of(&[4]), Connector::new(ConnectorKind::None, LayerIndex(4), 6));
        assert_eq!(of(&[1, 7]), Err("the selected layer 7 is beyond the tower's 6 layers".to_owned()));
        assert_eq!(of(&[]), Err("the list of selected layers is empty".to_owned()));
    }

    #[test]
    fn towers_that_do_not_suffice_are_refused() {
        let error = |kind, last, n| Connector::new(kind, LayerIndex(last), n).expect_err("too shallow");
        assert_eq!(error(ConnectorKind::Sci, 1, 2), "sci needs a tower of at least 3 layers, this one has 2");
        assert_eq!(error(ConnectorKind::None, 7, 6), "the selected layer 7 is beyond the tower's 6 layers");
    }
}
