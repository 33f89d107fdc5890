//! CLIP's stem: patches, a class token, positions, then a layer norm (`modeling_clip.py`).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::TowerConfig;
use super::patches::PatchEmbedding;
use crate::nn::LayerNorm;
use crate::nn::linear::Bias;

#[derive(Debug)]
pub(super) struct ClipEmbeddings {
    patch: PatchEmbedding,
    /// `(D)`.
    class: Tensor,
    /// `(1 + N, D)`.
    position: Tensor,
    norm: LayerNorm,
}

impl ClipEmbeddings {
    pub(super) fn load(config: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let embeddings = vb.pp("embeddings");
        let d = config.d_hidden;
        Ok(Self {
            patch: PatchEmbedding::load(config, Bias::Without, &embeddings.pp("patch_embedding"))?,
            class: embeddings.get(d, "class_embedding")?,
            position: embeddings.get((1 + config.n_patches(), d), "position_embedding.weight")?,
            // The name is misspelled in every released checkpoint.
            norm: LayerNorm::load(d, config.layer_norm_eps, &vb.pp("pre_layrnorm"))?,
        })
    }

    /// Packs the weights for inference, where that may be.
    pub(super) fn pack(&mut self) -> Result<()> {
        self.patch.pack()
    }

    /// `(T, 3, S, S)` to `(T, 1 + N, D)`.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches = self.patch.forward(pixels)?; // (T, N, D)
        let (frames, _, d) = patches.dims3()?;
        let class = self.class.reshape((1, 1, d))?.expand((frames, 1, d))?;
        let tokens = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.position)?; // (T, 1 + N, D)
        self.norm.forward(&tokens)
    }
}
