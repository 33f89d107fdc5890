//! The Llama family: Llama 1 to 3, Vicuna, Yi, and Mistral's weights (`modeling_llama.py`).

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Embedding, Module, VarBuilder};
use rayon::prelude::*;

use super::KvCache;
use super::branches::Branch;
use super::rope::{Rope, RopeAngles, RopeScaling, RopeTable};
use crate::nn::attention::{join_heads, split_heads};
use crate::nn::linear::{Bias, Linear};
use crate::nn::softmax::Visible;
use crate::nn::{AsRead, Mask, Matrices, RmsNorm, activation, attention, on_workers};

/// Positions that go through the language model together in prefill: so many that the weights pass by seldom, so few that what is
/// between the layers stays small.
pub const PREFILL_CHUNK: usize = 1024;

/// A model's geometry, as its `config.json` tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Ids of the embedding table.
    pub vocab_size: usize,
    /// `H`.
    pub d_hidden: usize,
    /// Width of the feed-forward part.
    pub d_intermediate: usize,
    /// Layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key-value heads; fewer than `n_heads` in grouped-query attention.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// The RMS norms' epsilon.
    pub rms_norm_eps: f64,
    /// The base of the rotary frequencies.
    pub rope_theta: f32,
    /// Their scaling.
    pub rope_scaling: RopeScaling,
    /// Positions that the model is made for.
    pub context: usize,
    /// Whether the output head is the embedding table.
    pub tied_embeddings: bool,
    /// Whether the attention projections (query, key, value, output) have biases.
    pub attention_bias: bool,
    /// Whether the feed-forward projections (gate, up, down) have biases.
    pub mlp_bias: bool,
}

impl LlamaConfig {
    /// The rotary frequencies.
    pub fn rope(&self) -> Rope {
        Rope { d_head: self.d_head, theta: self.rope_theta, scaling: self.rope_scaling }
    }

    /// Weights of the linear layers, which each token passes once.
    pub fn n_linear_weights(&self) -> usize {
        let (h, wide, d) = (self.d_hidden, self.d_intermediate, self.d_head);
        let layer = 2 * h * self.n_heads * d + 2 * h * self.n_kv_heads * d + 3 * h * wide;
        self.n_layers * layer + h * self.vocab_size
    }
}

/// A decoder-only transformer.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    embeddings: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
    dtype: DType,
    device: Device,
}

