//! Products of activations with weights that are packed once, when they are loaded, in the order in which the kernels read them.
//!
//! A general product copies its right side into that order each time, and reads and writes the result once more for a bias and an
//! activation. Here a weight is packed once, and what follows the product is done while its numbers are near.
//!
//! A tile of the result, some rows by one panel of columns, stays in registers while its products are summed over a part of the depth,
//! and goes on from there with the next part. So each number is one sum, in an order that depends on nothing else: a row comes out the
//! same, to the bit, whichever rows are beside it, and sequences may be run together or alone.

mod kernel;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::memory::{Lines, in_parts, in_parts_with};

#[cfg(test)]
pub(crate) use kernel::all as all_kernels;
use kernel::pack_rows;
pub(crate) use kernel::{Kernel, Left, Target, Tile};

/// Bytes of activations that are worked on together: they stay in the second-level cache while the weight passes by.
const BLOCK: usize = 384 << 10;
/// Tiles that are worked on together at least, however long their rows are: the weight passes by once for all of them.
const MIN_TILES: usize = 4;
/// Numbers of the depth that are summed for all of these tiles before the next ones: their part of a panel stays near meanwhile.
const DEPTH: usize = 512;
/// Products below which other threads are not worth waking.
const PARALLEL: usize = 1 << 20;

/// The kernel of this machine.
pub(crate) fn kernel() -> &'static Kernel {
    static BEST: OnceLock<Kernel> = OnceLock::new();
    BEST.get_or_init(Kernel::best)
}

/// A weight `(K, N)` as panels of columns, in whatever form its kernel reads them.
pub(crate) trait Panels: Sync {
    /// Rows of the left side, as the kernel reads them.
    type Left: Sync;

    /// Rows of a tile.
    fn height(&self) -> usize;
    /// Columns of a panel.
    fn width(&self) -> usize;
    /// `K`.
    fn depth(&self) -> usize;
    /// How much of it tiles are summed over at a time.
    fn depth_at_once(&self) -> usize;
    /// `N`.
    fn columns(&self) -> usize;
    /// Bytes of a row of the left side.
    fn row_bytes(&self) -> usize;
    /// Prepares rows of `K` numbers.
    fn prepare(&self, x: &[f32]) -> Self::Left;
    /// Writes one tile.
    fn tile(&self, left: &Self::Left, place: &Place, target: &mut Target<'_>);
}

/// Where a tile lies.
pub(crate) struct Place {
    /// They begin at a multiple of the height.
    pub(crate) rows: Range<usize>,
    pub(crate) panel: usize,
    /// The part of the depth that is summed over: the whole, or one part after the other.
    pub(crate) depth: Range<usize>,
    /// Which of how many tiles of this part of the panel it is: each fetches its part of what comes next, which else would be waited for.
    pub(crate) turn: (usize, usize),
}

impl Place {
    /// Its part of what comes next.
    pub(crate) fn part<'a, T>(&self, next: &'a [T]) -> &'a [T] {
        let (i, n) = self.turn;
        &next[next.len() * i / n..next.len() * (i + 1) / n]
    }
}

/// A matrix `(K, N)` in f32, each panel `(K, width)`; the last one is filled with zeros.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    panels: Lines,
    depth: usize,
    columns: usize,
    kernel: &'static Kernel,
}

impl Packed {
    /// Packs the transpose of `w (N, K)`, the layout in which weights are stored.
    pub(crate) fn transpose_of(w: &[f32], depth: usize, kernel: &'static Kernel) -> Self {
        let (columns, width) = (w.len() / depth.max(1), kernel.width);
        let mut panels = Lines::zeros(columns.div_ceil(width) * depth * width);
        if depth > 0 {
            let packs = panels.par_chunks_mut(depth * width).zip(w.par_chunks(width * depth));
            packs.for_each(|(panel, rows)| pack_transpose(rows, (depth, depth), width, panel));
        }
        Self { panels, depth, columns, kernel }
    }

