//! Attention over pages of keys and values.
//!
//! A page keeps its keys transposed, as panels of the GEMM kernel, and its values as panels of channels, so nothing
//! is packed or copied when they are read: scores and weighted sums are tiles of [`GemmKernel`] over the pages as they
//! are. Rows of several sequences that share pages go through these together, which reads a shared prefix once for all
//! of them.
//!
//! A row's scores are summed over the head's elements in order, its weights over its keys in order, and its output over
//! its keys in order. Nothing of it depends on the rows beside it: a query's result is bit-identical in prefill, in
//! chunks, in decode, and beside any other sequence.

use rayon::prelude::*;

use super::elementwise::exp_from_largest;
use super::gemm::{GemmKernel, Left, PanelElements, Target, Tile};
use super::kv_layout::PageLayout;
use super::kv_pages::Pages;
use super::memory::prefetch;
use crate::kernels::kv::{KvGeometry, PAGE_LEN, PageId, StepRows, pages_for};
use crate::kernels::row_blocks::{BlockPart, RowBlock};

/// Number of tiles of rows whose scores are computed together.
const TILES: usize = 4;
/// Number of rows below which a tile is bound by reading its panel.
const FEW: usize = 4;
/// Multiply-adds below which other threads are not worth waking.
const PARALLEL: usize = 1 << 17;

/// Queries of a step over the pages of one layer.
pub(crate) struct PagedAttention<'x> {
    pub(crate) kernel: &'static GemmKernel,
    pub(crate) geometry: KvGeometry,
    pub(crate) layout: PageLayout,
    pub(crate) pages: &'x Pages,
    pub(crate) layer: usize,
    pub(crate) sequences: &'x [StepRows],
    /// First row of each sequence in the step.
    pub(crate) first_rows: &'x [usize],
    /// Rotated queries `(sum of n, n_heads d_head)`.
    pub(crate) queries: &'x [f32],
}

/// Buffers of a thread for a block.
#[derive(Default)]
struct AttentionScratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
}

/// Returns whether one thread computes the attention whose scores take so many multiply-adds.
pub(crate) fn is_small(work: usize) -> bool {
    work < PARALLEL
}

