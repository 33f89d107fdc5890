//! Pages of keys and values in f32 or f16, for activations in any precision: rotary embedding and cache write in one
//! pass, attention over the pages as they are.
//!
//! Keys and values in f16 take half the memory, and half the time to read where that is the bound. The GEMM kernel
//! converts them to f32 in registers, which is exact; all arithmetic is in f32.

use candle_core::{DType, Result, Storage, Tensor};
use half::f16;
use rayon::prelude::*;

use super::gemm::{GemmKernel, PanelElements, kernel};
use super::half_precision::{halves, halves_mut};
use super::memory::{MappedBuffer, in_parts};
use super::paged_attention::PagedAttention;
use super::rows::contiguous;
use crate::device::DTypeSpec;
use crate::error::Error;
use crate::kernels::kv::{KvConfig, KvGeometry, KvStore, PAGE_LEN, PageId, StepLayout, StepRows};
use crate::kernels::row_blocks::{RowBlock, blocks};

/// Number of elements below which rotation and storing run on one thread.
const PARALLEL: usize = 1 << 15;

/// Layout of keys and values in a page: for each layer, the key panels of all heads, then the value panels of all
/// heads.
///
/// A head's keys are `PAGE_LEN / width` panels `(d_head, width)`, one column a position; its values are
/// `ceil(d_head / width)` panels `(PAGE_LEN, width)`, one row a position.
///
/// Lengths and offsets are in f32 slots of the page: a slot holds one element in f32, or two in f16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageLayout {
    d_head: usize,
    n_kv_heads: usize,
    width: usize,
    precision: KvPrecision,
}

/// Precision of stored keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvPrecision {
    F32,
    F16,
}

impl KvPrecision {
    /// Resolves the precision that is asked for; by default f16 beside quantized weights, whose error is larger.
    fn resolve(config: &KvConfig<'_>) -> Result<Self> {
        match (config.precision, config.quantization) {
            (DTypeSpec::Fixed(DType::F16), _) | (DTypeSpec::Auto, Some(_)) => Ok(Self::F16),
            (DTypeSpec::Fixed(DType::F32), _) | (DTypeSpec::Auto, None) => Ok(Self::F32),
            (DTypeSpec::Fixed(dtype), _) => {
                let rule = format!("keys and values in {} have no kernel on the CPU", dtype.as_str());
                Err(Error::invalid(rule).with_hint("f32, f16").into())
            }
        }
    }

    /// Elements of an f32 slot.
    fn per_slot(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::F16 => 2,
        }
    }
}

impl PageLayout {
    fn new(geometry: &KvGeometry, kernel: &GemmKernel, precision: KvPrecision) -> Self {
        Self { d_head: geometry.d_head, n_kv_heads: geometry.n_kv_heads, width: kernel.width, precision }
    }

    /// Number of elements of a head's keys; a page has an even number of positions.
    fn n_keys(&self) -> usize {
        PAGE_LEN * self.d_head
    }

    /// Number of elements of a head's values.
    fn n_values(&self) -> usize {
        PAGE_LEN * self.d_head.next_multiple_of(self.width)
    }

    fn keys_len(&self) -> usize {
        self.n_keys() / self.precision.per_slot()
    }

    fn values_len(&self) -> usize {
        self.n_values() / self.precision.per_slot()
    }

    fn layer_len(&self) -> usize {
        self.n_kv_heads * (self.keys_len() + self.values_len())
    }

    fn keys_at(&self, layer: usize, head: usize) -> usize {
        layer * self.layer_len() + head * self.keys_len()
    }

    fn values_at(&self, layer: usize, head: usize) -> usize {
        layer * self.layer_len() + self.n_kv_heads * self.keys_len() + head * self.values_len()
    }

