//! SigLIP's stem: patches with a bias, positions, no class token (`modeling_siglip.py`).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::TowerConfig;
use super::patches::PatchEmbedding;
use crate::nn::linear::Bias;

#[derive(Debug)]
pub(super) struct SiglipEmbeddings {
    patch: PatchEmbedding,
    /// `(N, D)`.
    position: Tensor,
}

impl SiglipEmbeddings {
    pub(super) fn load(config: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let vb = vb.pp("embeddings");
        Ok(Self {
            patch: PatchEmbedding::load(config, Bias::With, &vb.pp("patch_embedding"))?,
            position: vb.get((config.n_patches(), config.d_hidden), "position_embedding.weight")?,
        })
    }

    /// Packs the weights for inference, where that may be.
    pub(super) fn pack(&mut self) -> Result<()> {
        self.patch.pack()
    }

    /// `(T, 3, S, S)` to `(T, N, D)`.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.patch.forward(pixels)?.broadcast_add(&self.position)
    }
}
