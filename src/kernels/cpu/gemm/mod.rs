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

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::memory::{AlignedBuffer, in_parts, in_parts_with};

#[cfg(test)]
pub(crate) use kernel::all as all_kernels;
use kernel::pack_rows;
pub(crate) use kernel::{GemmKernel, Left, PanelElements, Target, Tile};

/// Bytes of a block of activations, which stays in the L2 cache while the weight is streamed.
const BLOCK: usize = 384 << 10;
/// Least number of tiles in a block, however long their rows are: the weight is streamed once for all of them.
const MIN_TILES: usize = 4;
/// Elements of the depth over which all tiles of a block accumulate before the next: their part of a panel stays in the
/// cache.
const DEPTH: usize = 512;
/// Size of a weight, in elements, from which on no cache keeps it between products.
const STREAMED: usize = 1 << 20;
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

/// Matrix `(K, N)` in f32 as panels `(K, NR)`, the last one padded with zeros.
#[derive(Debug, Clone)]
pub(crate) struct PackedMatrix {
    panels: AlignedBuffer,
    depth: usize,
    columns: usize,
    kernel: &'static GemmKernel,
}

impl PackedMatrix {
    /// Packs the transpose of `w (N, K)`, the layout in which weights are stored.
    pub(crate) fn transpose_of(w: &[f32], depth: usize, kernel: &'static GemmKernel) -> Self {
        let (columns, width) = (w.len() / depth.max(1), kernel.width);
        let mut panels = AlignedBuffer::zeros(columns.div_ceil(width) * depth * width);
        if depth > 0 {
            let packs = panels.par_chunks_mut(depth * width).zip(w.par_chunks(width * depth));
            packs.for_each(|(panel, rows)| {
                pack_transpose(MatrixRows { elements: rows, depth, stride: depth }, width, panel)
            });
        }
        Self { panels, depth, columns, kernel }
    }

    /// Copies one column, of `K` elements.
    pub(crate) fn copy_column(&self, column: usize, to: &mut [f32]) {
        let width = self.kernel.width;
        let panel = &self.panels[column / width * self.depth * width..][..self.depth * width];
        to.iter_mut().zip(panel[column % width..].iter().step_by(width)).for_each(|(to, &from)| *to = from);
    }

    /// Joins the columns of several matrices, or returns `None` unless those of each fill its panels.
    pub(crate) fn join(parts: &[&Self]) -> Option<Self> {
        let &&Self { depth, kernel, .. } = parts.first()?;
        let fits = |part: &&Self| part.depth == depth && part.columns.is_multiple_of(kernel.width);
        if !parts.iter().all(|part| fits(part) && part.kernel.width == kernel.width) {
            return None;
        }
        let mut panels = AlignedBuffer::zeros(parts.iter().map(|part| part.panels.len()).sum());
        let mut rest = &mut *panels;
        for part in parts {
            let (these, others) = rest.split_at_mut(part.panels.len());
            these.copy_from_slice(&part.panels);
            rest = others;
        }
        Some(Self { panels, depth, columns: parts.iter().map(|part| part.columns).sum(), kernel })
    }
}

impl Panels for PackedMatrix {
    type Left = Vec<f32>;

    fn height(&self) -> usize {
        self.kernel.height
    }