impl Llama {
    /// Reads `model.embed_tokens`, `model.layers.*`, `model.norm` and, unless tied, `lm_head`.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn load(config: &LlamaConfig, vb: &VarBuilder) -> Result<Self> {
        Self::load_with(config, vb, &AsRead)
    }

    /// As [`Self::load`], the linear layers from `matrices`.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn load_with(config: &LlamaConfig, vb: &VarBuilder, matrices: &dyn Matrices) -> Result<Self> {
        let model = vb.pp("model");
        let table = model.get((config.vocab_size, config.d_hidden), "embed_tokens.weight")?;
        let head = if config.tied_embeddings {
            let mut head = Linear::from_weight(table.clone());
            matrices.hold(&mut head)?;
            head
        } else {
            matrices.linear(config.d_hidden, config.vocab_size, Bias::Without, &vb.pp("lm_head"))?
        };
        let layers = model.pp("layers");
        let load = |i: usize| Block::load(config, &layers.pp(i), matrices);
        let layers = if matrices.side_by_side() {
            (0..config.n_layers).into_par_iter().map(load).collect::<Result<_>>()?
        } else {
            (0..config.n_layers).map(load).collect::<Result<_>>()?
        };
        Ok(Self {
            config: config.clone(),
            embeddings: Embedding::new(table, config.d_hidden),
            layers,
            norm: RmsNorm::load(config.d_hidden, config.rms_norm_eps, &model.pp("norm"))?,
            head,
            dtype: vb.dtype(),
            device: vb.device().clone(),
        })
    }

    /// Packs the weights for inference, where that may be: see [`Linear::pack`].
    ///
    /// # Errors
    /// When candle fails.
    pub fn pack(&mut self) -> Result<()> {
        self.head.pack()?;
        self.layers.iter_mut().try_for_each(|layer| {
            layer.attention.inputs.pack()?;
            layer.attention.out.pack()?;
            layer.mlp.inputs.pack()?;
            layer.mlp.down.pack()
        })
    }

    /// Its linear layers; those over the same input may be one.
    pub fn linear_layers(&self) -> impl Iterator<Item = &Linear> {
        let of_layers = self.layers.iter().flat_map(|Block { attention, mlp, .. }| {
            let inputs = attention.inputs.layers().iter().chain(mlp.inputs.layers());
            inputs.chain([&attention.out, &mlp.down])
        });
        of_layers.chain([&self.head])
    }

    /// Its geometry.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The precision of its activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// An empty cache for a sequence of up to `capacity` positions.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new_cache(&self, capacity: usize) -> Result<KvCache> {
        self.new_cache_with_room(capacity, capacity)
    }

    /// An empty cache with room for `capacity` positions, of a sequence that begins with a prompt of `prompt`
    /// positions.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new_cache_with_room(&self, prompt: usize, capacity: usize) -> Result<KvCache> {
        KvCache::new(&self.config, (capacity.max(prompt), prompt), self.dtype, &self.device)
    }

    /// Embeds ids.
    ///
    /// # Shapes
    /// `S` ids to `(S, H)`.
    ///
    /// # Errors
    /// When an id is beyond the table, which means that tokenizer and model do not belong together.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            candle_core::bail!("token id {id} is beyond the vocabulary of {} ids", self.config.vocab_size);
        }
        self.embeddings.forward(&Tensor::from_slice(ids, ids.len(), &self.device)?)
    }

    /// Runs new positions through all layers, after those that the cache holds.
    ///
    /// # Shapes
    /// `(S, H)` to `(S, H)`, before the final norm.
    ///
    /// # Errors
    /// When the cache is full.
    pub fn forward(&self, embeds: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        cache.check_room(embeds.dim(0)?)?;
        let x = self.on_workers(|| {
            self.through_layers(embeds, |attention, x, layer| attention.forward_cached(x, layer, cache))
        })?;
        cache.advance(embeds.dim(0)?);
        Ok(x)
    }

    /// Runs `(S, H)` through all layers, the attention of each as `attend` says.
    pub(super) fn through_layers(
        &self,
        embeds: &Tensor,
        mut attend: impl FnMut(&SelfAttention, &Tensor, usize) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut x = embeds.unsqueeze(0)?; // (1, S, H)
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.apply(&x, |attention, x| attend(attention, x, i))?;
        }
        x.squeeze(0)
    }

    /// Runs whole sequences through all layers, without a cache: the forward pass of training.
    ///
    /// # Shapes
    /// `embeds (B, S, H)` to `(B, S, H)`, before the final norm; `positions (B, S)`, u32.
    ///
    /// # Errors
    /// When the shapes do not fit, or a position is beyond the context.
    pub fn forward_packed(&self, embeds: &Tensor, positions: &Tensor, visible: &Visible) -> Result<Tensor> {
        let angles = self.rope_table()?.at(positions)?;
        let mut x = embeds.clone();
        for layer in &self.layers {
            x = layer.apply(&x, |attention, x| attention.forward(x, &angles, visible))?;
        }
        Ok(x)
    }

    /// Runs something on the pool's threads where these compute, on the CPU.
    pub(super) fn on_workers<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        if self.device.is_cpu() { on_workers(run) } else { run() }
    }

    fn rope_table(&self) -> Result<RopeTable> {
        RopeTable::new(&self.config.rope(), (0, self.config.context), self.dtype, &self.device)
    }

    /// The logits of hidden states.
    ///
    /// # Shapes
    /// `(S, H)` to `(S, vocab_size)`, in f32.
    ///
    /// # Errors
    /// When candle fails.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.on_workers(|| self.head.forward_normalised(hidden, &self.norm)?.to_dtype(DType::F32))
    }

    /// Runs a prompt through the model in chunks of `chunk` positions, and gives the logits at its last one.
    ///
    /// # Shapes
    /// `embeds (S, H)` to `(vocab_size)`.
    ///
    /// # Errors
    /// When the prompt is empty, or longer than the cache.
    pub fn prefill(&self, embeds: &Tensor, chunk: usize, cache: &mut KvCache) -> Result<Tensor> {
        let total = embeds.dim(0)?;
        let mut last = None;
        for start in (0..total).step_by(chunk.max(1)) {
            let hidden = self.forward(&embeds.narrow(0, start, chunk.max(1).min(total - start))?, cache)?;
            last = Some(hidden.narrow(0, hidden.dim(0)? - 1, 1)?);
        }
        let last = last.ok_or_else(|| candle_core::Error::msg("prefill of an empty prompt"))?;
        self.logits(&last)?.squeeze(0)
    }
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Debug)]
struct Block {
    attention: SelfAttention,
    mlp: SwiGlu,
}

