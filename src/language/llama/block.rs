//! One layer: attention with rotary positions, then SwiGLU (`modeling_llama.py`), each over an RMS norm and with a
//! residual.
//!
//! Attention runs in two ways: over the pages of a key-value store, `(S, H)` rows of any number of sequences, and
//! within whole sequences without a cache, `(B, S, H)`, with gradients. Both fuse the norm into the projections and the
//! residual into the output. The loop over layers is in [`Llama`](super::Llama).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::{AttentionBias, LlamaConfig, QueryKeyNorm};
use crate::kernels::kv::KvStore;
use crate::kernels::{self, Kernels, Mask, VisibleKeys, join_heads, split_heads};
use crate::language::rope::RopeAngles;
use crate::nn::linear::{Bias, Linear};
use crate::nn::{Fused, FusedConfig, LinearLoader, Purpose, RmsNorm};

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Debug)]
pub(super) struct Block {
    attention: SelfAttention,
    mlp: SwiGlu,
}

impl Block {
    /// Reads the layer `model.layers.{i}`, packed for inference.
    pub(super) fn load(config: &LlamaConfig, vb: &VarBuilder, loader: &dyn LinearLoader) -> Result<Self> {
        let norm = |name| RmsNorm::load(config.d_hidden, config.rms_norm_eps, &vb.pp(name));
        let mut attention = SelfAttention::load(config, norm("input_layernorm")?, &vb.pp("self_attn"), loader)?;
        let mut mlp = SwiGlu::load(config, norm("post_attention_layernorm")?, &vb.pp("mlp"), loader)?;
        if loader.purpose() == Purpose::Inference {
            attention.inputs.pack().and_then(|()| attention.out.pack())?;
            mlp.inputs.pack().and_then(|()| mlp.down.pack())?;
        }
        Ok(Self { attention, mlp })
    }

    /// Returns the linear layers.
    pub(super) fn linear_layers(&self) -> impl Iterator<Item = &Linear> {
        let Self { attention, mlp } = self;
        let inputs = attention.inputs.layers().iter().chain(mlp.inputs.layers());
        inputs.chain([&attention.out, &mlp.down])
    }

    /// Runs whole sequences: `(B, S, H)` to `(B, S, H)`.
    pub(super) fn forward(&self, x: &Tensor, angles: &RopeAngles, visible: &VisibleKeys) -> Result<Tensor> {
        self.mlp.forward(&self.attention.forward(x, angles, visible)?)
    }

    /// Runs the rows of a step, as layer `layer` of the store: `(S, H)` to `(S, H)`.
    pub(super) fn forward_stored(&self, x: &Tensor, layer: usize, store: &mut dyn KvStore) -> Result<Tensor> {
        self.mlp.forward(&self.attention.forward_stored(x, layer, store)?)
    }
}

/// `x + out(attention(norm(x)))`.
#[derive(Debug)]
struct SelfAttention {
    norm: RmsNorm,
    /// Query, key, value.
    inputs: Fused<3>,
    /// Norms of queries and keys, before the rotation.
    head_norms: Option<[RmsNorm; 2]>,
    out: Linear,
    n_heads: usize,
    n_kv_heads: usize,
    kernels: &'static dyn Kernels,
}

impl SelfAttention {
    fn load(config: &LlamaConfig, norm: RmsNorm, vb: &VarBuilder, loader: &dyn LinearLoader) -> Result<Self> {
        let (h, d) = (config.d_hidden, config.d_head);
        let (bias, out_bias) = match config.attention_bias {
            AttentionBias::None => (Bias::Without, Bias::Without),
            AttentionBias::QueryKeyValue => (Bias::With, Bias::Without),
            AttentionBias::All => (Bias::With, Bias::With),
        };
        let head_norm = |name: &str| RmsNorm::load(d, config.rms_norm_eps, &vb.pp(name));
        let (queries, keys) = (config.n_heads * d, config.n_kv_heads * d);
        let outputs = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
        Ok(Self {
            norm,
            inputs: Fused::load(&FusedConfig { d_in: h, outputs, bias }, vb, loader)?,
            head_norms: match config.qk_norm {
                QueryKeyNorm::None => None,
                QueryKeyNorm::PerHead => Some([head_norm("q_norm")?, head_norm("k_norm")?]),
            },
            out: loader.linear(config.n_heads * d, h, out_bias, &vb.pp("o_proj"))?,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            kernels: kernels::of(vb.device(), vb.dtype()),
        })
    }