    /// The columns of several matrices beside each other, where those of each fill its panels.
    pub(crate) fn join(parts: &[&Self]) -> Option<Self> {
        let &&Self { depth, kernel, .. } = parts.first()?;
        let fits = |part: &&Self| part.depth == depth && part.columns.is_multiple_of(kernel.width);
        if !parts.iter().all(|part| fits(part) && part.kernel.width == kernel.width) {
            return None;
        }
        let mut panels = Lines::zeros(parts.iter().map(|part| part.panels.len()).sum());
        let mut rest = &mut *panels;
        for part in parts {
            let (these, others) = rest.split_at_mut(part.panels.len());
            these.copy_from_slice(&part.panels);
            rest = others;
        }
        Some(Self { panels, depth, columns: parts.iter().map(|part| part.columns).sum(), kernel })
    }
}

impl Panels for Packed {
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

    fn depth_at_once(&self) -> usize {
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

    fn tile(&self, left: &Vec<f32>, place: &Place, target: &mut Target<'_>) {
        let (rows, depth, width) = (place.rows.len(), place.depth.len(), self.kernel.width);
        let left = Left::Packed(&left[place.rows.start * self.depth + place.depth.start * rows..][..depth * rows]);
        let (panel, next) =
            self.panels[(place.panel * self.depth + place.depth.start) * width..].split_at(depth * width);
        let ahead = place.part(&next[..panel.len().min(next.len())]);
        self.kernel.tile(&Tile { rows, depth, left, panel, goes_on: place.depth.start > 0, ahead }, target);
    }
}

/// Packs up to `width` rows of `depth` numbers, one every `stride`, as the columns of a panel.
pub(crate) fn pack_transpose(rows: &[f32], (depth, stride): (usize, usize), width: usize, panel: &mut [f32]) {
    for (column, row) in rows.chunks(stride).take(width).enumerate() {
        panel[column..].iter_mut().step_by(width).zip(&row[..depth]).for_each(|(to, &from)| *to = from);
    }
}

/// What comes before a product: done to each row, from the first buffer to the second.
pub(crate) type Prologue<'a> = Option<&'a (dyn Fn(&[f32], &mut [f32]) + Sync)>;

/// What follows a product.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// Added to each row.
    pub(crate) bias: Option<&'a [f32]>,
    /// Done to every number then.
    pub(crate) activation: Option<fn(&mut [f32])>,
    /// Added last: as many numbers as the product has.
    pub(crate) residual: Option<&'a [f32]>,
}

impl<'a> Epilogue<'a> {
    /// Finishes a part of a row that begins in column `first`, but for the residual.
    fn finish(&self, y: &mut [f32], first: usize) {
        if let Some(bias) = self.bias {
            y.iter_mut().zip(&bias[first..]).for_each(|(y, bias)| *y += bias);
        }
        if let Some(activation) = self.activation {
            activation(y);
        }
    }

    /// Adds the residual to whole rows: in parts of them, a power of two apart, its numbers would push each other out of the cache.
    fn add_residual(&self, y: &mut [f32]) {
        if let Some(residual) = self.residual {
            y.iter_mut().zip(residual).for_each(|(y, x)| *y += x);
        }
    }

    /// The same for the rows from `first` on.
    fn after(self, first: usize, columns: usize) -> Self {
        Self { residual: self.residual.map(|residual| &residual[first * columns..]), ..self }
    }
}

