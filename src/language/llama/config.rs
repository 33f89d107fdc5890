//! Geometry of a Llama model: widths, heads, norms, biases, rotary frequencies.
//!
//! A plain value: `vlm/config/` makes it of `config.json` and checks it.
//! No weights are read here.

use crate::kernels::kv::KvGeometry;
use crate::language::rope::{Rope, RopeScaling};

/// Geometry of a model, as `config.json` describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Number of ids of the embedding table.
    pub vocab_size: usize,
    /// `H`.
    pub d_hidden: usize,
    /// Width of the feed-forward part.
    pub d_intermediate: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key-value heads; fewer than `n_heads` in grouped-query attention.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Scaling of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Length of the context, in positions.
    pub context: usize,
    /// Whether the output head is the embedding table.
    pub tied_embeddings: bool,
    /// Projections of the attention that have biases.
    pub attention_bias: AttentionBias,
    /// Norms of queries and keys before they are rotated.
    pub qk_norm: QueryKeyNorm,
    /// Whether the feed-forward projections (gate, up, down) have biases.
    pub mlp_bias: bool,
}

/// Projections of an attention that have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionBias {
    /// No biases.
    None,
    /// Query, key and value, and not the output: Qwen2 (`modeling_qwen2.py`).
    QueryKeyValue,
    /// Query, key, value and output.
    All,
}

/// Norms of an attention's queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// No norm.
    None,
    /// An RMS norm over each head's channels: Qwen3 (`modeling_qwen3.py`).
    PerHead,
}

impl LlamaConfig {
    /// Returns the rotary frequencies.
    pub fn rope(&self) -> Rope {
        Rope { d_head: self.d_head, theta: self.rope_theta, scaling: self.rope_scaling }
    }

    /// Returns the sizes of the key-value memory.
    pub(crate) fn kv_geometry(&self) -> KvGeometry {
        let Self { n_layers, n_heads, n_kv_heads, d_head, .. } = *self;
        KvGeometry { n_layers, n_heads, n_kv_heads, d_head }
    }

    /// Number of weights of the linear layers, output head included: each is used once per token.
    pub fn n_linear_weights(&self) -> usize {
        let (h, wide, d) = (self.d_hidden, self.d_intermediate, self.d_head);
        let layer = 2 * h * self.n_heads * d + 2 * h * self.n_kv_heads * d + 3 * h * wide;
        self.n_layers * layer + h * self.vocab_size
    }
}
