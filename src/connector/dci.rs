//! DCI, dense channel integration (arXiv 2405.13800, section 3.2): the final state and the means of two groups of
//! states, `[final, g1, g2]`, on the channel axis. Final comes first.
//!
//! With `L` layers that run, group `i` is the states `i floor(L / 2) .. (i + 1) floor(L / 2)`: CLIP 0..12 and 12..24,
//! SigLIP 0..13 and 13..26. A running sum a group, in f32, is all that is kept.
//!
//! # Shapes
//! `L` states `(T, N, D)` to `(T, N, 3D)`.

use candle_core::{Result, Tensor};

use super::{Fold, Kept};
use crate::kernels;
use crate::units::LayerIndex;

pub(super) const N_GROUPS: usize = 2;

/// States of one group.
pub(super) fn group_size(n_layers: usize) -> usize {
    n_layers / N_GROUPS
}

pub(super) struct DciFold {
    last: Kept,
    sums: [Option<Tensor>; N_GROUPS],
    group_size: usize,
    n_summed: usize,
}

impl DciFold {
    pub(super) fn new(final_layer: LayerIndex, n_layers: usize) -> Self {
        Self {
            last: Kept::new(&[final_layer]),
            sums: [const { None }; N_GROUPS],
            group_size: group_size(n_layers),
            n_summed: 0,
        }
    }
}

impl Fold for DciFold {
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
        let wanted = N_GROUPS * self.group_size;
        if self.n_summed != wanted {
            candle_core::bail!("dci sums {wanted} hidden states, but {} came", self.n_summed);
        }
        let mut parts = self.last.finish()?;
        let dtype = parts[0].dtype();
        for sum in self.sums.into_iter().flatten() {
            parts.push((sum / self.group_size as f64)?.to_dtype(dtype)?);
        }
        Tensor::cat(&parts, 2) // (T, N, 3D)
    }
}