    fn width(&self) -> usize {
        self.kernel.width
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn depth_block(&self) -> usize {
        DEPTH
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn row_bytes(&self) -> usize {
        self.depth * size_of::<f32>()
    }

    fn prepare(&self, x: &[f32]) -> Vec<f32> {
        pack_rows(x, self.depth, self.kernel.height)
    }

    fn tile(&self, left: &Vec<f32>, position: &TilePosition, target: &mut Target<'_>) {
        let (rows, depth, width) = (position.rows.len(), position.depth.len(), self.kernel.width);
        let left =
            Left::Packed(&left[position.rows.start * self.depth + position.depth.start * rows..][..depth * rows]);
        let (panel, next) =
            self.panels[(position.panel * self.depth + position.depth.start) * width..].split_at(depth * width);
        let prefetch = position.prefetch_share(&next[..panel.len().min(next.len())]);
        self.kernel.tile(
            &Tile {
                rows,
                depth,
                left,
                panel: PanelElements::F32(panel),
                accumulates: position.depth.start > 0,
                prefetch,
            },
            target,
        );
    }
}

/// Rows of a matrix.
#[derive(Clone, Copy)]
pub(crate) struct MatrixRows<'x> {
    /// Elements from the first row on.
    pub(crate) elements: &'x [f32],
    /// Number of elements of a row.
    pub(crate) depth: usize,
    /// Distance from one row to the next.
    pub(crate) stride: usize,
}

/// Packs up to `width` rows as the columns of a panel.
pub(crate) fn pack_transpose(rows: MatrixRows<'_>, width: usize, panel: &mut [f32]) {
    let MatrixRows { elements, depth, stride } = rows;
    for (column, row) in elements.chunks(stride).take(width).enumerate() {
        panel[column..].iter_mut().step_by(width).zip(&row[..depth]).for_each(|(to, &from)| *to = from);
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

    /// Returns the epilogue of the rows from `first` on.
    fn after(self, first: usize, columns: usize) -> Self {
        Self { residual: self.residual.map(|residual| &residual[first * columns..]), ..self }
    }
}

/// Computes `epilogue(prologue(x) W)`: `x (M, K)`, `w (K, N)` to `(M, N)`.
pub(crate) fn product<P: Panels>(x: &[f32], w: &P, prologue: Prologue<'_>, epilogue: Epilogue<'_>) -> Vec<f32> {
    let (depth, columns) = (w.depth(), w.columns());
    let rows = x.len() / depth.max(1);
    if rows * columns == 0 || depth == 0 {
        return vec![0.0; rows * columns];
    }
    let is_small = rows * depth * columns < PARALLEL;
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
        block(&prologued(x, depth, prologue), w, y, epilogue.after(i * per_block, columns));
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
    let most = (BLOCK / (w.row_bytes() * w.height())).max(MIN_TILES);
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
    // (panels, rows, NR)
    let mut across = in_parts(n.div_ceil(width) * width * rows, rows * width, |panel, y| {
        let first = panel * width;
        let columns = width.min(n - first);
        for ((i, left), elements) in tiles.iter().enumerate().zip(y.chunks_mut(height * width)) {
            let rows = 0..elements.len() / width;
            let position = TilePosition { rows, panel, depth: 0..depth, index: i, n_tiles: tiles.len() };
            w.tile(left, &position, &mut Target { elements, stride: width, columns });
        }
        y.chunks_mut(width).for_each(|y| epilogue.finish(&mut y[..columns], first));
    });
    if rows == 1 {
        across.truncate(n);
        epilogue.add_residual(&mut across);
        return across;
    }
    in_parts(rows * n, n, |row, y| {
        for (i, y) in y.chunks_mut(width).enumerate() {
            y.copy_from_slice(&across[(i * rows + row) * width..][..y.len()]);
        }
        epilogue.after(row, n).add_residual(y);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::finite_difference::random_elements as random;

    #[test]
    fn every_kernel_gives_the_sums_of_products_in_every_shape() {
        let shapes = [(1, 1, 1), (3, 7, 5), (14, 16, 32), (15, 33, 33), (29, 5, 100), (20, 600, 300), (200, 70, 131)];
        for kernel in kernel::all() {
            for (rows, depth, columns) in shapes {
                let (x, w, bias) = (random(rows * depth, 1), random(columns * depth, 2), random(columns, 3));
                let residual = random(rows * columns, 4);
                let packed = PackedMatrix::transpose_of(&w, depth, kernel);
                let epilogue = Epilogue {
                    bias: Some(&bias),
                    activation: Some(|y| y.iter_mut().for_each(|y| *y *= 2.0)),
                    residual: Some(&residual),
                };
                let y = product(&x, &packed, Some(&|x, y| y.iter_mut().zip(x).for_each(|(y, x)| *y = -x)), epilogue);
                for (m, n) in (0..rows).flat_map(|m| (0..columns).map(move |n| (m, n))) {
                    let pairs = x[m * depth..][..depth].iter().zip(&w[n * depth..][..depth]);
                    let sum: f64 = pairs.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                    let exact = 2.0 * (f64::from(bias[n]) - sum) + f64::from(residual[m * columns + n]);
                    let difference = (f64::from(y[m * columns + n]) - exact).abs();
                    assert!(difference < 2e-5 * depth as f64, "{rows} x {depth} x {columns} at {m}, {n}: {difference}");
                }
            }
        }
    }

    #[test]
    fn sums_over_parts_of_the_depth_are_those_over_the_whole() {
        let (rows, depth, columns) = (33, 2 * DEPTH + 70, 75);
        let (x, w) = (random(rows * depth, 1), random(columns * depth, 2));
        for kernel in kernel::all() {
            let packed = PackedMatrix::transpose_of(&w, depth, kernel);
            let mut in_parts = vec![f32::NAN; rows * columns];
            block(&x, &packed, &mut in_parts, Epilogue::default());
            assert!(few_rows(&x, &packed, None, Epilogue::default()) == in_parts);
        }
    }

    #[test]
    fn two_products_are_one_after_the_other() {
        let (depth, hidden) = (64, 96);
        let bias = random(hidden, 1);
        for rows in [0, 1, 13, 100, 2000] {
            let (x, w1, w2) = (random(rows * depth, 2), random(hidden * depth, 3), random(depth * hidden, 4));
            for kernel in kernel::all() {
                let (w1, w2) =
                    (PackedMatrix::transpose_of(&w1, depth, kernel), PackedMatrix::transpose_of(&w2, hidden, kernel));
                let first = Epilogue { bias: Some(&bias), ..Epilogue::default() };
                let halve: Prologue<'_> = Some(&|x, y| y.iter_mut().zip(x).for_each(|(y, x)| *y = x / 2.0));
                let between = product(&x, &w1, halve, first);
                let separate = product(&between, &w2, None, Epilogue { residual: Some(&x), ..Epilogue::default() });
                let up = WeightFactor { weight: &w1, epilogue: first };
                let down = WeightFactor { weight: &w2, epilogue: Epilogue::default() };
                assert!(two_products(&x, halve, up, down) == separate, "{rows} rows");
            }
        }
    }

    #[test]
    fn a_row_is_bit_identical_beside_any_rows() {
        // Large enough for several threads: they share the weight for few rows, the rows for many.
        let (depth, columns) = (203, 5000);
        let (x, w) = (random(90 * depth, 3), random(columns * depth, 4));
        for kernel in kernel::all() {
            let packed = PackedMatrix::transpose_of(&w, depth, kernel);
            let run = |x: &[f32]| product(x, &packed, None, Epilogue::default());
            let alone: Vec<f32> = x.chunks(depth).flat_map(run).collect();
            for rows in [2, 3, 13, 14, 15, 27, 28, 29, 90] {
                assert!(run(&x[..rows * depth]) == alone[..rows * columns], "{rows} rows");
            }
        }
    }
}
