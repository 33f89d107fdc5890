//! The Llama family: Llama 1 to 3, Vicuna, Yi, Mistral's weights (`modeling_llama.py`), Qwen2, Qwen2.5 and Qwen3.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::rope::{Rope, RopeAngles, RopeScaling, RopeTable};
use crate::device::DTypeSpec;
use crate::kernels::kv::{GreedyStep, KvConfig, KvGeometry, KvStore, StepLayout, StepRows};
use crate::kernels::{self, Kernels, Mask, VisibleKeys, join_heads, split_heads};
use crate::nn::linear::{Bias, Linear};
use crate::nn::{FullPrecisionLoader, Fused, FusedConfig, LinearLoader, Purpose, RmsNorm};
use crate::weights::StoredRows;

/// Geometry of a model, as `config.json` describes it.
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
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Scaling of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Positions of the context.
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
    /// None of them.
    None,
    /// Query, key and value, and not the output: Qwen2 (`modeling_qwen2.py`).
    QueryKeyValue,
    /// Query, key, value and output.
    All,
}

/// Norms of an attention's queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// None.
    None,
    /// An RMS norm over each head's channels: Qwen3 (`modeling_qwen3.py`).
    PerHead,
}

impl LlamaConfig {
    /// Returns the rotary frequencies.
    pub fn rope(&self) -> Rope {
        Rope { d_head: self.d_head, theta: self.rope_theta, scaling: self.rope_scaling }
    }

    /// Sizes of the key-value memory.
    pub fn kv_geometry(&self) -> KvGeometry {
        let Self { n_layers, n_heads, n_kv_heads, d_head, .. } = *self;
        KvGeometry { n_layers, n_heads, n_kv_heads, d_head }
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
    embeddings: TokenEmbeddings,
    layers: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
    dtype: DType,
    /// Precision of stored keys and values.
    kv_dtype: DTypeSpec,
    device: Device,
    kernels: &'static dyn Kernels,
}

/// The embedding table, `(vocab_size, H)`.
#[derive(Debug)]
enum TokenEmbeddings {
    Table(Tensor),
    /// The weight of the output head: where both are one and packed, so that it is in memory once.
    OfHead,
    /// Rows in the checkpoint's file: on the CPU.
    Stored(StoredRows),
}

impl Llama {
    /// Reads `model.embed_tokens`, `model.layers.*`, `model.norm` and, unless tied, `lm_head`.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn load(config: &LlamaConfig, vb: &VarBuilder, purpose: Purpose) -> Result<Self> {
        Self::load_with(config, vb, &FullPrecisionLoader(purpose))
    }

