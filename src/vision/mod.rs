//! Frozen vision towers that hand out every hidden state, with index 0 = the embedding output.
//!
//! A tower visits its states in order and keeps none; a callback keeps the states that it needs, and one that has seen
//! enough stops it. So a Dense Connector costs no memory for states it only sums, and no time for layers beyond the
//! last that it needs.

mod clip;
mod internvit;
mod patches;
mod siglip;
mod vit;

use std::ops::ControlFlow;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::Serialize;

pub use crate::kernels::Activation;
pub use crate::nn::linear::Bias;
use crate::nn::{LayerNorm, Purpose};
use crate::units::LayerIndex;
use clip::ClipEmbeddings;
use internvit::InternVitEmbeddings;
use siglip::SiglipEmbeddings;
use vit::TowerEncoder;

/// The tower families; they differ in the stem, the class token, layer scale and the names of their tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TowerFamily {
    /// CLIP's vision transformer (arXiv 2103.00020).
    Clip,
    /// SigLIP's (arXiv 2303.15343).
    Siglip,
    /// InternVL's InternViT (arXiv 2312.14238), of 300M parameters: layer norms and layer scale.
    InternVit,
}

/// Geometry of a tower, as `config.json` describes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TowerConfig {
    /// CLIP, SigLIP or InternViT.
    pub family: TowerFamily,
    /// `D`.
    pub d_hidden: usize,
    /// Width between the two matrices of a block.
    pub d_intermediate: usize,
    /// Layers that run: `L`. Further layers of the file are not read.
    pub n_layers: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Colour channels.
    pub n_channels: usize,
    /// The blocks' activation.
    pub activation: Activation,
    /// The layer norms' epsilon.
    pub layer_norm_eps: f64,
    /// Biases of query, key and value.
    pub qkv_bias: Bias,
    /// The form in which hidden states leave the tower.
    pub output: TowerOutput,
}

/// The form in which hidden states leave a tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TowerOutput {
    /// Output of the layers, unchanged: LLaVA and its relatives.
    Raw,
    /// After the norm behind the last layer (`post_layernorm`), whichever layer made them: SmolVLM.
    Normalised,
}

impl TowerConfig {
    /// Patches along one side; a rest of the image narrower than a patch is not seen.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// `N`: patch tokens of a frame.
    pub fn n_patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Class tokens, which the tower puts before the patches: one of CLIP's and InternViT's.
    pub fn n_class_tokens(&self) -> usize {
        match self.family {
            TowerFamily::Clip | TowerFamily::InternVit => 1,
            TowerFamily::Siglip => 0,
        }
    }

    /// Tokens of a hidden state: class tokens and patches.
    pub fn n_state_tokens(&self) -> usize {
        self.n_class_tokens() + self.n_patches()
    }
}

/// A vision tower.
#[derive(Debug)]
pub struct Tower {
    config: TowerConfig,
    embeddings: TowerEmbeddings,
    encoder: TowerEncoder,
    /// Behind the last layer, of towers whose output is normalised.
    output_norm: Option<LayerNorm>,
}

#[derive(Debug)]
enum TowerEmbeddings {
    Clip(ClipEmbeddings),
    Siglip(SiglipEmbeddings),
    InternVit(InternVitEmbeddings),
}

impl TowerEmbeddings {
    fn pack(&mut self) -> Result<()> {
        match self {
            Self::Clip(embeddings) => embeddings.pack(),
            Self::Siglip(embeddings) => embeddings.pack(),
            Self::InternVit(embeddings) => embeddings.pack(),
        }
    }
}

impl Tower {
    /// Reads the first `n_layers_needed` layers; `vb` stands where the names `embeddings` and `encoder` begin.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn load(config: &TowerConfig, n_layers_needed: usize, vb: &VarBuilder, purpose: Purpose) -> Result<Self> {
        let mut embeddings = match config.family {
            TowerFamily::Clip => TowerEmbeddings::Clip(ClipEmbeddings::load(config, vb)?),
            TowerFamily::Siglip => TowerEmbeddings::Siglip(SiglipEmbeddings::load(config, vb)?),
            TowerFamily::InternVit => TowerEmbeddings::InternVit(InternVitEmbeddings::load(config, vb)?),
        };
        if purpose == Purpose::Inference {
            embeddings.pack()?;
        }
        let n_layers = n_layers_needed.min(config.n_layers);
        let norm = || LayerNorm::load(config.d_hidden, config.layer_norm_eps, &vb.pp("post_layernorm"));
        Ok(Self {
            config: config.clone(),
            embeddings,
            encoder: TowerEncoder::load(config, n_layers, &vb.pp("encoder"), purpose)?,
            output_norm: (config.output == TowerOutput::Normalised).then(norm).transpose()?,
        })
    }

    /// Returns the geometry.
    pub fn config(&self) -> &TowerConfig {
        &self.config
    }

    /// Visits the hidden states in order: index 0 is the embedding output (CLIP: after `pre_layrnorm`), index `i`
    /// the output of layer `i`, before [`Self::output`]. The class token, where there is one, is token 0 of each.
    ///
    /// # Shapes
    /// `pixels (T, 3, image_size, image_size)`; each state `(T, n_state_tokens, D)`.
    ///
    /// # Errors
    /// When the shapes do not fit, or the visitor fails.
    pub fn hidden_states(
        &self,
        pixels: &Tensor,
        visit: &mut dyn FnMut(LayerIndex, &Tensor) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let (_, channels, height, width) = pixels.dims4()?;
        let (want_channels, side) = (self.config.n_channels, self.config.image_size);
        if (channels, height, width) != (want_channels, side, side) {
            candle_core::bail!(
                "the tower takes pixels of {want_channels} x {side} x {side}, not {channels} x {height} x {width}"
            );
        }
        let embedded = match &self.embeddings {
            TowerEmbeddings::Clip(embeddings) => embeddings.forward(pixels)?,
            TowerEmbeddings::Siglip(embeddings) => embeddings.forward(pixels)?,
            TowerEmbeddings::InternVit(embeddings) => embeddings.forward(pixels)?,
        };
        self.encoder.forward(embedded, visit)
    }

    /// Returns a hidden state in the form in which it leaves the tower: see [`TowerOutput`].
    ///
    /// # Shapes
    /// `(T, n_state_tokens, D)` to the same.
    ///
    /// # Errors
    /// When the width does not fit.
    pub fn output(&self, state: &Tensor) -> Result<Tensor> {
        self.output_norm.as_ref().map_or_else(|| Ok(state.clone()), |norm| norm.forward(state))
    }
}
