//! The Dense Connector (arXiv 2405.13800, section 3): one set of visual tokens per frame from many layers of the tower.
//!
//! A vision transformer of `L` layers has `L + 1` hidden states of `N` patch tokens and `D` channels each. LLaVA
//! projects one of them, a late one; the earlier ones, which keep edges, text and positions, are computed and thrown
//! away. The Dense Connector concatenates a late state `final` with information of the earlier ones, without a trained
//! weight of its own; only the projector behind it, an MLP from `k D` channels to the language model's `H`, is trained.
//!
//! | kind | paper | tokens of a frame, in order | `N'` | width | GQA |
//! |---|---|---|---|---|---|
//! | `none` | LLaVA-1.5 | `final` | `N` | `D` | 62.0 |
//! | `sti` | sparse token integration | `final`, two earlier states pooled by 8: on the token axis | `N + 2 floor(N / 8)` | `D` | 63.3 |
//! | `sci` | sparse channel integration | `final`, two earlier states: on the channel axis | `N` | `3 D` | 63.7 |
//! | `dci` | dense channel integration | `final`, the means of two halves of all states: on the channel axis | `N` | `3 D` | 63.8 |
//!
//! (GQA: LLaVA-1.5-7B in the paper.) Each kind is one file with its options, shapes, cost, code and tests. Nothing here
//! is about time: a video's frames pass one by one, and [`crate::temporal`] makes one sequence of their projected
//! tokens as FreeVA does, so a model trained on images answers about videos. The exception is `ChannelWindow`, our
//! variant of DCI, which averages over neighbouring frames.
//!
//! Reference: `dense_connector.py` of the released code. A connector is made by [`crate::vlm`] from `config.json`
//! (`mm_dense_connector_type`), and folds hidden states while the tower runs, so DCI keeps two running sums and not
//! `L + 1` states.

mod dci;
mod none;
mod sci;
mod states;
mod sti;
mod window;

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use strum::VariantNames;

use crate::choice;
use crate::error::{Error, Result};
use crate::units::LayerIndex;

pub use dci::{Dci, DciOptions};
pub(crate) use none::FinalLayer;
pub use sci::Sci;
pub use sti::Sti;
pub(crate) use window::ChannelWindow;

/// Fusion of a tower's hidden states into the visual tokens of a frame.
pub trait Connector: fmt::Debug + Send + Sync {
    /// Returns the kind, as checkpoints name it.
    fn kind(&self) -> ConnectorKind;

    /// Returns the indices of the hidden states that the fold takes; other states need not be visited.
    fn layers(&self) -> Vec<LayerIndex>;

    /// Returns the index of the hidden state that comes first among the tokens or channels: LLaVA's selected layer.
    fn final_layer(&self) -> LayerIndex;

    /// Returns `N'`, the number of tokens of a frame of `n_patches` patches.
    fn n_tokens(&self, n_patches: usize) -> usize {
        n_patches
    }

    /// Returns `k D`, the width of a token, for hidden states of width `d_hidden`.
    fn width(&self, d_hidden: usize) -> usize;

    /// Begins the fusion of a batch of frames.
    fn begin(&self) -> Box<dyn HiddenStateFold>;

    /// Returns a line about the kind and its hidden states, for people.
    fn describe(&self) -> String;

    /// Returns the index of the last hidden state that the fold takes; the tower may stop there.
    fn last_layer(&self) -> LayerIndex {
        LayerIndex(self.layers().iter().map(|layer| layer.0).max().unwrap_or(0))
    }
}

/// Running fusion of the hidden states of a batch of frames.
pub trait HiddenStateFold {
    /// Takes the next hidden state, `(T, N, D)`. States come in ascending order of their indices.
    ///
    /// # Errors
    /// When candle fails.
    fn visit(&mut self, layer: LayerIndex, state: &Tensor) -> candle_core::Result<()>;

    /// Returns the fused tokens, `(T, N', k D)`.
    ///
    /// # Errors
    /// When a state of [`Connector::layers`] was not visited.
    fn finish(self: Box<Self>) -> candle_core::Result<Tensor>;
}

/// Kind of a connector, as `mm_dense_connector_type` names it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::EnumString, strum::VariantNames,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = unknown_kind)]
pub enum ConnectorKind {
    /// The final state alone: LLaVA.
    None,
    /// Sparse token integration.
    Sti,
    /// Sparse channel integration.
    Sci,
    /// Dense channel integration.
    Dci,
}

