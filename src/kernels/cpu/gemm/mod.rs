//! GEMM with packed weights: panels of columns in the order in which the kernels read them, packed once when a weight
//! is loaded.
//!
//! A general GEMM packs its right side each time, and reads and writes the result once more for a bias and an
//! activation. Here the weight is packed once, and bias, activation and residual are applied to a block of the result
//! while it is in the cache.
//!
//! A tile of the result, MR rows by one panel of NR columns, stays in registers while it accumulates over a block of
//! the depth, and continues from memory with the next block. Each element is one sum in an order that depends on
//! nothing else: a row is bit-identical whichever rows are beside it, and sequences may be run together or alone.

mod kernel;
mod packed;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::memory::{ColumnBlocks, in_parts, in_parts_with};

#[cfg(test)]
pub(crate) use kernel::all as all_kernels;
pub(crate) use kernel::{GemmKernel, Left, PanelElements, Target, Tile};
pub(crate) use packed::{MatrixRows, PackedMatrix, pack_transpose};

/// Bytes of a block of activations, which stays in the L2 cache while the weight is streamed.
const BLOCK: usize = 384 << 10;
/// Least number of tiles in a block, however long their rows are: the weight is streamed once for all of them.
const MIN_TILES: usize = 4;
/// Number of rows from which on fewer tiles are enough.
const MIN_ROWS: usize = 48;
/// Elements of the depth over which all tiles of a block accumulate before the next: their part of a panel stays in the
/// cache.
const DEPTH: usize = 512;
/// Size of a weight, in elements, from which on no cache keeps it between products.
const STREAMED: usize = 1 << 20;
/// Largest number of panels that a thread computes between two writes to the result.
const MAX_PANELS: usize = 4;
/// Least number of such groups of panels for each thread.
const MIN_GROUPS: usize = 4;
/// Multiply-adds below which other threads are not worth waking.
const PARALLEL: usize = 1 << 20;

/// Returns the fastest kernel that this processor supports.
pub(crate) fn kernel() -> &'static GemmKernel {
    static BEST: OnceLock<GemmKernel> = OnceLock::new();
    BEST.get_or_init(GemmKernel::best)
}

/// Weight `(K, N)` as panels of columns, in the layout that its kernel reads.
pub(crate) trait Panels: Sync {
    /// Rows of the left side in the layout that the kernel reads.
    type Left: Send + Sync;

    /// MR: rows of a tile.
    fn height(&self) -> usize;
    /// NR: columns of a panel.
    fn width(&self) -> usize;
    /// `K`.
    fn depth(&self) -> usize;
    /// Elements of the depth over which tiles accumulate at a time.
    fn depth_block(&self) -> usize;
    /// `N`.
    fn columns(&self) -> usize;
    /// Bytes of a row of the left side.
    fn row_bytes(&self) -> usize;
    /// Converts rows of `K` elements to the layout of the left side.
    fn prepare(&self, x: &[f32]) -> Self::Left;
    /// Writes one tile.
    fn tile(&self, left: &Self::Left, position: &TilePosition, target: &mut Target<'_>);
}

/// Position of a tile in the result, and the part of the depth over which it accumulates.
pub(crate) struct TilePosition {
    /// Rows, which begin at a multiple of MR.
    pub(crate) rows: Range<usize>,
    pub(crate) panel: usize,
    /// Range of the depth: the whole, or one of its blocks.
    pub(crate) depth: Range<usize>,
    /// Index of the tile among those of this part of the panel.
    pub(crate) index: usize,
    /// Number of those tiles: each prefetches an equal share of the next part.
    pub(crate) n_tiles: usize,
}

impl TilePosition {
    /// Returns the tile's share of the elements to prefetch.
    pub(crate) fn prefetch_share<'a, T>(&self, next: &'a [T]) -> &'a [T] {
        &next[next.len() * self.index / self.n_tiles..next.len() * (self.index + 1) / self.n_tiles]
    }
}

/// Operation on each row before a product, which reads the first buffer and writes the second.
pub(crate) type Prologue<'a> = Option<&'a (dyn Fn(&[f32], &mut [f32]) + Sync)>;