impl Block {
    fn load(config: &LlamaConfig, vb: &VarBuilder, matrices: &dyn Matrices) -> Result<Self> {
        let norm = |name| RmsNorm::load(config.d_hidden, config.rms_norm_eps, &vb.pp(name));
        Ok(Self {
            attention: SelfAttention::load(config, norm("input_layernorm")?, &vb.pp("self_attn"), matrices)?,
            mlp: SwiGlu::load(config, norm("post_attention_layernorm")?, &vb.pp("mlp"), matrices)?,
        })
    }

    /// Runs the block, its first part as `attend` says.
    fn apply(&self, x: &Tensor, attend: impl FnOnce(&SelfAttention, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
        self.mlp.forward(&attend(&self.attention, x)?)
    }
}

/// Several linear layers over the same input.
#[derive(Debug)]
enum Together<const N: usize> {
    /// As they were read.
    Apart([Linear; N]),
    /// As one, whose outputs stand beside each other: for inference on the CPU.
    Joined(Linear),
}

impl<const N: usize> Together<N> {
    /// Packs them, and joins them where they are held alike.
    fn pack(&mut self) -> Result<()> {
        let Self::Apart(layers) = self else { return Ok(()) };
        layers.iter_mut().try_for_each(Linear::pack)?;
        if let Some(joined) = Linear::join(&layers.each_ref())? {
            *self = Self::Joined(joined);
        }
        Ok(())
    }

    fn layers(&self) -> &[Linear] {
        match self {
            Self::Apart(layers) => layers,
            Self::Joined(layer) => std::slice::from_ref(layer),
        }
    }
}

/// `x + out(attention(norm(x)))`.
#[derive(Debug)]
pub(super) struct SelfAttention {
    norm: RmsNorm,
    /// Query, key, value.
    inputs: Together<3>,
    out: Linear,
    n_heads: usize,
    n_kv_heads: usize,
}

impl SelfAttention {
    fn load(config: &LlamaConfig, norm: RmsNorm, vb: &VarBuilder, matrices: &dyn Matrices) -> Result<Self> {
        let (h, d) = (config.d_hidden, config.d_head);
        let bias = if config.attention_bias { Bias::With } else { Bias::Without };
        let into = |name, n: usize| matrices.linear(h, n * d, bias, &vb.pp(name));
        Ok(Self {
            norm,
            inputs: Together::Apart([
                into("q_proj", config.n_heads)?,
                into("k_proj", config.n_kv_heads)?,
                into("v_proj", config.n_kv_heads)?,
            ]),
            out: matrices.linear(config.n_heads * d, h, bias, &vb.pp("o_proj"))?,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
        })
    }

    /// Queries, keys and values of the normalised `x`: `(B, n_heads or n_kv_heads, S, d)`.
    fn project(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let (n, n_kv) = (self.n_heads, self.n_kv_heads);
        match &self.inputs {
            Together::Apart([query, key, value]) => {
                let x = self.norm.forward(x)?;
                Ok([
                    split_heads(&query.forward(&x)?, n)?,
                    split_heads(&key.forward(&x)?, n_kv)?,
                    split_heads(&value.forward(&x)?, n_kv)?,
                ])
            }
            Together::Joined(all) => {
                let all = all.forward_normalised(x, &self.norm)?; // (B, S, (n_heads + 2 n_kv_heads) d)
                let (b, s, width) = all.dims3()?;
                let heads = all.reshape((b, s, n + 2 * n_kv, width / (n + 2 * n_kv).max(1)))?;
                let part = |first: usize, n: usize| heads.narrow(2, first, n)?.transpose(1, 2)?.contiguous();
                Ok([part(0, n)?, part(n, n_kv)?, part(n + n_kv, n_kv)?])
            }
        }
    }