    /// Returns the stored key panels of a head: see [`Self::elements`].
    pub(crate) fn keys<'p>(&self, page: &'p [f32], layer: usize, head: usize) -> &'p [f32] {
        &page[self.keys_at(layer, head)..][..self.keys_len()]
    }

    /// Returns the stored value panels of a head: see [`Self::elements`].
    pub(crate) fn values<'p>(&self, page: &'p [f32], layer: usize, head: usize) -> &'p [f32] {
        &page[self.values_at(layer, head)..][..self.values_len()]
    }

    /// Returns the elements of stored panels in their stored precision.
    pub(crate) fn elements<'p>(&self, stored: &'p [f32]) -> PanelElements<'p> {
        match self.precision {
            KvPrecision::F32 => PanelElements::F32(stored),
            KvPrecision::F16 => PanelElements::F16(halves(stored)),
        }
    }

    /// Stores a key and a value in a slot of a page.
    fn store(&self, page: &mut [f32], slot: KvSlot, key: &[f32], value: &[f32]) {
        let KvSlot { layer, head, at } = slot;
        let keys = self.keys_at(layer, head)..;
        let values = self.values_at(layer, head)..;
        match self.precision {
            KvPrecision::F32 => {
                self.store_key(&mut page[keys], at, key, |x| x);
                self.store_value(&mut page[values], at, value, |x| x);
            }
            KvPrecision::F16 => {
                self.store_key(halves_mut(&mut page[keys]), at, key, f16::from_f32);
                self.store_value(halves_mut(&mut page[values]), at, value, f16::from_f32);
            }
        }
    }

    fn store_key<T>(&self, keys: &mut [T], at: usize, key: &[f32], element: impl Fn(f32) -> T) {
        let column = at / self.width * self.d_head * self.width + at % self.width;
        keys[column..].iter_mut().step_by(self.width).zip(key).for_each(|(to, &from)| *to = element(from));
    }

    fn store_value<T>(&self, values: &mut [T], at: usize, value: &[f32], element: impl Fn(f32) -> T) {
        for (panel, value) in value.chunks(self.width).enumerate() {
            let to = &mut values[(panel * PAGE_LEN + at) * self.width..];
            to.iter_mut().zip(value).for_each(|(to, &from)| *to = element(from));
        }
    }
}

/// Slot of a page: a position of one head in one layer.
#[derive(Clone, Copy)]
struct KvSlot {
    layer: usize,
    head: usize,
    /// Index of the position in the page.
    at: usize,
}

/// Memory of pages by their index.
#[derive(Debug, Default)]
pub(crate) struct Pages(Vec<Option<MappedBuffer>>);

impl Pages {
    /// Returns the elements of an allocated page.
    pub(crate) fn page(&self, page: PageId) -> &[f32] {
        self.0[page.index()].as_deref().unwrap_or_default()
    }

    /// Returns the pages that are written to, in ascending order. Each page is written by one sequence.
    fn each_mut<'p>(&'p mut self, writes: &'p [PageWrite]) -> Vec<(&'p PageWrite, &'p mut [f32])> {
        let (mut rest, mut first) = (self.0.as_mut_slice(), 0);
        let mut target = |write: &'p PageWrite| {
            let (_, from) = std::mem::take(&mut rest).split_at_mut_checked(write.page.index() - first)?;
            let (page, after) = from.split_first_mut()?;
            (rest, first) = (after, write.page.index() + 1);
            Some((write, page.as_deref_mut()?))
        };
        writes.iter().filter_map(&mut target).collect()
    }

    fn has(&self, page: PageId) -> bool {
        self.0.get(page.index()).is_some_and(Option::is_some)
    }
}

/// Layout of the current step.
struct CpuStep {
    layout: StepLayout,
    first_rows: Vec<usize>,
    blocks: Vec<RowBlock>,
    /// Writes in ascending order of their pages.
    writes: Vec<PageWrite>,
}

/// Consecutive new positions within one page.
struct PageWrite {
    page: PageId,
    /// Index of the first position in the page.
    at: usize,
    /// Row of the first position in the step.
    row: usize,
    n: usize,
}