/// Operations on the result of a product.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// Bias, added to each row.
    pub(crate) bias: Option<&'a [f32]>,
    /// Activation, applied after the bias.
    pub(crate) activation: Option<fn(&mut [f32])>,
    /// Residual `(M, N)`, added last.
    pub(crate) residual: Option<&'a [f32]>,
}

impl<'a> Epilogue<'a> {
    /// Applies bias and activation to a part of a row that begins in column `first`.
    fn finish(&self, y: &mut [f32], first: usize) {
        if let Some(bias) = self.bias {
            y.iter_mut().zip(&bias[first..]).for_each(|(y, bias)| *y += bias);
        }
        if let Some(activation) = self.activation {
            activation(y);
        }
    }

    /// Adds the residual to whole rows: parts of rows that are a power of two apart would evict each other from the
    /// cache.
    fn add_residual(&self, y: &mut [f32]) {
        if let Some(residual) = self.residual {
            y.iter_mut().zip(residual).for_each(|(y, x)| *y += x);
        }
    }

    /// Returns the epilogue whose residual begins at element `first` of the result.
    fn after(self, first: usize) -> Self {
        Self { residual: self.residual.map(|residual| &residual[first..]), ..self }
    }
}

/// Returns whether one thread computes a product of so many multiply-adds.
pub(crate) fn is_small(work: usize) -> bool {
    work < PARALLEL
}

/// Computes `epilogue(prologue(x) W)`: `x (M, K)`, `w (K, N)` to `(M, N)`.
pub(crate) fn product<P: Panels>(x: &[f32], w: &P, prologue: Prologue<'_>, epilogue: Epilogue<'_>) -> Vec<f32> {
    let (depth, columns) = (w.depth(), w.columns());
    let rows = x.len() / depth.max(1);
    if rows * columns == 0 || depth == 0 {
        return vec![0.0; rows * columns];
    }
    let is_small = is_small(rows * depth * columns);
    let leaves_threads_idle = rows < rayon::current_num_threads() * w.height();
    // A weight larger than the cache is streamed once for all rows, if the rows stay in the cache.
    let is_streamed = depth * columns >= STREAMED && rows * w.row_bytes() <= BLOCK;
    if !is_small && (leaves_threads_idle || is_streamed) {
        return few_rows(x, w, prologue, epilogue);
    }
    if is_small {
        let mut y = vec![0.0; rows * columns];
        block(&prologued(x, depth, prologue), w, &mut y, epilogue);
        return y;
    }
    let per_block = rows_per_block(rows, w);
    in_parts(rows * columns, per_block * columns, |i, y| {
        let x = &x[i * per_block * depth..][..y.len() / columns * depth];
        block(&prologued(x, depth, prologue), w, y, epilogue.after(i * per_block * columns));
    })
}

/// Right factor of a fused product, with the operations on its result.
#[derive(Clone, Copy)]
pub(crate) struct WeightFactor<'a, P> {
    pub(crate) weight: &'a P,
    pub(crate) epilogue: Epilogue<'a>,
}

/// Computes `activation(prologue(x) W1 + b1) W2 + b2 + x` a block of rows at a time, without the whole intermediate
/// result in memory. `x (M, K)`, `W1 (K, H)`, `W2 (H, K)` to `(M, K)`.
pub(crate) fn two_products<P: Panels>(
    x: &[f32],
    prologue: Prologue<'_>,
    up: WeightFactor<'_, P>,
    down: WeightFactor<'_, P>,
) -> Vec<f32> {
    let (w1, w2) = (up.weight, down.weight);
    let (depth, hidden) = (w1.depth(), w1.columns());
    let per_block = rows_per_block(x.len() / depth.max(1), w1);
    in_parts_with(x.len(), per_block * depth, Vec::new, |between, i, y| {
        let x = &x[i * per_block * depth..][..y.len()];
        // Every element is overwritten.
        between.resize(x.len() / depth * hidden, 0.0);
        block(&prologued(x, depth, prologue), w1, between, up.epilogue);
        block(between, w2, y, Epilogue { residual: Some(x), ..down.epilogue });
    })
}

