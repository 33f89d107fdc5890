//! The pre-norm transformer encoder that CLIP and SigLIP share.
//!
//! Reference: `modeling_clip.py` and `modeling_siglip.py` of Hugging Face transformers.

use std::ops::ControlFlow;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::TowerConfig;
use crate::nn::attention::{join_heads, split_heads};
use crate::nn::linear::{Bias, Linear, feed_forward};
use crate::nn::{Activation, LayerNorm, Mask, attention, full_attention};
use crate::units::LayerIndex;

/// The stack of blocks.
#[derive(Debug)]
pub(super) struct Encoder {
    layers: Vec<Block>,
}

impl Encoder {
    pub(super) fn load(config: &TowerConfig, n_layers: usize, vb: &VarBuilder) -> Result<Self> {
        let layers = vb.pp("layers");
        let load = |i: usize| Block::load(config, &layers.pp(i));
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
struct Block {
    norm1: LayerNorm,
    attention: SelfAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    fn load(config: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let norm = |name| LayerNorm::load(config.d_hidden, config.layer_norm_eps, &vb.pp(name));
        Ok(Self {
            norm1: norm("layer_norm1")?,
            attention: SelfAttention::load(config, &vb.pp("self_attn"))?,
            norm2: norm("layer_norm2")?,
            mlp: Mlp::load(config, &vb.pp("mlp"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.attention.forward(x, &self.norm1)?;
        let Mlp { fc1, fc2, activation } = &self.mlp;
        feed_forward(&x, &self.norm2, (fc1, *activation), fc2)
    }
}

#[derive(Debug)]
struct SelfAttention {
    projections: Projections,
    out: Linear,
    n_heads: usize,
}

#[derive(Debug)]
enum Projections {
    /// As they were read.
    Apart { query: Linear, key: Linear, value: Linear },
    /// As one, packed for inference on the CPU.
    Joined(Linear),
}

impl SelfAttention {
    fn load(config: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let linear = |name| Linear::load(config.d_hidden, config.d_hidden, Bias::With, &vb.pp(name));
        Ok(Self {
            projections: Projections::Apart {
                query: linear("q_proj")?,
                key: linear("k_proj")?,
                value: linear("v_proj")?,
            },
            out: linear("out_proj")?,
            n_heads: config.n_heads,
        })
    }

    fn pack(&mut self) -> Result<()> {
        if let Projections::Apart { query, key, value } = &self.projections
            && query.may_pack()
        {
            let mut joined = Linear::join(&[query, key, value])?;
            joined.pack()?;
            self.projections = Projections::Joined(joined);
        }
        self.out.pack()
    }

    /// `x + attention(norm(x))`.
    fn forward(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let attended = match &self.projections {
            Projections::Apart { query, key, value } => {
                let normalised = norm.forward(x)?;
                let heads = |projection: &Linear| split_heads(&projection.forward(&normalised)?, self.n_heads);
                let (q, k, v) = (heads(query)?, heads(key)?, heads(value)?); // (T, n_heads, N, d)
                join_heads(&attention(&q, &k, &v, Mask::Full)?)?
            }
            Projections::Joined(all) => full_attention(&all.forward_normalised(x, norm)?, self.n_heads)?,
        };
        self.out.forward_onto(&attended, x) // (T, N, D)
    }
}

#[derive(Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Mlp {
    fn load(config: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let (d, wide) = (config.d_hidden, config.d_intermediate);
        Ok(Self {
            fc1: Linear::load(d, wide, Bias::With, &vb.pp("fc1"))?,
            fc2: Linear::load(wide, d, Bias::With, &vb.pp("fc2"))?,
            activation: config.activation,
        })
    }
}
