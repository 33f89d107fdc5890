//! The pre-norm transformer encoder that CLIP and SigLIP share.
//!
//! Reference: `modeling_clip.py` and `modeling_siglip.py` of Hugging Face transformers.

use std::ops::ControlFlow;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::TowerConfig;
use crate::kernels::{self, Activation, Kernels};
use crate::nn::linear::{Bias, Linear, feed_forward};
use crate::nn::{AsRead, Fused, FusedConfig, LayerNorm};
use crate::units::LayerIndex;

/// The stack of blocks.
#[derive(Debug)]
pub(super) struct TowerEncoder {
    layers: Vec<TowerBlock>,
}

impl TowerEncoder {
    pub(super) fn load(config: &TowerConfig, n_layers: usize, vb: &VarBuilder) -> Result<Self> {
        let layers = vb.pp("layers");
        let load = |i: usize| TowerBlock::load(config, &layers.pp(i));
        Ok(Self { layers: (0..n_layers).into_par_iter().map(load).collect::<Result<_>>()? })
    }

    /// Packs the weights for inference, where that may be.
    pub(super) fn pack(&mut self) -> Result<()> {
        self.layers.iter_mut().try_for_each(|layer| {
            layer.attention.pack()?;
            layer.mlp.fc1.pack()?;
            layer.mlp.fc2.pack()
        })
    }

    /// Visits `embedded` as state 0, then the output of each layer, until the visitor breaks.
    pub(super) fn forward(
        &self,
        embedded: Tensor,
        visit: &mut dyn FnMut(LayerIndex, &Tensor) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut state = embedded; // (T, N + class, D)
        for (i, layer) in self.layers.iter().enumerate() {
            if visit(LayerIndex(i), &state)?.is_break() {
                return Ok(());
            }
            state = layer.forward(&state)?;
        }
        let _ = visit(LayerIndex(self.layers.len()), &state)?;
        Ok(())
    }
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Debug)]
struct TowerBlock {
    norm1: LayerNorm,
    attention: TowerAttention,
    norm2: LayerNorm,
    mlp: TowerMlp,
}

impl TowerBlock {
    fn load(config: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let norm = |name| LayerNorm::load(config.d_hidden, config.layer_norm_eps, &vb.pp(name));
        Ok(Self {
            norm1: norm("layer_norm1")?,
            attention: TowerAttention::load(config, &vb.pp("self_attn"))?,
            norm2: norm("layer_norm2")?,
            mlp: TowerMlp::load(config, &vb.pp("mlp"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.attention.forward(x, &self.norm1)?;
        let TowerMlp { fc1, fc2, activation } = &self.mlp;
        feed_forward(&x, &self.norm2, (fc1, *activation), fc2)
    }
}

#[derive(Debug)]
struct TowerAttention {
    /// Query, key, value.
    inputs: Fused<3>,
    out: Linear,
    n_heads: usize,
    kernels: &'static dyn Kernels,
}

impl TowerAttention {
    fn load(config: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let d = config.d_hidden;
        let inputs = FusedConfig { d_in: d, outputs: [("q_proj", d), ("k_proj", d), ("v_proj", d)], bias: Bias::With };
        Ok(Self {
            inputs: Fused::load(&inputs, vb, &AsRead)?,
            out: Linear::load(d, d, Bias::With, &vb.pp("out_proj"))?,
            n_heads: config.n_heads,
            kernels: kernels::of(vb.device(), vb.dtype()),
        })
    }

    fn pack(&mut self) -> Result<()> {
        self.inputs.pack()?;
        self.out.pack()
    }

    /// `x + attention(norm(x))`.
    fn forward(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let qkv = self.inputs.forward_normalised_parts(x, norm)?; // 3 of (T, N, D)
        let attended = self.kernels.full_attention(&qkv, self.n_heads)?;
        self.out.forward_onto(&attended, x) // (T, N, D)
    }
}

#[derive(Debug)]
struct TowerMlp {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl TowerMlp {
    fn load(config: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let (d, wide) = (config.d_hidden, config.d_intermediate);
        Ok(Self {
            fc1: Linear::load(d, wide, Bias::With, &vb.pp("fc1"))?,
            fc2: Linear::load(wide, d, Bias::With, &vb.pp("fc2"))?,
            activation: config.activation,
        })
    }
}