/// `x W`, with what comes before and follows it. `x (M, K)`, `w (K, N)` to `(M, N)`.
pub(crate) fn product<P: Panels>(x: &[f32], w: &P, prologue: Prologue<'_>, epilogue: Epilogue<'_>) -> Vec<f32> {
    let (depth, columns) = (w.depth(), w.columns());
    let rows = x.len() / depth.max(1);
    if rows * columns == 0 || depth == 0 {
        return vec![0.0; rows * columns];
    }
    let is_small = rows * depth * columns < PARALLEL;
    if !is_small && rows < rayon::current_num_threads() * w.height() {
        return few_rows(&prologued(x, depth, prologue), w, epilogue);
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

/// `(act((prologue x) W1 + b1)) W2 + b2 + x`, some rows after the other, so that what is between the two products never stands in memory
/// as a whole. `x (M, K)`, `w1 (K, H)`, `w2 (H, K)` to `(M, K)`.
pub(crate) fn two_products<P: Panels>(
    x: &[f32],
    prologue: Prologue<'_>,
    (w1, first): (&P, Epilogue<'_>),
    (w2, second): (&P, Epilogue<'_>),
) -> Vec<f32> {
    let (depth, hidden) = (w1.depth(), w1.columns());
    let per_block = rows_per_block(x.len() / depth.max(1), w1);
    in_parts_with(x.len(), per_block * depth, Vec::new, |between, i, y| {
        let x = &x[i * per_block * depth..][..y.len()];
        // Every number is written anew.
        between.resize(x.len() / depth * hidden, 0.0);
        block(&prologued(x, depth, prologue), w1, between, first);
        block(between, w2, y, Epilogue { residual: Some(x), ..second });
    })
}

fn prologued<'x>(x: &'x [f32], depth: usize, prologue: Prologue<'_>) -> Cow<'x, [f32]> {
    let Some(prologue) = prologue else { return Cow::Borrowed(x) };
    let mut y = vec![0.0; x.len()];
    x.chunks_exact(depth).zip(y.chunks_exact_mut(depth)).for_each(|(x, y)| prologue(x, y));
    Cow::Owned(y)
}

/// About as many rows as the cache holds, but such that the threads have as equally much as can be.
fn rows_per_block<P: Panels>(rows: usize, w: &P) -> usize {
    let (threads, n_tiles) = (rayon::current_num_threads(), rows.div_ceil(w.height()));
    let most = (BLOCK / (w.row_bytes() * w.height())).max(MIN_TILES);
    let fewest_rounds = n_tiles.div_ceil(most * threads).max(1);
    // The tiles that the busiest thread has; of equally good ones the larger blocks.
    let busiest = |rounds: &usize| rounds * n_tiles.div_ceil(rounds * threads);
    let rounds = (fewest_rounds..fewest_rounds + 4).min_by_key(busiest).unwrap_or(fewest_rounds);
    n_tiles.div_ceil(rounds * threads).max(1) * w.height()
}

/// The tiles of some rows with a part of a panel.
fn places(rows: usize, height: usize, panel: usize, depth: Range<usize>) -> impl Iterator<Item = Place> {
    let n = rows.div_ceil(height);
    let rows = move |i: usize| i * height..rows.min((i + 1) * height);
    (0..n).map(move |i| Place { rows: rows(i), panel, depth: depth.clone(), turn: (i, n) })
}

/// One block of rows with the whole weight.
fn block<P: Panels>(x: &[f32], w: &P, y: &mut [f32], epilogue: Epilogue<'_>) {
    let (n, rows, left) = (w.columns(), x.len() / w.depth(), w.prepare(x));
    let parts = (0..w.depth()).step_by(w.depth_at_once()).map(|k| k..w.depth().min(k + w.depth_at_once()));
    for (panel, first) in (0..n).step_by(w.width()).enumerate() {
        let columns = w.width().min(n - first);
        for place in parts.clone().flat_map(|depth| places(rows, w.height(), panel, depth)) {
            let numbers = &mut y[place.rows.start * n..place.rows.end * n][first..];
            w.tile(&left, &place, &mut Target { numbers, stride: n, columns });
        }
        y.chunks_mut(n).for_each(|y| epilogue.finish(&mut y[first..][..columns], first));
    }
    epilogue.add_residual(y);
}

/// So few rows that the threads share the weight instead: it is bound by reading that.
fn few_rows<P: Panels>(x: &[f32], w: &P, epilogue: Epilogue<'_>) -> Vec<f32> {
    let (n, width, rows, left) = (w.columns(), w.width(), x.len() / w.depth(), w.prepare(x));
    // By panel, then by row.
    let mut across = vec![0.0; n.div_ceil(width) * width * rows];
    across.par_chunks_mut(rows * width).enumerate().for_each(|(panel, y)| {
        let first = panel * width;
        let columns = width.min(n - first);
        for place in places(rows, w.height(), panel, 0..w.depth()) {
            let numbers = &mut y[place.rows.start * width..place.rows.end * width];
            w.tile(&left, &place, &mut Target { numbers, stride: width, columns });
        }
        y.chunks_mut(width).for_each(|y| epilogue.finish(&mut y[..columns], first));
    });
    if rows == 1 {
        across.truncate(n);
        epilogue.add_residual(&mut across);
        return across;
    }
    let mut y = vec![0.0; rows * n];
    for (i, panel) in across.chunks_exact(rows * width).enumerate() {
        let first = i * width;
        let columns = width.min(n - first);
        for (row, from) in panel.chunks_exact(width).enumerate() {
            y[row * n + first..][..columns].copy_from_slice(&from[..columns]);
        }
    }
    epilogue.add_residual(&mut y);
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn every_kernel_gives_the_sums_of_products_in_every_shape() {
        let shapes = [(1, 1, 1), (3, 7, 5), (14, 16, 32), (15, 33, 33), (29, 5, 100), (20, 600, 300), (200, 70, 131)];
        for kernel in kernel::all() {
            for (rows, depth, columns) in shapes {
                let (x, w, bias) = (random(rows * depth, 1), random(columns * depth, 2), random(columns, 3));
                let residual = random(rows * columns, 4);
                let packed = Packed::transpose_of(&w, depth, kernel);
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
            let packed = Packed::transpose_of(&w, depth, kernel);
            let mut in_parts = vec![f32::NAN; rows * columns];
            block(&x, &packed, &mut in_parts, Epilogue::default());
            assert!(few_rows(&x, &packed, Epilogue::default()) == in_parts);
        }
    }

    #[test]
    fn two_products_are_one_after_the_other() {
        let (depth, hidden) = (64, 96);
        let bias = random(hidden, 1);
        for rows in [0, 1, 13, 100, 2000] {
            let (x, w1, w2) = (random(rows * depth, 2), random(hidden * depth, 3), random(depth * hidden, 4));
            for kernel in kernel::all() {
                let (w1, w2) = (Packed::transpose_of(&w1, depth, kernel), Packed::transpose_of(&w2, hidden, kernel));
                let first = Epilogue { bias: Some(&bias), ..Epilogue::default() };
                let halve: Prologue<'_> = Some(&|x, y| y.iter_mut().zip(x).for_each(|(y, x)| *y = x / 2.0));
                let between = product(&x, &w1, halve, first);
                let apart = product(&between, &w2, None, Epilogue { residual: Some(&x), ..Epilogue::default() });
                assert!(two_products(&x, halve, (&w1, first), (&w2, Epilogue::default())) == apart, "{rows} rows");
            }
        }
    }

    #[test]
    fn a_row_comes_out_the_same_whichever_rows_are_beside_it() {
        // So large that the threads share it: the weight for few rows, the rows for many.
        let (depth, columns) = (203, 5000);
        let (x, w) = (random(90 * depth, 3), random(columns * depth, 4));
        for kernel in kernel::all() {
            let packed = Packed::transpose_of(&w, depth, kernel);
            let run = |x: &[f32]| product(x, &packed, None, Epilogue::default());
            let alone: Vec<f32> = x.chunks(depth).flat_map(run).collect();
            for rows in [2, 3, 13, 14, 15, 27, 28, 29, 90] {
                assert!(run(&x[..rows * depth]) == alone[..rows * columns], "{rows} rows");
            }
        }
    }
}
