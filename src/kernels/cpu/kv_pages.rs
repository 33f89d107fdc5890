//! Pages of keys and values in f32 or f16, for activations in any precision: rotary embedding and cache write in one
//! pass, attention over the pages as they are.
//!
//! Keys and values in f16 take half the memory, and half the time to read where that is the bound. The GEMM kernel
//! converts them to f32 in registers, which is exact; all arithmetic is in f32.

use candle_core::{DType, Result, Storage, Tensor};
use rayon::prelude::*;

use super::gemm::{GemmKernel, kernel};
use super::kv_layout::{KvPrecision, KvSlot, PageLayout};
use super::memory::{MappedBuffer, in_parts};
use super::paged_attention::PagedAttention;
use super::rows::contiguous;
use crate::kernels::kv::{KvConfig, KvGeometry, KvStore, PAGE_LEN, PageCopy, PageId, StepLayout, StepRows};
use crate::kernels::row_blocks::{RowBlock, blocks};

/// Number of elements below which rotation and storing run on one thread.
const PARALLEL: usize = 1 << 15;

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

    /// Copies a page to another one.
    ///
    /// # Errors
    /// When they are the same, or one is not allocated.
    fn copy(&mut self, PageCopy { from, to }: PageCopy) -> Result<()> {
        let pages = self.0.get_disjoint_mut([from.index(), to.index()]);
        let Ok([Some(from), Some(to)]) = pages else {
            candle_core::bail!("attention: no copy of page {} to page {}", from.0, to.0);
        };
        to.copy_from_slice(from);
        Ok(())
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

    fn copies_pages(&self) -> bool {
        true
    }

    fn copy_page(&mut self, copy: PageCopy) -> Result<()> {
        self.pages.copy(copy)
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
