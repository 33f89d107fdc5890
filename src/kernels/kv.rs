//! Key-value memory in pages, as every device offers it.
//!
//! A page holds keys and values of [`PAGE_LEN`] consecutive positions, for all layers. A sequence is a list of pages,
//! its block table; sequences that begin alike name the same pages. Which page belongs to whom is the engine's affair:
//! a store only keeps what is written and attends over it. One step of the language model is [`KvStore::begin`], then
//! [`KvStore::attend`] once a layer.
//!
//! Reference: PagedAttention, arXiv 2309.06180, section 4.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::QuantFormat;
use crate::device::DTypeSpec;

/// Positions of a page.
pub const PAGE_LEN: usize = 32;

/// A page of a store, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(
    /// The index, from 0.
    pub u32,
);

impl PageId {
    /// The index as a subscript.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number of pages that hold `n` positions.
pub fn pages_for(n: usize) -> usize {
    n.div_ceil(PAGE_LEN)
}

/// Sizes that decide how keys and values are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvGeometry {
    /// Layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key-value heads; query head `i` reads key-value head `i / (n_heads / n_kv_heads)` (arXiv 2305.13245).
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub d_head: usize,
}

impl KvGeometry {
    /// Elements of a position's queries, keys and values side by side.
    pub fn width(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.d_head
    }

    /// Bytes of a position's keys and values in all layers.
    pub fn position_bytes(&self, dtype: DType) -> usize {
        2 * self.n_layers * self.n_kv_heads * self.d_head * dtype.size_in_bytes()
    }

    /// Query heads that share a key-value head.
    pub fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads.max(1)
    }

    /// Checks that the query heads share the key-value heads evenly, and that a head can be rotated.
    ///
    /// # Errors
    /// When they do not.
    pub fn check(&self) -> Result<()> {
        let Self { n_heads, n_kv_heads, d_head, .. } = *self;
        if n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) {
            candle_core::bail!("attention: {n_heads} heads do not share {n_kv_heads} key-value heads evenly");
        }
        if d_head == 0 || !d_head.is_multiple_of(2) {
            candle_core::bail!("attention: a head of {d_head} elements cannot be rotated in pairs");
        }
        Ok(())
    }
}

/// Configuration of a key-value store.
#[derive(Debug, Clone, Copy)]
pub struct KvConfig<'a> {
    /// Sizes.
    pub geometry: KvGeometry,
    /// Precision in which keys and values are stored. `auto`: that of the activations; on the CPU f16 beside quantized
    /// weights, else f32.
    pub precision: DTypeSpec,
    /// Precision of the language model's activations.
    pub activations: DType,
    /// Format of the language model's quantized weights.
    pub quantization: Option<QuantFormat>,
    /// Device of the language model.
    pub device: &'a Device,
}

impl KvConfig<'_> {
    /// Resolves the precision for a store that has kernels for that of the activations only.
    ///
    /// # Errors
    /// When another precision is asked for.
    pub fn as_activations(&self) -> Result<DType> {
        match self.precision {
            DTypeSpec::Fixed(dtype) if dtype != self.activations => candle_core::bail!(
                "keys and values in {} have no kernel beside activations in {} on {:?}; hint: {}",
                dtype.as_str(),
                self.activations.as_str(),
                self.device.location(),
                self.activations.as_str()
            ),
            _ => Ok(self.activations),
        }
    }
}

/// New positions of one sequence in a step.
#[derive(Debug, Clone)]
pub struct StepRows {
    /// The sequence's block table: pages for at least `start + n` positions.
    pub pages: Arc<[PageId]>,
    /// Positions that are stored already.
    pub start: usize,
    /// New positions, after those.
    pub n: usize,
}

impl StepRows {
    /// Positions after the step.
    pub fn end(&self) -> usize {
        self.start + self.n
    }
}