impl PagedAttention<'_> {
    /// Returns the preferred limit of rows in a block.
    pub(crate) fn max_rows(kernel: &GemmKernel) -> usize {
        TILES * kernel.height
    }

    /// Computes the attention of all blocks, `(sum of n, n_heads d_head)`.
    pub(crate) fn run(&self, blocks: &[RowBlock]) -> Vec<f32> {
        let KvGeometry { n_heads, n_kv_heads, d_head, .. } = self.geometry;
        let items: Vec<(&RowBlock, usize)> =
            blocks.iter().flat_map(|block| (0..n_kv_heads).map(move |head| (block, head))).collect();
        let work: usize = self.sequences.iter().map(|rows| rows.n * rows.end()).sum::<usize>() * n_heads * d_head;
        let outputs: Vec<Vec<f32>> = if is_small(work) {
            let mut scratch = AttentionScratch::default();
            items.iter().map(|(block, head)| self.block(&mut scratch, block, *head)).collect()
        } else {
            items
                .par_iter()
                .map_init(AttentionScratch::default, |scratch, (block, head)| self.block(scratch, block, *head))
                .collect()
        };
        let width = self.geometry.group() * d_head;
        let mut y = vec![0.0; self.queries.len()];
        for ((block, head), output) in items.iter().zip(&outputs) {
            for (row, output) in self.rows(block).zip(output.chunks_exact(width)) {
                y[row * n_heads * d_head + head * width..][..width].copy_from_slice(output);
            }
        }
        y
    }

    /// Returns the rows in the step of a block's positions.
    fn rows<'b>(&'b self, block: &'b RowBlock) -> impl Iterator<Item = usize> + 'b {
        block.parts.iter().flat_map(|part| (0..part.n).map(|i| self.first_rows[part.sequence] + part.first + i))
    }

    /// Computes the attention of a block over one key-value head, `(positions, group, d_head)`.
    fn block(&self, scratch: &mut AttentionScratch, block: &RowBlock, head: usize) -> Vec<f32> {
        let (d, group) = (self.geometry.d_head, self.geometry.group());
        let AttentionScratch { queries, scores } = scratch;
        queries.clear();
        for row in self.rows(block) {
            queries.extend_from_slice(&self.queries[(row * self.geometry.n_heads + head * group) * d..][..group * d]);
        }
        let spans = self.spans(block);
        let stride = PAGE_LEN * spans.iter().map(|span| pages_for(span.n_keys)).max().unwrap_or(0);
        scores.resize(queries.len() / d * stride, 0.0);
        let visits = self.visits(block, &spans);
        self.score(&visits, head, ScoreTask { queries, scores, stride });
        let sums = self.weigh(block, &spans, scores, stride);
        let mut y = vec![0.0; queries.len()];
        self.sum_values(&visits, head, WeightedSum { weights: scores, stride, y: &mut y });
        for (row, sum) in y.chunks_exact_mut(d).zip(sums) {
            row.iter_mut().for_each(|y| *y /= sum);
        }
        y
    }

    /// Returns the parts of a block with their first row and the number of keys visible to their last position.
    fn spans(&self, block: &RowBlock) -> Vec<RowSpan<'_>> {
        let mut row = 0;
        let group = self.geometry.group();
        let span = |part: &BlockPart| {
            let sequence = &self.sequences[part.sequence];
            let n_keys = sequence.start + part.first + part.n;
            let span = RowSpan { pages: &sequence.pages[..pages_for(n_keys)], row, n_rows: part.n * group, n_keys };
            row += span.n_rows;
            span
        };
        block.parts.iter().map(span).collect()
    }

    /// Returns the pages of a block in reading order: those shared by all rows, then those of each part.
    fn visits(&self, block: &RowBlock, spans: &[RowSpan<'_>]) -> Vec<PageVisit> {
        let n_rows = spans.iter().map(|span| span.n_rows).sum();
        let shared = spans.first().into_iter().flat_map(|span| &span.pages[..block.n_shared]).enumerate();
        let shared =
            shared.map(|(i, &page)| PageVisit { page, first_key: i * PAGE_LEN, row: 0, n_rows, n_keys: PAGE_LEN });
        let own = spans.iter().flat_map(|span| {
            (block.n_shared..span.pages.len()).map(|i| PageVisit {
                page: span.pages[i],
                first_key: i * PAGE_LEN,
                row: span.row,
                n_rows: span.n_rows,
                n_keys: PAGE_LEN.min(span.n_keys - i * PAGE_LEN),
            })
        });
        shared.chain(own).collect()
    }

    /// Computes the scores of all rows with the keys of their pages.
    fn score(&self, visits: &[PageVisit], head: usize, score: ScoreTask<'_>) {
        let ScoreTask { queries, scores, stride } = score;
        let (d, width) = (self.geometry.d_head, self.kernel.width);
        let keys = |visit: &PageVisit| self.layout.keys(self.pages.page(visit.page), self.layer, head);
        for (i, visit) in visits.iter().enumerate() {
            let next = visits.get(i + 1).map_or(&[][..], keys);
            let panels = self.layout.elements(keys(visit));
            prefetch(visit.bound_by_memory(next));
            for j in 0..PAGE_LEN / width {
                let panel = panels.panel(j, d * width);
                let left = LeftRows { elements: &queries[visit.row * d..], stride: d, depth: d, n_rows: visit.n_rows };
                let first = visit.first_key + j * width;
                let prefetch = share(next, j, PAGE_LEN / width);
                self.tiles(
                    &left,
                    RightPanel { elements: panel, prefetch, accumulates: false },
                    (&mut scores[visit.row * stride..], stride, first, width),
                );
            }
        }
    }

    /// Turns the visible scores of each row into weights and the other scores of its pages into 0. Returns the sums of
    /// the weights.
    fn weigh(&self, block: &RowBlock, spans: &[RowSpan<'_>], scores: &mut [f32], stride: usize) -> Vec<f32> {
        let (group, scale) = (self.geometry.group(), (self.geometry.d_head as f32).powf(-0.5));
        let mut sums = Vec::with_capacity(scores.len() / stride.max(1));
        for (part, span) in block.parts.iter().zip(spans) {
            for i in 0..span.n_rows {
                let n_seen = span.n_keys - part.n + i / group + 1;
                let row = &mut scores[(span.row + i) * stride..][..span.n_keys];
                let (seen, hidden) = row.split_at_mut(n_seen);
                hidden.fill(0.0);
                sums.push(exp_from_largest(seen, scale));
            }
        }
        sums
    }

    /// Computes the weighted sums of values.
    fn sum_values(&self, visits: &[PageVisit], head: usize, sum: WeightedSum<'_>) {
        let WeightedSum { weights, stride, y } = sum;
        let (d, width) = (self.geometry.d_head, self.kernel.width);
        let values = |visit: &PageVisit| self.layout.values(self.pages.page(visit.page), self.layer, head);
        for (i, visit) in visits.iter().enumerate() {
            let next = visits.get(i + 1).map_or(&[][..], values);
            let panels = self.layout.elements(values(visit));
            prefetch(visit.bound_by_memory(next));
            for j in 0..d.div_ceil(width) {
                let panel = panels.panel(j, PAGE_LEN * width);
                let elements = &weights[visit.row * stride + visit.first_key..];
                let left = LeftRows { elements, stride, depth: visit.n_keys, n_rows: visit.n_rows };
                let columns = width.min(d - j * width);
                let prefetch = share(next, j, d.div_ceil(width));
                let panel = RightPanel { elements: panel, prefetch, accumulates: visit.first_key > 0 };
                self.tiles(&left, panel, (&mut y[visit.row * d..], d, j * width, columns));
            }
        }
    }

    /// Rows of the left side with one panel, to the columns of `y` from `first` on.
    fn tiles(&self, left: &LeftRows<'_>, panel: RightPanel<'_>, to: (&mut [f32], usize, usize, usize)) {
        let (y, stride, first, columns) = to;
        let height = self.kernel.height;
        let n_tiles = left.n_rows.div_ceil(height);
        for i in 0..n_tiles {
            let rows = height.min(left.n_rows - i * height);
            let elements = &left.elements[i * height * left.stride..];
            let prefetch = share(panel.prefetch, i, n_tiles);
            let tile = Tile {
                rows,
                depth: left.depth,
                left: Left::Rows { elements, stride: left.stride },
                panel: panel.elements,
                accumulates: panel.accumulates,
                prefetch,
            };
            let elements = &mut y[i * height * stride + first..];
            self.kernel.tile(&tile, &mut Target { elements, stride, columns });
        }
    }
}

/// Part `i` of `n` about equal ones.
fn share(elements: &[f32], i: usize, n: usize) -> &[f32] {
    &elements[elements.len() * i / n..elements.len() * (i + 1) / n]
}

/// Queries of a block's rows, and the buffer of their scores.
struct ScoreTask<'x> {
    /// `(rows, d_head)`.
    queries: &'x [f32],
    /// Row-major, with `stride` elements from one row to the next.
    scores: &'x mut [f32],
    stride: usize,
}