impl ConnectorKind {
    /// Makes the connector of this kind over a tower that runs `n_layers` layers (`L`). `final_layer` is the hidden
    /// state that every kind takes: `mm_vision_select_layer`.
    ///
    /// # Errors
    /// When the tower is too shallow, or the final state does not exist.
    pub fn over(self, final_layer: LayerIndex, n_layers: usize) -> Result<Arc<dyn Connector>> {
        check_layer(final_layer, n_layers)?;
        Ok(match self {
            Self::None => Arc::new(FinalLayer::new(final_layer)),
            Self::Sti => Arc::new(Sti::new(final_layer, n_layers)?),
            Self::Sci => Arc::new(Sci::new(final_layer, n_layers)?),
            Self::Dci => Arc::new(Dci::new(final_layer, n_layers)?),
        })
    }
}

/// Makes the connector of a checkpoint that lists its hidden states itself (`vision_feature_layer: [..]` of Hugging
/// Face's LLaVA): SCI with those states in that order, or the final state alone for a list of one.
///
/// # Errors
/// When the list is empty, or a state does not exist.
pub fn over_listed(layers: Vec<LayerIndex>, n_layers: usize) -> Result<Arc<dyn Connector>> {
    layers.iter().try_for_each(|&layer| check_layer(layer, n_layers))?;
    match layers.as_slice() {
        [] => Err(Error::invalid("the list of selected layers is empty")),
        [only] => Ok(Arc::new(FinalLayer::new(*only))),
        _ => Ok(Arc::new(Sci::of_states(layers))),
    }
}

fn check_layer(layer: LayerIndex, n_layers: usize) -> Result<()> {
    if layer.0 > n_layers {
        let rule = format!("the selected layer {} is beyond the tower's {n_layers} layers", layer.0);
        return Err(Error::invalid(rule));
    }
    Ok(())
}

/// Checks that a tower has enough layers for a kind.
fn check_depth(kind: ConnectorKind, needed: usize, n_layers: usize) -> Result<()> {
    if n_layers < needed {
        let rule = format!("{kind} needs a tower of at least {needed} layers, this one has {n_layers}");
        return Err(Error::invalid(rule));
    }
    Ok(())
}

/// Returns the early and the middle state of STI and SCI: the ends of the first two thirds of the tower, with the
/// embedding output counted as layer 1, as the paper does. 24 and 26 layers both give 7 and 15, as in the released
/// code.
fn sparse_layers(n_layers: usize) -> [LayerIndex; 2] {
    let third = n_layers / 3;
    [LayerIndex(third.saturating_sub(1)), LayerIndex((2 * third).saturating_sub(1))]
}

fn unknown_kind(name: &str) -> Error {
    choice::unknown_name("connector", name, ConnectorKind::VARIANTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_layers_follow_the_depth_of_the_tower() {
        assert_eq!(sparse_layers(24), [LayerIndex(7), LayerIndex(15)]);
        assert_eq!(sparse_layers(26), [LayerIndex(7), LayerIndex(15)]);
        assert_eq!(sparse_layers(6), [LayerIndex(1), LayerIndex(3)]);
    }

    #[test]
    fn listed_layers_are_sci_in_the_order_of_the_list() {
        let of = |layers: &[usize]| over_listed(layers.iter().copied().map(LayerIndex).collect(), 6);
        let four = of(&[5, 2, 0, 5]).expect("they exist");
        assert_eq!((four.kind(), four.width(8), four.last_layer()), (ConnectorKind::Sci, 32, LayerIndex(5)));
        assert_eq!(four.describe(), "sci: hidden states 5, 2, 0 and 5 on the channel axis");
        let one = of(&[4]).expect("it exists");
        assert_eq!((one.kind(), one.layers()), (ConnectorKind::None, vec![LayerIndex(4)]));
        let error = |layers| of(layers).expect_err("refused").to_string();
        assert_eq!(error(&[1, 7]), "the selected layer 7 is beyond the tower's 6 layers");
        assert_eq!(error(&[]), "the list of selected layers is empty");
    }

    #[test]
    fn shallow_towers_are_refused() {
        let error = |kind: ConnectorKind, last, n| kind.over(LayerIndex(last), n).expect_err("refused").to_string();
        assert_eq!(error(ConnectorKind::Sci, 1, 2), "sci needs a tower of at least 3 layers, this one has 2");
        assert_eq!(error(ConnectorKind::None, 7, 6), "the selected layer 7 is beyond the tower's 6 layers");
    }

    #[test]
    fn names_print_as_they_are_read() {
        for name in ["none", "sti", "sci", "dci"] {
            assert_eq!(name.parse::<ConnectorKind>().expect("known").to_string(), name);
        }
        let error = "dcx".parse::<ConnectorKind>().expect_err("unknown").to_string();
        assert_eq!(error, "unknown connector `dcx`; hint: did you mean `dci`? known: none, sti, sci, dci");
    }
}