/// The new positions of a step: rows of one sequence after those of the other.
#[derive(Debug, Clone)]
pub struct StepLayout {
    /// Sequences with their rows.
    pub sequences: Vec<StepRows>,
    /// Cosines of each row's rotary angles: `(sum of n, d_head / 2)`, row-major.
    pub cos: Vec<f32>,
    /// Sines, as `cos`.
    pub sin: Vec<f32>,
}

impl StepLayout {
    /// Rows of all sequences.
    pub fn n_rows(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.n).sum()
    }

    /// Checks the layout against a geometry: block tables long enough, angles for every row, and no page that two
    /// sequences write to.
    ///
    /// # Errors
    /// When they are not.
    pub fn check(&self, geometry: &KvGeometry) -> Result<()> {
        let n_angles = self.n_rows() * geometry.d_head / 2;
        if self.cos.len() != n_angles || self.sin.len() != n_angles {
            candle_core::bail!("attention: {} angles for {n_angles}", self.cos.len());
        }
        for StepRows { pages, start, n } in &self.sequences {
            if *n == 0 || pages.len() * PAGE_LEN < start + n {
                candle_core::bail!("attention: {start} + {n} positions in {} pages of {PAGE_LEN}", pages.len());
            }
        }
        let written = |rows: &StepRows| rows.pages[rows.start / PAGE_LEN..pages_for(rows.end())].to_vec();
        let mut written: Vec<PageId> = self.sequences.iter().flat_map(written).collect();
        written.sort_unstable();
        if let Some(pair) = written.windows(2).find(|pair| pair[0] == pair[1]) {
            candle_core::bail!("attention: two sequences write to page {}", pair[0].0);
        }
        Ok(())
    }
}

/// A step of answers: one new position of each sequence, whose token is an id, and whose next one is the largest logit.
#[derive(Debug, Clone)]
pub struct GreedyStep {
    /// The id of each sequence's new position.
    pub ids: Vec<u32>,
    /// One row of each sequence.
    pub layout: StepLayout,
}

/// A language model from ids `(S)`, in u32 on its device, to logits `(S, vocab_size)` in its precision, over a store in
/// which a step was begun.
pub type GreedyForward<'f> = &'f mut dyn FnMut(&Tensor, &mut dyn KvStore) -> Result<Tensor>;

/// Keys and values of all layers in pages, and attention over them.
pub trait KvStore: Send {
    /// Bytes of a page.
    fn page_bytes(&self) -> usize;

    /// Number of pages that memory is given to at once.
    fn pages_at_once(&self) -> usize {
        1
    }

    /// Gives memory to a page, whose contents are then undefined. A page that has memory keeps it.
    ///
    /// # Errors
    /// When the device has no memory left.
    fn allocate(&mut self, page: PageId) -> Result<()>;

    /// Begins a step.
    ///
    /// # Errors
    /// When the layout does not fit the geometry, or names a page without memory.
    fn begin(&mut self, layout: StepLayout) -> Result<()>;

    /// Rotates the step's queries and keys of a layer, stores its keys and values, and attends: row `i` of a sequence
    /// sees the sequence's positions up to `start + i`.
    ///
    /// # Shapes
    /// `qkv (sum of n, (n_heads + 2 n_kv_heads) d_head)`, queries before keys before values, to `(sum of n, n_heads
    /// d_head)`.
    ///
    /// # Errors
    /// When no step was begun, or the shapes do not fit.
    fn attend(&mut self, layer: usize, qkv: &Tensor) -> Result<Tensor>;

    /// Whether [`Self::replay`] may ever run a step.
    fn replays(&self) -> bool {
        false
    }

    /// Runs a whole step without the host between its operations: replays what `forward` did in an earlier step of the
    /// same form. Gives the largest logit's index of each sequence as [`super::Kernels::argmax_rows`] does; none where
    /// the step is to be run operation by operation.
    ///
    /// # Errors
    /// When the layout does not fit, or the device fails.
    fn replay(&mut self, step: GreedyStep, forward: GreedyForward<'_>) -> Result<Option<Vec<Option<u32>>>> {
        let _ = (step, forward);
        Ok(None)
    }
}