    /// Attends within whole sequences: `(B, S, H)` to `(B, S, H)`.
    fn forward(&self, x: &Tensor, angles: &RopeAngles, visible: &VisibleKeys) -> Result<Tensor> {
        let [q, k, v] = self.inputs.forward_normalised_parts(x, &self.norm)?;
        let (mut q, mut k) = (split_heads(&q, self.n_heads)?, split_heads(&k, self.n_kv_heads)?);
        if let Some([of_queries, of_keys]) = &self.head_norms {
            (q, k) = (of_queries.forward(&q.contiguous()?)?, of_keys.forward(&k.contiguous()?)?);
        }
        let (q, k, v) = (angles.rotate(&q)?, angles.rotate(&k)?, split_heads(&v, self.n_kv_heads)?);
        let attended = self.kernels.attention(&q, &k, &v, Mask::Visible(visible))?;
        self.out.forward_residual(&join_heads(&attended)?, x)
    }

    /// Attends over the positions of a store: `(S, H)` to `(S, H)`.
    fn forward_stored(&self, x: &Tensor, layer: usize, store: &mut dyn KvStore) -> Result<Tensor> {
        let qkv = self.inputs.forward_normalised(x, &self.norm)?; // (S, (n_heads + 2 n_kv_heads) d)
        let qkv = self.normalise_heads(qkv)?;
        self.out.forward_residual(&store.attend(layer, &qkv)?, x)
    }

    /// Applies the norms of queries and keys, if there are any: `(S, (n_heads + 2 n_kv_heads) d)` to the same.
    fn normalise_heads(&self, qkv: Tensor) -> Result<Tensor> {
        let Some([of_queries, of_keys]) = &self.head_norms else { return Ok(qkv) };
        let (n_rows, width) = qkv.dims2()?;
        let d = width / (self.n_heads + 2 * self.n_kv_heads);
        let part = |start: usize, n_heads: usize| qkv.narrow(1, start * d, n_heads * d)?.contiguous();
        let norm = |norm: &RmsNorm, x: Tensor| norm.forward(&x.reshape((n_rows, (), d))?)?.reshape((n_rows, ()));
        let queries = norm(of_queries, part(0, self.n_heads)?)?;
        let keys = norm(of_keys, part(self.n_heads, self.n_kv_heads)?)?;
        Tensor::cat(&[queries, keys, part(self.n_heads + self.n_kv_heads, self.n_kv_heads)?], 1)
    }
}

/// `x + down(silu(gate(norm(x))) * up(norm(x)))` (arXiv 2002.05202).
#[derive(Debug)]
struct SwiGlu {
    norm: RmsNorm,
    /// Gate, up.
    inputs: Fused<2>,
    down: Linear,
    kernels: &'static dyn Kernels,
}

impl SwiGlu {
    fn load(config: &LlamaConfig, norm: RmsNorm, vb: &VarBuilder, loader: &dyn LinearLoader) -> Result<Self> {
        let (h, wide) = (config.d_hidden, config.d_intermediate);
        let bias = if config.mlp_bias { Bias::With } else { Bias::Without };
        let outputs = [("gate_proj", wide), ("up_proj", wide)];
        Ok(Self {
            norm,
            inputs: Fused::load(&FusedConfig { d_in: h, outputs, bias }, vb, loader)?,
            down: loader.linear(wide, h, bias, &vb.pp("down_proj"))?,
            kernels: kernels::of(vb.device(), vb.dtype()),
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gated = match self.inputs.layers() {
            [both] => self.kernels.swiglu_joined(&both.forward_normalised(x, &self.norm)?)?,
            _ => {
                let [gate, up] = self.inputs.forward_normalised_parts(x, &self.norm)?;
                self.kernels.swiglu(&gate, &up)?
            }
        };
        self.down.forward_residual(&gated, x)
    }
}