    /// Loads a model whose linear layers come from `loader`.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn load_with(config: &LlamaConfig, vb: &VarBuilder, loader: &dyn LinearLoader) -> Result<Self> {
        let model = vb.pp("model");
        let (embeddings, head) = load_vocabulary(config, vb, loader)?;
        let layers = model.pp("layers");
        let load = |i: usize| Block::load(config, &layers.pp(i), loader);
        let layers = if loader.reads_in_parallel() {
            (0..config.n_layers).into_par_iter().map(load).collect::<Result<_>>()?
        } else {
            (0..config.n_layers).map(load).collect::<Result<_>>()?
        };
        Ok(Self {
            config: config.clone(),
            embeddings,
            layers,
            norm: RmsNorm::load(config.d_hidden, config.rms_norm_eps, &model.pp("norm"))?,
            head,
            dtype: vb.dtype(),
            kv_dtype: DTypeSpec::Auto,
            device: vb.device().clone(),
            kernels: kernels::of(vb.device(), vb.dtype()),
        })
    }

    /// Returns the linear layers; layers over the same input may be fused into one.
    pub fn linear_layers(&self) -> impl Iterator<Item = &Linear> {
        let of_layers = self.layers.iter().flat_map(|Block { attention, mlp, .. }| {
            let inputs = attention.inputs.layers().iter().chain(mlp.inputs.layers());
            inputs.chain([&attention.out, &mlp.down])
        });
        of_layers.chain([&self.head])
    }

    /// Returns the geometry.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Returns the dtype of the activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the kernels of its device.
    pub fn kernels(&self) -> &'static dyn Kernels {
        self.kernels
    }

    /// Returns the device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Sets the precision in which keys and values are stored. Default: `auto`, see [`KvConfig::precision`].
    ///
    /// # Errors
    /// When the device has no kernel for it.
    pub fn set_kv_dtype(&mut self, precision: DTypeSpec) -> Result<()> {
        self.kv_dtype = precision;
        self.new_kv_store().map(drop)
    }

    /// Makes an empty key-value store for this model.
    ///
    /// # Errors
    /// When the geometry's heads are not shared evenly, or the precision of keys and values has no kernel.
    pub fn new_kv_store(&self) -> Result<Box<dyn KvStore>> {
        self.kernels.kv_store(&KvConfig {
            geometry: self.config.kv_geometry(),
            precision: self.kv_dtype,
            activations: self.dtype,
            quantization: self.linear_layers().find_map(Linear::format),
            device: &self.device,
        })
    }

    /// Embeds ids.
    ///
    /// # Shapes
    /// `S` ids to `(S, H)`.
    ///
    /// # Errors
    /// When an id is beyond the table, which means that tokenizer and model do not belong together.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        self.check_ids(ids)?;
        self.embedding_rows(&Tensor::from_slice(ids, ids.len(), &self.device)?)
    }

    /// Rows of the embedding table: ids `(S)` to `(S, H)`.
    fn embedding_rows(&self, ids: &Tensor) -> Result<Tensor> {
        let rows = match &self.embeddings {
            TokenEmbeddings::Table(table) => return self.kernels.gather(table, ids),
            TokenEmbeddings::Stored(rows) => return rows.read(&ids.to_vec1()?),
            TokenEmbeddings::OfHead => self.head.weight_rows(ids)?,
        };
        rows.ok_or_else(|| candle_core::Error::msg("the output head was quantized after it was tied"))
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            candle_core::bail!("token id {id} is beyond the vocabulary of {} ids", self.config.vocab_size);
        }
        Ok(())
    }

    /// Runs one step: new positions of any number of sequences through all layers, each after those that the store
    /// holds of it.
    ///
    /// # Shapes
    /// `embeds (S, H)`, the rows of one sequence after those of the other; to `(S, H)`, before the final norm.
    ///
    /// # Errors
    /// When the shapes do not fit, or a page has no memory.
    pub fn forward(&self, embeds: &Tensor, rows: &[SequenceRows], store: &mut dyn KvStore) -> Result<Tensor> {
        store.begin(self.step_layout(rows))?;
        self.kernels.run(|| self.through_layers(embeds.clone(), store))
    }

    fn step_layout(&self, rows: &[SequenceRows]) -> StepLayout {
        let (cos, sin) = self.config.rope().angles(rows.iter().flat_map(SequenceRows::positions));
        StepLayout { sequences: rows.iter().map(|rows| rows.rows.clone()).collect(), cos, sin }
    }

    /// Runs the rows of a step that was begun: `(S, H)` to `(S, H)`.
    fn through_layers(&self, mut x: Tensor, store: &mut dyn KvStore) -> Result<Tensor> {
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.apply(&x, |attention, x| attention.forward_stored(x, i, store))?;
        }
        Ok(x)
    }

    /// Runs one step of answers as a whole, where the store can replay it: the next id of each sequence, none of a
    /// sequence whose logits are not finite.
    ///
    /// # Errors
    /// When an id is beyond the vocabulary, or as [`Self::forward`].
    pub fn replay_greedy(
        &self,
        ids: &[u32],
        rows: &[SequenceRows],
        store: &mut dyn KvStore,
    ) -> Result<Option<Vec<Option<u32>>>> {
        if !store.replays() {
            return Ok(None);
        }
        self.check_ids(ids)?;
        let step = GreedyStep { ids: ids.to_vec(), layout: self.step_layout(rows) };
        store.replay(step, &mut |ids, store| {
            let x = self.through_layers(self.embedding_rows(ids)?, store)?;
            self.head.forward_normalised(&x, &self.norm)
        })
    }

    /// Runs whole sequences through all layers, without a cache: the forward pass of training.
    ///
    /// # Shapes
    /// `embeds (B, S, H)` to `(B, S, H)`, before the final norm; `positions (B, S)`, u32.
    ///
    /// # Errors
    /// When the shapes do not fit, or a position is beyond the context.
    pub fn forward_packed(&self, embeds: &Tensor, positions: &Tensor, visible: &VisibleKeys) -> Result<Tensor> {
        let angles = self.rope_table()?.at(positions)?;
        let mut x = embeds.clone();
        for layer in &self.layers {
            x = layer.apply(&x, |attention, x| attention.forward(x, &angles, visible))?;
        }
        Ok(x)
    }

    fn rope_table(&self) -> Result<RopeTable> {
        RopeTable::new(&self.config.rope(), self.config.context, self.dtype, &self.device)
    }

    /// Returns the logits of hidden states.
    ///
    /// # Shapes
    /// `(S, H)` to `(S, vocab_size)`, in f32.
    ///
    /// # Errors
    /// When candle fails.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.kernels.run(|| self.head.forward_normalised(hidden, &self.norm)?.to_dtype(DType::F32))
    }
}

