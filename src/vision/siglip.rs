//! SigLIP's stem: patches with a bias, positions, no class token (`modeling_siglip.py`).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::TowerConfig;
use super::vit::embed_patches;

#[derive(Debug)]
pub(super) struct SiglipEmbeddings {
    /// `(D, 3, p, p)`.
    patch: Tensor,
    /// `(D)`.
    bias: Tensor,
    /// `(N, D)`.
    position: Tensor,
    grid: usize,
}

impl SiglipEmbeddings {
    pub(super) fn load(config: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let vb = vb.pp("embeddings");
        let (d, p) = (config.d_hidden, config.patch_size);
        Ok(Self {
            patch: vb.get((d, config.n_channels, p, p), "patch_embedding.weight")?,
            bias: vb.get(d, "patch_embedding.bias")?,
            position: vb.get((config.n_patches(), d), "position_embedding.weight")?,
            grid: config.grid(),
        })
    }

    /// `(T, 3, S, S)` to `(T, N, D)`.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        embed_patches(pixels, &self.patch, self.grid)?.broadcast_add(&self.bias)?.broadcast_add(&self.position)
    }
}
