//! Paged key-value store: the interface that every device implements.
//!
//! A page stores the keys and values of [`PAGE_LEN`] consecutive positions for all layers. The block table of a
//! sequence lists its pages; sequences with a common prefix share pages. The engine allocates and shares pages; a store
//! writes to them and attends over them. One step of the language model calls [`KvStore::begin`], then
//! [`KvStore::attend`] once per layer.
//!
//! Reference: PagedAttention, arXiv 2309.06180, section 4.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::QuantFormat;
use crate::device::DTypeSpec;
use crate::error::Error;

/// Positions of a page.
pub const PAGE_LEN: usize = 32;

/// Index of a page in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(
    /// Index from 0.
    pub u32,
);

impl PageId {
    /// Returns the index as `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Returns the number of pages for `n` positions.
pub fn pages_for(n: usize) -> usize {
    n.div_ceil(PAGE_LEN)
}

/// Sizes of the attention whose keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvGeometry {
    /// Number of layers.
    pub n_layers: usize,
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key-value heads; query head `i` reads key-value head `i / (n_heads / n_kv_heads)` (arXiv 2305.13245).
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
}

impl KvGeometry {
    /// Returns the width of a position's queries, keys and values side by side.
    pub fn width(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.d_head
    }

    /// Returns the bytes of a position's keys and values in all layers.
    pub(crate) fn position_bytes(&self, dtype: DType) -> usize {
        2 * self.n_layers * self.n_kv_heads * self.d_head * dtype.size_in_bytes()
    }

    /// Returns the number of query heads that share a key-value head.
    pub fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads.max(1)
    }

    /// Checks that the number of query heads is a multiple of that of key-value heads, and that the width of a head is
    /// even, for rotation.
    ///
    /// # Errors
    /// When a condition is violated.
    pub fn check(&self) -> Result<()> {
        let Self { n_heads, n_kv_heads, d_head, .. } = *self;
        if n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) {
            candle_core::bail!("attention: {n_heads} query heads, not a multiple of {n_kv_heads} key-value heads");
        }
        if d_head == 0 || !d_head.is_multiple_of(2) {
            candle_core::bail!("attention: heads of width {d_head}, which is not even");
        }
        Ok(())
    }
}

/// Configuration of a key-value store.
#[derive(Debug, Clone, Copy)]
pub struct KvConfig<'a> {
    /// Sizes of the attention.
    pub geometry: KvGeometry,
    /// Precision of stored keys and values. `auto`: the precision of the activations; on the CPU f16 with quantized
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
    /// Resolves the precision for a store with kernels for the precision of the activations only.
    ///
    /// # Errors
    /// When another precision is requested.
    pub(crate) fn as_activations(&self) -> Result<DType> {
        match self.precision {
            DTypeSpec::Fixed(dtype) if dtype != self.activations => {
                let (dtype, activations, device) = (dtype.as_str(), self.activations.as_str(), self.device.location());
                let rule = format!(
                    "unsupported precision {dtype} of keys and values with activations in {activations} on {device:?}"
                );
                Err(Error::invalid(rule).with_hint(activations).into())
            }
            _ => Ok(self.activations),
        }
    }
}

/// Copy of a page's contents to another page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCopy {
    /// Page that is read.
    pub from: PageId,
    /// Another page, whose contents are replaced.
    pub to: PageId,
}

/// New positions of one sequence in a step.
#[derive(Debug, Clone)]
pub struct StepRows {
    /// Block table of the sequence: pages for at least `start + n` positions.
    pub pages: Arc<[PageId]>,
    /// Number of stored positions.
    pub start: usize,
    /// Number of new positions, from `start` on.
    pub n: usize,
}

impl StepRows {
    /// Returns the number of positions after the step.
    pub fn end(&self) -> usize {
        self.start + self.n
    }
}