/// Keys and values of all layers on the CPU.
pub(crate) struct CpuPages {
    geometry: KvGeometry,
    layout: PageLayout,
    kernel: &'static GemmKernel,
    pages: Pages,
    step: Option<CpuStep>,
}

impl CpuPages {
    /// An empty store.
    ///
    /// # Errors
    /// When heads are not shared evenly, or the precision is neither f32 nor f16.
    pub(crate) fn new(config: &KvConfig<'_>) -> Result<Self> {
        Self::with_kernel(config.geometry, KvPrecision::resolve(config)?, kernel())
    }

    fn with_kernel(geometry: KvGeometry, precision: KvPrecision, kernel: &'static GemmKernel) -> Result<Self> {
        geometry.check()?;
        let layout = PageLayout::new(&geometry, kernel, precision);
        Ok(Self { geometry, layout, kernel, pages: Pages::default(), step: None })
    }

    fn page_len(&self) -> usize {
        self.geometry.n_layers * self.layout.layer_len()
    }

    /// Rotates the queries: `(sum of n, n_heads d_head)`.
    fn rotate_queries(&self, qkv: &[f32], angles: &StepLayout) -> Vec<f32> {
        let KvGeometry { n_heads, d_head, .. } = self.geometry;
        let (width, d_queries) = (self.geometry.width(), n_heads * d_head);
        let row = |row: usize, y: &mut [f32]| {
            let angles = RowAngles::of(angles, row, d_head);
            let heads = y.chunks_exact_mut(d_head).zip(qkv[row * width..].chunks_exact(d_head));
            heads.for_each(|(y, x)| angles.rotate(x, y));
        };
        let n = qkv.len() / width * d_queries;
        if n < PARALLEL {
            let mut y = vec![0.0; n];
            y.chunks_exact_mut(d_queries).enumerate().for_each(|(i, y)| row(i, y));
            return y;
        }
        in_parts(n, d_queries, row)
    }

    /// Rotates the keys, and stores them with the values.
    fn store(&mut self, layer: usize, qkv: &[f32], step: &CpuStep) {
        let KvGeometry { n_heads, n_kv_heads, d_head, .. } = self.geometry;
        let (width, layout) = (self.geometry.width(), self.layout);
        let write = |write: &PageWrite, page: &mut [f32]| {
            let mut key = vec![0.0; d_head];
            for i in 0..write.n {
                let row = write.row + i;
                let angles = RowAngles::of(&step.layout, row, d_head);
                let of = |head: usize| &qkv[row * width + head * d_head..][..d_head];
                for head in 0..n_kv_heads {
                    angles.rotate(of(n_heads + head), &mut key);
                    layout.store(page, KvSlot { layer, head, at: write.at + i }, &key, of(n_heads + n_kv_heads + head));
                }
            }
        };
        let mut targets = self.pages.each_mut(&step.writes);
        if qkv.len() < PARALLEL {
            targets.iter_mut().for_each(|(to, page)| write(to, page));
        } else {
            targets.par_iter_mut().for_each(|(to, page)| write(to, page));
        }
    }

    fn run(&mut self, layer: usize, qkv: &[f32], step: &CpuStep) -> Vec<f32> {
        let queries = self.rotate_queries(qkv, &step.layout);
        self.store(layer, qkv, step);
        let attention = PagedAttention {
            kernel: self.kernel,
            geometry: self.geometry,
            layout: self.layout,
            pages: &self.pages,
            layer,
            sequences: &step.layout.sequences,
            first_rows: &step.first_rows,
            queries: &queries,
        };
        attention.run(&step.blocks)
    }
}

impl KvStore for CpuPages {
    fn page_bytes(&self) -> usize {
        self.page_len() * size_of::<f32>()
    }

