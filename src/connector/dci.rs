//! DCI, dense channel integration (arXiv 2405.13800, section 3.2): the final state and the means of two groups of
//! states, `[final, g1, g2]`, on the channel axis.
//!
//! Group `i` of a tower that runs `L` layers is the states `i floor(L / 2) .. (i + 1) floor(L / 2)`: CLIP 0..12 and
//! 12..24, SigLIP 0..13 and 13..26. Each group is a running sum in f32, divided once at the end. Reference:
//! `dense_connector.py`, `dci`.
//!
//! # Shapes
//! `L` states `(T, N, D)` to `(T, N, 3D)`. Token cost: none. Width: `3D`, which the first matrix of the projector
//! takes. Memory: one state and two sums, whatever `L`.

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::states::KeptStates;
use super::{Connector, ConnectorKind, HiddenStateFold, check_depth};
use crate::kernels;
use crate::units::LayerIndex;

const N_GROUPS: usize = 2;

/// Options of DCI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DciOptions {
    /// Neighbouring frames, an odd number, over which the two groups of lower layers are averaged while the final layer
    /// stays with its frame. Default: `1`, DCI as published.
    #[schemars(range(min = 1))]
    pub window: usize,
}

impl Default for DciOptions {
    fn default() -> Self {
        Self { window: 1 }
    }
}

/// Dense channel integration.
#[derive(Debug)]
pub struct Dci {
    final_layer: LayerIndex,
    /// States of one group.
    group_size: usize,
}

impl Dci {
    pub(super) fn new(final_layer: LayerIndex, n_layers: usize) -> crate::error::Result<Self> {
        check_depth(ConnectorKind::Dci, N_GROUPS, n_layers)?;
        Ok(Self { final_layer, group_size: n_layers / N_GROUPS })
    }
}

impl Connector for Dci {
    fn kind(&self) -> ConnectorKind {
        ConnectorKind::Dci
    }

    fn layers(&self) -> Vec<LayerIndex> {
        let n_summed = N_GROUPS * self.group_size;
        let beyond = (self.final_layer.0 >= n_summed).then_some(self.final_layer);
        (0..n_summed).map(LayerIndex).chain(beyond).collect()
    }

    fn final_layer(&self) -> LayerIndex {
        self.final_layer
    }

    fn width(&self, d_hidden: usize) -> usize {
        (1 + N_GROUPS) * d_hidden
    }

    fn begin(&self) -> Box<dyn HiddenStateFold> {
        Box::new(GroupSums {
            last: KeptStates::new(&[self.final_layer]),
            sums: [const { None }; N_GROUPS],
            group_size: self.group_size,
            n_summed: 0,
        })
    }

    fn describe(&self) -> String {
        let (last, size) = (self.final_layer.0, self.group_size);
        format!(
            "dci: hidden state {last} and the means of states 0..{size} and {size}..{}, on the channel axis",
            N_GROUPS * size
        )
    }
}

struct GroupSums {
    last: KeptStates,
    /// One sum per group, `(T, N, D)` in f32.
    sums: [Option<Tensor>; N_GROUPS],
    group_size: usize,
    n_summed: usize,
}

impl HiddenStateFold for GroupSums {
    fn visit(&mut self, layer: LayerIndex, state: &Tensor) -> Result<()> {
        self.last.visit(layer, state);
        if let Some(sum) = self.sums.get_mut(layer.0 / self.group_size) {
            let kernels = kernels::of(state.device(), state.dtype());
            *sum = Some(kernels.accumulate(sum.take(), state)?);
            self.n_summed += 1;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Tensor> {
        let n_needed = N_GROUPS * self.group_size;
        if self.n_summed != n_needed {
            candle_core::bail!("dci sums {n_needed} hidden states, but {} came", self.n_summed);
        }
        let mut parts = self.last.finish()?;
        let dtype = parts[0].dtype();
        for sum in self.sums.into_iter().flatten() {
            parts.push((sum / self.group_size as f64)?.to_dtype(dtype)?);
        }
        Tensor::cat(&parts, 2) // (T, N, 3D)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_groups_are_the_means_of_the_two_halves() {
        let connector = Dci::new(LayerIndex(3), 4).expect("deep enough");
        let mut fold = connector.begin();
        for layer in 0..4 {
            let state = Tensor::new(&[[[(layer * layer) as f32]]], &Device::Cpu).expect("small");
            fold.visit(LayerIndex(layer), &state).expect("it fits");
        }
        // (0 + 1) / 2 and (4 + 9) / 2.
        let fused = fold.finish().and_then(|x| x.to_vec3::<f32>()).expect("rank 3");
        assert_eq!(fused, [[[9.0, 0.5, 6.5]]]);
        assert_eq!(
            connector.describe(),
            "dci: hidden state 3 and the means of states 0..2 and 2..4, on the channel axis"
        );
    }

    #[test]
    fn the_tower_may_stop_at_the_last_state_needed() {
        // CLIP-L selects state 23 of 24 layers: the last layer never runs.
        let last = |final_layer, n_layers| Dci::new(LayerIndex(final_layer), n_layers).map(|dci| dci.last_layer());
        assert_eq!(last(23, 24).expect("deep enough"), LayerIndex(23));
        // The second group ends behind an early final state, and before a late one.
        assert_eq!(last(4, 24).expect("deep enough"), LayerIndex(23));
        assert_eq!(last(26, 26).expect("deep enough"), LayerIndex(26));
    }

    #[test]
    fn counts_are_those_of_the_released_checkpoints() {
        let siglip = Dci::new(LayerIndex(25), 26).expect("deep enough");
        assert_eq!((siglip.n_tokens(729), siglip.width(1152)), (729, 3456));
    }
}