    /// Queries and keys, rotated, and values: `(B, n_heads or n_kv_heads, S, d)`.
    fn project_rotated(&self, x: &Tensor, angles: &RopeAngles) -> Result<[Tensor; 3]> {
        let [q, k, v] = self.project(x)?;
        Ok([angles.rotate(&q)?, angles.rotate(&k)?, v])
    }

    fn forward(&self, x: &Tensor, angles: &RopeAngles, visible: &Visible) -> Result<Tensor> {
        let [q, k, v] = self.project_rotated(x, angles)?;
        self.out.forward_onto(&join_heads(&attention(&q, &k, &v, Mask::Visible(visible))?)?, x)
    }

    fn forward_cached(&self, x: &Tensor, layer: usize, cache: &mut KvCache) -> Result<Tensor> {
        let [q, k, v] = self.project_rotated(x, &cache.rope().range(cache.len(), x.dim(1)?)?)?;
        let (keys, values) = cache.write(layer, &k, &v)?; // (1, n_kv_heads, len + S, d_head)
        self.out.forward_onto(&join_heads(&attention(&q, &keys, &values, Mask::Causal)?)?, x)
    }

    /// The same for several branches, each over the prefix and itself: see [`Llama::forward_branches`].
    pub(super) fn forward_branches(
        &self,
        x: &Tensor,
        layer: usize,
        parts: &mut [(&mut Branch, usize)],
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let [q, k, v] = self.project(x)?; // (1, n_heads or n_kv_heads, R, d)
        let (mut first, mut outs) = (0, Vec::with_capacity(parts.len()));
        for (branch, n) in parts.iter_mut() {
            let of_branch = |t: &Tensor| t.narrow(2, first, *n)?.contiguous();
            let angles = cache.rope().range(cache.len() + branch.len(), *n)?;
            let (q, k) = (angles.rotate(&of_branch(&q)?)?, angles.rotate(&of_branch(&k)?)?);
            let (own_keys, own_values) = branch.write(layer, &k, &of_branch(&v)?)?;
            let (keys, values) = cache.write(layer, &own_keys, &own_values)?;
            outs.push(join_heads(&attention(&q, &keys, &values, Mask::Causal)?)?); // (1, n, n_heads d)
            first += *n;
        }
        self.out.forward_onto(&Tensor::cat(&outs, 1)?, x)
    }
}

/// `x + down(silu(gate(norm(x))) * up(norm(x)))` (arXiv 2002.05202).
#[derive(Debug)]
struct SwiGlu {
    norm: RmsNorm,
    /// Gate, up.
    inputs: Together<2>,
    down: Linear,
}

impl SwiGlu {
    fn load(config: &LlamaConfig, norm: RmsNorm, vb: &VarBuilder, matrices: &dyn Matrices) -> Result<Self> {
        let (h, wide) = (config.d_hidden, config.d_intermediate);
        let bias = if config.mlp_bias { Bias::With } else { Bias::Without };
        Ok(Self {
            norm,
            inputs: Together::Apart([
                matrices.linear(h, wide, bias, &vb.pp("gate_proj"))?,
                matrices.linear(h, wide, bias, &vb.pp("up_proj"))?,
            ]),
            down: matrices.linear(wide, h, bias, &vb.pp("down_proj"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gated = match &self.inputs {
            Together::Apart([gate, up]) => {
                let x = self.norm.forward(x)?;
                activation::swiglu(&gate.forward(&x)?, &up.forward(&x)?)?
            }
            Together::Joined(both) => activation::swiglu_of_joined(&both.forward_normalised(x, &self.norm)?)?,
        };
        self.down.forward_onto(&gated, x)
    }
}
