//! The Llama family: Llama 1 to 3, Vicuna, Yi, Mistral's weights (`modeling_llama.py`), Qwen2, Qwen2.5 and Qwen3.
//!
//! [`Llama`] is the whole network: embedding `S` ids to `(S, H)`, the layers, the final norm and the output head to
//! `(S, vocab_size)`. With a key-value store one step takes rows of any number of sequences; without, whole sequences
//! `(B, S, H)` have gradients. The layer itself is in `llama/block.rs`. The loop over tokens and the choice of tokens
//! are the engine's, batches of training are the trainer's.

mod block;
mod config;
mod vocabulary;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::rope::{RopeRow, RopeTable};
use crate::device::DTypeSpec;
use crate::kernels::kv::{DecodeOutput, DecodeStep, KvConfig, KvStore, StepLayout, StepRows};
use crate::kernels::{self, Kernels, OpWork, VisibleKeys};
use crate::nn::linear::Linear;
use crate::nn::{FullPrecisionLoader, LinearLoader, Purpose, RmsNorm};
use block::Block;
use vocabulary::{TokenEmbeddings, load_vocabulary};

pub use config::{AttentionBias, LlamaConfig, QueryKeyNorm};

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
        self.layers.iter().flat_map(Block::linear_layers).chain([&self.head])
    }

    /// Returns the geometry.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Returns the dtype of the activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the kernels of the device and dtype.
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

    /// Returns rows of the embedding table: ids `(S)` to `(S, H)`.
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

    /// Runs one step: new positions of any number of sequences through all layers. The new positions of a sequence
    /// follow those in the store.
    ///
    /// # Shapes
    /// `embeds (S, H)`, sequence after sequence; to `(S, H)`, before the final norm.
    ///
    /// # Errors
    /// When the shapes do not fit, or a page has no memory.
    pub fn forward(&self, embeds: &Tensor, rows: &[SequenceRows], store: &mut dyn KvStore) -> Result<Tensor> {
        store.begin(self.step_layout(rows))?;
        self.kernels.run(self.step_work(rows), || self.through_layers(embeds.clone(), store))
    }

    /// Returns the work of a step in one layer.
    fn step_work(&self, rows: &[SequenceRows]) -> OpWork {
        let (geometry, n_rows) = (self.config.kv_geometry(), rows.iter().map(|rows| rows.rows.n).sum::<usize>());
        let widest = geometry.width().max(2 * self.config.d_intermediate);
        let n_scores: usize = rows.iter().map(|rows| rows.rows.n * rows.rows.end()).sum();
        OpWork {
            product: n_rows * self.config.d_hidden * widest,
            attention: n_scores * geometry.n_heads * geometry.d_head,
        }
    }

    fn step_layout(&self, rows: &[SequenceRows]) -> StepLayout {
        let (cos, sin) = self.config.rope().angles(rows.iter().flat_map(SequenceRows::positions));
        StepLayout { sequences: rows.iter().map(|rows| rows.rows.clone()).collect(), cos, sin }
    }

    /// Runs the rows of a step after [`KvStore::begin`]: `(S, H)` to `(S, H)`.
    fn through_layers(&self, mut x: Tensor, store: &mut dyn KvStore) -> Result<Tensor> {
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward_stored(&x, i, store)?;
        }
        Ok(x)
    }

    /// Runs one decode step, replayed as a graph where one is recorded. Returns `None` where the store does not run
    /// such steps.
    ///
    /// # Errors
    /// When an id is beyond the vocabulary, or as [`Self::forward`].
    pub fn run_decode(
        &self,
        ids: &[u32],
        rows: &[SequenceRows],
        store: &mut dyn KvStore,
    ) -> Result<Option<DecodeOutput>> {
        if !store.runs_decode() {
            return Ok(None);
        }
        self.check_ids(ids)?;
        let step = DecodeStep { ids: ids.to_vec(), layout: self.step_layout(rows) };
        store.run_decode(step, &mut |ids, store| {
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
            x = layer.forward(&x, &angles, visible)?;
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
        let work = OpWork { product: hidden.elem_count() * self.config.vocab_size, attention: 0 };
        self.kernels.run(work, || self.head.forward_normalised(hidden, &self.norm)?.to_dtype(DType::F32))
    }
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
    fn positions(&self) -> impl Iterator<Item = RopeRow> + '_ {
        (self.rows.start..self.rows.end()).map(|position| RopeRow { position, n_prompt: self.n_prompt })
    }
}
