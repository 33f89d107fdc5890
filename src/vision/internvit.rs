//! InternViT's stem: patches with a bias, a class token, positions (`modeling_internvl.py`).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::TowerConfig;
use super::patches::PatchEmbedding;
use crate::nn::linear::Bias;

#[derive(Debug)]
pub(super) struct InternVitEmbeddings {
    patch: PatchEmbedding,
    /// `(1, 1, D)`.
    class: Tensor,
    /// `(1, 1 + N, D)`.
    position: Tensor,
}

impl InternVitEmbeddings {
    pub(super) fn load(config: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let vb = vb.pp("embeddings");
        let d = config.d_hidden;
        Ok(Self {
            patch: PatchEmbedding::load(config, Bias::With, &vb.pp("patch_embeddings.projection"))?,
            class: vb.get((1, 1, d), "cls_token")?,
            position: vb.get((1, 1 + config.n_patches(), d), "position_embeddings")?,
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
        let class = self.class.expand((frames, 1, d))?;
        Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.position) // (T, 1 + N, D)
    }
}