/// Rows of a step: the new positions of its sequences, sequence by sequence.
#[derive(Debug, Clone)]
pub struct StepLayout {
    /// Sequences of the step.
    pub sequences: Vec<StepRows>,
    /// Cosines of each row's rotary angles: `(sum of n, d_head / 2)`, row-major.
    pub cos: Vec<f32>,
    /// Sines of the same angles.
    pub sin: Vec<f32>,
}

impl StepLayout {
    /// Returns the number of rows.
    pub fn n_rows(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.n).sum()
    }

    /// Checks that block tables are long enough, that every row has its angles, and that no two sequences write to the
    /// same page.
    ///
    /// # Errors
    /// When a condition is violated.
    pub fn check(&self, geometry: &KvGeometry) -> Result<()> {
        let n_angles = self.n_rows() * geometry.d_head / 2;
        if self.cos.len() != n_angles || self.sin.len() != n_angles {
            candle_core::bail!("attention: {} rotary angles, not {n_angles}", self.cos.len());
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

/// Decode step: one new token of each of `R` sequences.
#[derive(Debug, Clone)]
pub struct DecodeStep {
    /// Token id of each sequence's new position.
    pub ids: Vec<u32>,
    /// Layout with one row of each sequence.
    pub layout: StepLayout,
}

/// Output of a [`DecodeStep`].
#[derive(Debug, Clone)]
pub struct DecodeOutput {
    /// Logits `(R, vocab_size)` in the model's precision. The store's next step may overwrite them.
    pub logits: Tensor,
    /// Whether a recording was replayed; else the step ran operation by operation.
    pub is_replayed: bool,
}

/// Forward pass of a language model over a store with a current step: from ids `(S)`, u32 on the model's device, to
/// logits `(S, vocab_size)` in its precision.
pub type DecodeForward<'f> = &'f mut dyn FnMut(&Tensor, &mut dyn KvStore) -> Result<Tensor>;

/// Paged keys and values of all layers, and attention over them.
pub trait KvStore: Send {
    /// Returns the bytes of a page.
    fn page_bytes(&self) -> usize;

    /// Returns the number of pages that are allocated together.
    fn pages_at_once(&self) -> usize {
        1
    }

    /// Allocates a page with undefined contents. An allocated page keeps its memory.
    ///
    /// # Errors
    /// When the device is out of memory.
    fn allocate(&mut self, page: PageId) -> Result<()>;

    /// Returns whether [`Self::copy_page`] copies pages.
    fn copies_pages(&self) -> bool {
        false
    }

    /// Copies the keys and values of all layers from one page to another, between two steps.
    ///
    /// # Errors
    /// When the store does not copy pages, or a page is not allocated.
    fn copy_page(&mut self, copy: PageCopy) -> Result<()> {
        candle_core::bail!("attention: no copy of page {} on this device", copy.from.0)
    }

    /// Begins a step.
    ///
    /// # Errors
    /// When the layout is invalid for the geometry, or a page is not allocated.
    fn begin(&mut self, layout: StepLayout) -> Result<()>;

    /// Rotates the step's queries and keys of a layer, stores its keys and values, and computes causal attention: row
    /// `i` of a sequence attends to the sequence's positions up to `start + i`.
    ///
    /// # Shapes
    /// `qkv (sum of n, (n_heads + 2 n_kv_heads) d_head)`, queries before keys before values, to `(sum of n, n_heads
    /// d_head)`.
    ///
    /// # Errors
    /// When there is no current step, or the shapes do not match.
    fn attend(&mut self, layer: usize, qkv: &Tensor) -> Result<Tensor>;

    /// Returns whether [`Self::run_decode`] runs steps.
    fn runs_decode(&self) -> bool {
        false
    }

    /// Runs a decode step, padded to one of few shapes: by replaying the recorded operations of `forward` for
    /// that shape (a CUDA graph), without launches from the host, or operation by operation. Returns `None` when the
    /// caller has to run the step.
    ///
    /// # Errors
    /// When the layout is invalid, or the device fails.
    fn run_decode(&mut self, step: DecodeStep, forward: DecodeForward<'_>) -> Result<Option<DecodeOutput>> {
        let _ = (step, forward);
        Ok(None)
    }
}
