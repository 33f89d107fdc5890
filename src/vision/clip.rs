//! CLIP's stem: patches, a class token, positions, then a layer norm (`modeling_clip.py`).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::TowerConfig;
use super::vit::embed_patches;
use crate::nn::LayerNorm;

#[derive(Debug)]
pub(super) struct ClipEmbeddings {
    /// `(D, 3, p, p)`, no bias.
    patch: Tensor,
    /// `(D)`.
    class: Tensor,
    /// `(1 + N, D)`.
    position: Tensor,
    norm: LayerNorm,
    grid: usize,
}

impl ClipEmbeddings {
    pub(super) fn load(config: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let embeddings = vb.pp("embeddings");
        let (d, p) = (config.d_hidden, config.patch_size);
        Ok(Self {
            patch: embeddings.get((d, config.n_channels, p, p), "patch_embedding.weight")?,
            class: embeddings.get(d, "class_embedding")?,
            position: embeddings.get((1 + config.n_patches(), d), "position_embedding.weight")?,
            // The name is misspelled in every released checkpoint.
            norm: LayerNorm::load(d, config.layer_norm_eps, &vb.pp("pre_layrnorm"))?,
            grid: config.grid(),
        })
    }

    /// `(T, 3, S, S)` to `(T, 1 + N, D)`.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches = embed_patches(pixels, &self.patch, self.grid)?; // (T, N, D)
        let (frames, _, d) = patches.dims3()?;
        let class = self.class.reshape((1, 1, d))?.expand((frames, 1, d))?;
        let tokens = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.position)?; // (T, 1 + N, D)
        self.norm.forward(&tokens)
    }
}
