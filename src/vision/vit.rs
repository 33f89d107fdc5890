//! The pre-norm transformer encoder that CLIP, SigLIP and InternViT share.
//!
//! InternViT's layer scale multiplies what each half of a block adds, channel by channel: it is folded into the weights
//! of the last matrix of that half when they are read. Reference: `modeling_clip.py`, `modeling_siglip.py` and
//! `modeling_internvl.py` of Hugging Face transformers.

use std::ops::ControlFlow;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::{TowerConfig, TowerFamily};
use crate::kernels::{self, Activation, Kernels};
use crate::nn::linear::{Bias, Linear, feed_forward};
use crate::nn::{FeedForwardLayers, FullPrecisionLoader, Fused, FusedConfig, LayerNorm, Purpose};
use crate::units::LayerIndex;

/// Names of a block's parts.
struct BlockNames {
    layers: &'static str,
    attention_norm: &'static str,
    attention: &'static str,
    attention_out: &'static str,
    mlp_norm: &'static str,
    /// Names of the layer scales of the attention and of the feed-forward part.
    scales: Option<[&'static str; 2]>,
}

const CLIP: BlockNames = BlockNames {
    layers: "layers",
    attention_norm: "layer_norm1",
    attention: "self_attn",
    attention_out: "out_proj",
    mlp_norm: "layer_norm2",
    scales: None,
};

const INTERN_VIT: BlockNames = BlockNames {
    layers: "layer",
    attention_norm: "layernorm_before",
    attention: "attention",
    attention_out: "projection_layer",
    mlp_norm: "layernorm_after",
    scales: Some(["lambda_1", "lambda_2"]),
};

impl BlockNames {
    fn of(family: TowerFamily) -> &'static Self {
        match family {
            TowerFamily::Clip | TowerFamily::Siglip => &CLIP,
            TowerFamily::InternVit => &INTERN_VIT,
        }
    }
}

/// The stack of blocks.
#[derive(Debug)]
pub(super) struct TowerEncoder {
    layers: Vec<TowerBlock>,
}

impl TowerEncoder {
    pub(super) fn load(config: &TowerConfig, n_layers: usize, vb: &VarBuilder, purpose: Purpose) -> Result<Self> {
        let layers = vb.pp(BlockNames::of(config.family).layers);
        let load = |i: usize| {
            let mut block = TowerBlock::load(config, &layers.pp(i))?;
            if purpose == Purpose::Inference {
                block.pack()?;
            }
            Ok(block)
        };
        Ok(Self { layers: (0..n_layers).into_par_iter().map(load).collect::<Result<_>>()? })
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
        let (names, d) = (BlockNames::of(config.family), config.d_hidden);
        let norm = |name| LayerNorm::load(d, config.layer_norm_eps, &vb.pp(name));
        let scale = |i: usize| names.scales.map(|names| vb.get(d, names[i])).transpose();
        Ok(Self {
            norm1: norm(names.attention_norm)?,
            attention: TowerAttention::load(config, scale(0)?, &vb.pp(names.attention))?,
            norm2: norm(names.mlp_norm)?,
            mlp: TowerMlp::load(config, scale(1)?, &vb.pp("mlp"))?,
        })
    }

    fn pack(&mut self) -> Result<()> {
        self.attention.inputs.pack()?;
        self.attention.out.pack()?;
        self.mlp.fc1.pack()?;
        self.mlp.fc2.pack()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.attention.forward(x, &self.norm1)?;
        let TowerMlp { fc1, fc2, activation } = &self.mlp;
        feed_forward(&x, &self.norm2, &FeedForwardLayers { up: fc1, activation: *activation, down: fc2 })
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
    fn load(config: &TowerConfig, scale: Option<Tensor>, vb: &VarBuilder) -> Result<Self> {
        let d = config.d_hidden;
        let outputs = [("q_proj", d), ("k_proj", d), ("v_proj", d)];
        let inputs = FusedConfig { d_in: d, outputs, bias: config.qkv_bias };
        let out = BlockNames::of(config.family).attention_out;
        Ok(Self {
            inputs: Fused::load(&inputs, vb, &FullPrecisionLoader(Purpose::Training))?,
            out: load_scaled(d, d, scale, &vb.pp(out))?,
            n_heads: config.n_heads,
            kernels: kernels::of(vb.device(), vb.dtype()),
        })
    }

    /// `x + attention(norm(x))`.
    fn forward(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let qkv = self.inputs.forward_normalised_parts(x, norm)?; // 3 of (T, N, D)
        let attended = self.kernels.full_attention(&qkv, self.n_heads)?;
        self.out.forward_residual(&attended, x) // (T, N, D)
    }
}

#[derive(Debug)]
struct TowerMlp {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl TowerMlp {
    fn load(config: &TowerConfig, scale: Option<Tensor>, vb: &VarBuilder) -> Result<Self> {
        let (d, wide) = (config.d_hidden, config.d_intermediate);
        Ok(Self {
            fc1: Linear::load(d, wide, Bias::With, &vb.pp("fc1"))?,
            fc2: load_scaled(wide, d, scale, &vb.pp("fc2"))?,
            activation: config.activation,
        })
    }
}

/// Returns a linear layer whose outputs are multiplied by `scale (d_out)`, if there is one: `s (W x + b) = (s W) x + s
/// b`.
fn load_scaled(d_in: usize, d_out: usize, scale: Option<Tensor>, vb: &VarBuilder) -> Result<Linear> {
    let Some(scale) = scale else { return Linear::load(d_in, d_out, Bias::With, vb) };
    let weight = vb.get((d_out, d_in), "weight")?.broadcast_mul(&scale.reshape((d_out, 1))?)?;
    Ok(Linear::new(weight, Some((vb.get(d_out, "bias")? * scale)?)))
}