fn prologued<'x>(x: &'x [f32], depth: usize, prologue: Prologue<'_>) -> Cow<'x, [f32]> {
    let Some(prologue) = prologue else { return Cow::Borrowed(x) };
    let mut y = vec![0.0; x.len()];
    x.chunks_exact(depth).zip(y.chunks_exact_mut(depth)).for_each(|(x, y)| prologue(x, y));
    Cow::Owned(y)
}

/// Returns the number of rows of a block: about as many as fit into the cache, balanced over the threads.
fn rows_per_block<P: Panels>(rows: usize, w: &P) -> usize {
    let (threads, n_tiles) = (rayon::current_num_threads(), rows.div_ceil(w.height()));
    let fewest = MIN_TILES.min(MIN_ROWS.div_ceil(w.height()));
    let most = (BLOCK / (w.row_bytes() * w.height())).max(fewest);
    let fewest_rounds = n_tiles.div_ceil(most * threads).max(1);
    // Tiles of the busiest thread; of equal numbers the larger blocks are taken.
    let busiest = |rounds: &usize| rounds * n_tiles.div_ceil(rounds * threads);
    let rounds = (fewest_rounds..fewest_rounds + 4).min_by_key(busiest).unwrap_or(fewest_rounds);
    n_tiles.div_ceil(rounds * threads).max(1) * w.height()
}

/// Returns the positions of the tiles of `rows` rows with a part of a panel.
fn positions(rows: usize, height: usize, panel: usize, depth: Range<usize>) -> impl Iterator<Item = TilePosition> {
    let n = rows.div_ceil(height);
    let rows = move |i: usize| i * height..rows.min((i + 1) * height);
    (0..n).map(move |i| TilePosition { rows: rows(i), panel, depth: depth.clone(), index: i, n_tiles: n })
}

/// Multiplies a block of rows by the whole weight.
fn block<P: Panels>(x: &[f32], w: &P, y: &mut [f32], epilogue: Epilogue<'_>) {
    let (n, rows, left) = (w.columns(), x.len() / w.depth(), w.prepare(x));
    let parts = (0..w.depth()).step_by(w.depth_block()).map(|k| k..w.depth().min(k + w.depth_block()));
    for (panel, first) in (0..n).step_by(w.width()).enumerate() {
        let columns = w.width().min(n - first);
        for position in parts.clone().flat_map(|depth| positions(rows, w.height(), panel, depth)) {
            let elements = &mut y[position.rows.start * n..position.rows.end * n][first..];
            w.tile(&left, &position, &mut Target { elements, stride: n, columns });
        }
        y.chunks_mut(n).for_each(|y| epilogue.finish(&mut y[first..][..columns], first));
    }
    epilogue.add_residual(y);
}

/// Multiplies few rows, which is bound by reading the weight: the threads share its panels.
fn few_rows<P: Panels>(x: &[f32], w: &P, prologue: Prologue<'_>, epilogue: Epilogue<'_>) -> Vec<f32> {
    let (n, width, depth) = (w.columns(), w.width(), w.depth());
    let rows = x.len() / depth;
    // Tiles of equal height: a low tile has too few sums in flight to hide their latency.
    let height = rows.div_ceil(rows.div_ceil(w.height()));
    let tiles: Vec<P::Left> = x.par_chunks(height * depth).map(|x| w.prepare(&prologued(x, depth, prologue))).collect();
    let n_panels = n.div_ceil(width);
    let n_groups = MIN_GROUPS * rayon::current_num_threads();
    let stride = (n_panels / n_groups).clamp(1, MAX_PANELS) * width;
    ColumnBlocks { rows, columns: n, width: stride }.make(|first, y| {
        let columns = stride.min(n - first);
        for at in (0..columns).step_by(width) {
            let panel = (first + at) / width;
            for ((i, left), y) in tiles.iter().enumerate().zip(y.chunks_mut(height * stride)) {
                let rows = 0..y.len() / stride;
                let position = TilePosition { rows, panel, depth: 0..depth, index: i, n_tiles: tiles.len() };
                let columns = width.min(columns - at);
                w.tile(left, &position, &mut Target { elements: &mut y[at..], stride, columns });
            }
        }
        for (row, y) in y.chunks_mut(stride).enumerate() {
            let y = &mut y[..columns];
            epilogue.finish(y, first);
            epilogue.after(row * n + first).add_residual(y);
        }
    })
}