    fn allocate(&mut self, page: PageId) -> Result<()> {
        if !self.pages.has(page) {
            let len = self.pages.0.len().max(page.index() + 1);
            self.pages.0.resize_with(len, || None);
            self.pages.0[page.index()] = Some(MappedBuffer::zeros(self.page_len())?);
        }
        Ok(())
    }

    fn begin(&mut self, layout: StepLayout) -> Result<()> {
        layout.check(&self.geometry)?;
        let missing = |rows: &StepRows| rows.pages.iter().find(|page| !self.pages.has(**page)).copied();
        if let Some(page) = layout.sequences.iter().find_map(missing) {
            candle_core::bail!("attention: page {} is not allocated", page.0);
        }
        let mut n_rows = 0;
        let first_rows = layout.sequences.iter().map(|rows| {
            n_rows += rows.n;
            n_rows - rows.n
        });
        let first_rows: Vec<usize> = first_rows.collect();
        let writes = layout.sequences.iter().zip(&first_rows).flat_map(|(rows, row)| writes(rows, *row));
        let mut writes: Vec<PageWrite> = writes.collect();
        writes.sort_by_key(|write| write.page);
        let blocks = blocks(&layout.sequences, self.geometry.group(), PagedAttention::max_rows(self.kernel));
        self.step = Some(CpuStep { layout, first_rows, blocks, writes });
        Ok(())
    }

    fn attend(&mut self, layer: usize, qkv: &Tensor) -> Result<Tensor> {
        let Some(step) = self.step.take() else { candle_core::bail!("attention: no step has begun") };
        let (n_rows, width) = qkv.dims2()?;
        if (n_rows, width) != (step.layout.n_rows(), self.geometry.width()) || layer >= self.geometry.n_layers {
            candle_core::bail!(
                "attention: {n_rows} x {width} in layer {layer} for {} x {} of {} layers",
                step.layout.n_rows(),
                self.geometry.width(),
                self.geometry.n_layers
            );
        }
        let dtype = qkv.dtype();
        let qkv = qkv.to_dtype(DType::F32)?.contiguous()?;
        let (storage, at) = qkv.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("attention: pages on the CPU, activations on {:?}", qkv.device())
        };
        let y = self.run(layer, contiguous(storage, at)?, &step);
        self.step = Some(step);
        let y = Tensor::from_vec(y, (n_rows, self.geometry.n_heads * self.geometry.d_head), qkv.device())?;
        y.to_dtype(dtype)
    }
}

/// Splits a sequence's new positions by the pages that they are stored in.
fn writes(rows: &StepRows, first_row: usize) -> Vec<PageWrite> {
    let mut writes = Vec::new();
    let mut position = rows.start;
    while position < rows.end() {
        let at = position % PAGE_LEN;
        let n = (PAGE_LEN - at).min(rows.end() - position);
        writes.push(PageWrite { page: rows.pages[position / PAGE_LEN], at, row: first_row + position - rows.start, n });
        position += n;
    }
    writes
}

/// Rotary angles of one row.
struct RowAngles<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
}

impl<'a> RowAngles<'a> {
    fn of(layout: &'a StepLayout, row: usize, d_head: usize) -> Self {
        let half = d_head / 2;
        Self { cos: &layout.cos[row * half..][..half], sin: &layout.sin[row * half..][..half] }
    }

    /// Rotates a head, whose halves are the pairs' first and second elements (`rotate_half` of transformers).
    fn rotate(&self, x: &[f32], y: &mut [f32]) {
        let half = self.cos.len();
        let (first, second) = x.split_at(half);
        let (y_first, y_second) = y.split_at_mut(half);
        for i in 0..half {
            y_first[i] = first[i] * self.cos[i] - second[i] * self.sin[i];
            y_second[i] = first[i] * self.sin[i] + second[i] * self.cos[i];
        }
    }
}

#[cfg(test)]
#[path = "kv_pages_tests.rs"]
mod tests;