/// Weights of a block's rows, and the buffer of their weighted sums.
struct WeightedSum<'x> {
    /// Row-major, with `stride` elements from one row to the next.
    weights: &'x [f32],
    stride: usize,
    /// `(rows, d_head)`.
    y: &'x mut [f32],
}

/// Rows of one sequence in a block, and its pages.
struct RowSpan<'p> {
    pages: &'p [PageId],
    row: usize,
    n_rows: usize,
    /// Number of keys visible to the last position.
    n_keys: usize,
}

/// A page, with the rows to which its keys are visible.
struct PageVisit {
    page: PageId,
    /// Index of the page's first key in the rows' sequences.
    first_key: usize,
    row: usize,
    n_rows: usize,
    /// Number of keys visible to the last row.
    n_keys: usize,
}

impl PageVisit {
    /// Returns the panels to prefetch if the visit is bound by memory. With more rows, the tiles prefetch them.
    fn bound_by_memory<'p>(&self, next: &'p [f32]) -> &'p [f32] {
        if self.n_rows < FEW { next } else { &[] }
    }
}

/// Left side of tiles.
struct LeftRows<'x> {
    elements: &'x [f32],
    stride: usize,
    depth: usize,
    n_rows: usize,
}

/// Right side of tiles.
struct RightPanel<'x> {
    elements: PanelElements<'x>,
    /// Panel that is read next, to be prefetched.
    prefetch: &'x [f32],
    accumulates: bool,
}