/// Reads the embedding table and the output head, packed for inference.
fn load_vocabulary(
    config: &LlamaConfig,
    vb: &VarBuilder,
    loader: &dyn LinearLoader,
) -> Result<(TokenEmbeddings, Linear)> {
    let (shape, table_vb) = ((config.vocab_size, config.d_hidden), vb.pp("model").pp("embed_tokens"));
    let mut table = None;
    let mut head = if config.tied_embeddings {
        let mut head = Linear::from_weight(table.insert(table_vb.get(shape, "weight")?).clone());
        loader.convert(&mut head)?;
        head
    } else {
        loader.linear(config.d_hidden, config.vocab_size, Bias::Without, &vb.pp("lm_head"))?
    };
    if loader.purpose() == Purpose::Inference {
        head.pack()?;
    }
    if config.tied_embeddings && head.is_packed_in_full() {
        return Ok((TokenEmbeddings::OfHead, head));
    }
    let embeddings = match (loader.stored_rows(shape, &table_vb)?, table) {
        (Some(rows), _) => TokenEmbeddings::Stored(rows),
        (None, Some(table)) => TokenEmbeddings::Table(table),
        (None, None) => TokenEmbeddings::Table(table_vb.get(shape, "weight")?),
    };
    Ok((embeddings, head))
}

/// New positions of one sequence.
#[derive(Debug, Clone)]
pub struct SequenceRows {
    /// The new positions and their block table.
    pub rows: StepRows,
    /// Positions of the sequence's prompt, which the frequencies of dynamic NTK depend on.
    pub n_prompt: usize,
}

impl SequenceRows {
    /// Returns the new positions, each with the length of the prompt.
    fn positions(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (self.rows.start..self.rows.end()).map(|position| (position, self.n_prompt))
    }
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Debug)]
struct Block {
    attention: SelfAttention,
    mlp: SwiGlu,
}

impl Block {
    fn load(config: &LlamaConfig, vb: &VarBuilder, loader: &dyn LinearLoader) -> Result<Self> {
        let norm = |name| RmsNorm::load(config.d_hidden, config.rms_norm_eps, &vb.pp(name));
        let mut attention = SelfAttention::load(config, norm("input_layernorm")?, &vb.pp("self_attn"), loader)?;
        let mut mlp = SwiGlu::load(config, norm("post_attention_layernorm")?, &vb.pp("mlp"), loader)?;
        if loader.purpose() == Purpose::Inference {
            attention.inputs.pack().and_then(|()| attention.out.pack())?;
            mlp.inputs.pack().and_then(|()| mlp.down.pack())?;
        }
        Ok(Self { attention, mlp })
    }

    /// Runs the block, its first part as `attend` says.
    fn apply(&self, x: &Tensor, attend: impl FnOnce(&SelfAttention, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
        self.mlp.forward(&attend(&self.attention, x)?)
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
