//! Products of activations with weights that are packed once, when they are loaded, in the order in which the kernels read them.
//!
//! A general product copies its right side into that order each time, and reads and writes the result once more for a bias and an
//! activation. Here a weight is packed once, and what follows the product is done while its numbers are near.
//!
//! A tile of the result, some rows by one panel of columns, stays in registers while its products are summed over the whole depth.
//! So each number is one sum, in an order that depends on nothing else: a row comes out the same, to the bit, whichever rows are
//! beside it, and sequences may be run together or alone.

mod kernel;

use std::sync::OnceLock;

use rayon::prelude::*;

pub(super) use kernel::{Kernel, Left, Target, Tile, pack_rows};

/// Bytes of activations that are worked on together: they stay in the second-level cache while the weight passes by.
const BLOCK: usize = 384 << 10;
/// Products below which other threads are not worth waking.
const PARALLEL: usize = 1 << 20;

/// The kernel of this machine.
pub(super) fn kernel() -> &'static Kernel {
    static BEST: OnceLock<Kernel> = OnceLock::new();
    BEST.get_or_init(Kernel::best)
}

/// A matrix `(K, N)` as panels of columns, each `(K, width)`; the last one is filled with zeros.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    panels: Vec<f32>,
    depth: usize,
    columns: usize,
    width: usize,
}

impl Packed {
    /// Packs the transpose of `w (N, K)`, the layout in which weights are stored.
    pub(super) fn transpose_of(w: &[f32], depth: usize, kernel: &Kernel) -> Self {
        let (columns, width) = (w.len() / depth.max(1), kernel.width);
        let mut panels = vec![0.0; columns.div_ceil(width) * depth * width];
        if depth > 0 {
            let packs = panels.par_chunks_mut(depth * width).zip(w.par_chunks(width * depth));
            packs.for_each(|(panel, rows)| pack_transpose(rows, (depth, depth), width, panel));
        }
        Self { panels, depth, columns, width }
    }

    /// `K`.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// `N`.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }
}

/// Packs up to `width` rows of `depth` numbers, one every `stride`, as the columns of a panel.
pub(super) fn pack_transpose(rows: &[f32], (depth, stride): (usize, usize), width: usize, panel: &mut [f32]) {
    for (column, row) in rows.chunks(stride).take(width).enumerate() {
        panel[column..].iter_mut().step_by(width).zip(&row[..depth]).for_each(|(to, &from)| *to = from);
    }
}

/// What follows a product.
#[derive(Clone, Copy, Default)]
pub(super) struct Epilogue<'a> {
    /// Added to each row.
    pub(super) bias: Option<&'a [f32]>,
    /// Done to every number then.
    pub(super) activation: Option<fn(&mut [f32])>,
}

impl Epilogue<'_> {
    /// Finishes a part of a row that begins in column `first`.
    fn finish(&self, y: &mut [f32], first: usize) {
        if let Some(bias) = self.bias {
            y.iter_mut().zip(&bias[first..]).for_each(|(y, bias)| *y += bias);
        }
        if let Some(activation) = self.activation {
            activation(y);
        }
    }
}

/// `x W`, with what follows it. `x (M, K)`, `w (K, N)` to `(M, N)`.
pub(super) fn product(x: &[f32], w: &Packed, epilogue: Epilogue<'_>, kernel: &Kernel) -> Vec<f32> {
    let rows = x.len() / w.depth.max(1);
    if rows * w.columns == 0 || w.depth == 0 {
        return vec![0.0; rows * w.columns];
    }
    let is_small = rows * w.depth * w.columns < PARALLEL;
    if !is_small && rows < rayon::current_num_threads() * kernel.height {
        return few_rows(x, w, epilogue, kernel);
    }
    let mut y = vec![0.0; rows * w.columns];
    if is_small {
        block(x, w, &mut y, epilogue, kernel);
        return y;
    }
    let per_block = rows_per_block(rows, w.depth, kernel);
    let blocks = y.par_chunks_mut(per_block * w.columns).zip(x.par_chunks(per_block * w.depth));
    blocks.for_each(|(y, x)| block(x, w, y, epilogue, kernel));
    y
}

/// About as many rows as the cache holds, but such that the threads have as equally much as can be.
fn rows_per_block(rows: usize, depth: usize, kernel: &Kernel) -> usize {
    let (threads, n_tiles) = (rayon::current_num_threads(), rows.div_ceil(kernel.height));
    let most = (BLOCK / (depth * kernel.height * size_of::<f32>())).max(1);
    let fewest_rounds = n_tiles.div_ceil(most * threads);
    // The tiles that the busiest thread has; of equally good ones the larger blocks.
    let busiest = |rounds: &usize| rounds * n_tiles.div_ceil(rounds * threads);
    let rounds = (fewest_rounds..fewest_rounds + 4).min_by_key(busiest).unwrap_or(fewest_rounds);
    n_tiles.div_ceil(rounds * threads) * kernel.height
}

/// One block of rows with the whole weight.
fn block(x: &[f32], w: &Packed, y: &mut [f32], epilogue: Epilogue<'_>, kernel: &Kernel) {
    let mut packed = Vec::new();
    pack_rows(x, w.depth, kernel.height, &mut packed);
    for (panel, first) in w.panels.chunks_exact(w.depth * w.width).zip((0..w.columns).step_by(w.width)) {
        let columns = w.width.min(w.columns - first);
        let tiles = packed.chunks(kernel.height * w.depth).zip(y.chunks_mut(kernel.height * w.columns));
        for (x, y) in tiles {
            let rows = x.len() / w.depth;
            let tile = Tile { rows, depth: w.depth, left: Left::Packed(x), panel };
            kernel.tile(&tile, &mut Target { numbers: &mut y[first..], stride: w.columns, columns });
            y.chunks_mut(w.columns).for_each(|y| epilogue.finish(&mut y[first..][..columns], first));
        }
    }
}

/// So few rows that the threads share the weight instead: it is bound by reading that.
fn few_rows(x: &[f32], w: &Packed, epilogue: Epilogue<'_>, kernel: &Kernel) -> Vec<f32> {
    let rows = x.len() / w.depth;
    let mut packed = Vec::new();
    pack_rows(x, w.depth, kernel.height, &mut packed);
    // By panel, then by row.
    let mut across = vec![0.0; w.panels.len() / w.depth * rows];
    let panels = across.par_chunks_mut(rows * w.width).zip(w.panels.par_chunks(w.depth * w.width)).enumerate();
    panels.for_each(|(i, (y, panel))| {
        let columns = w.width.min(w.columns - i * w.width);
        for (x, y) in packed.chunks(kernel.height * w.depth).zip(y.chunks_mut(kernel.height * w.width)) {
            let rows = x.len() / w.depth;
            let tile = Tile { rows, depth: w.depth, left: Left::Packed(x), panel };
            kernel.tile(&tile, &mut Target { numbers: y, stride: w.width, columns });
        }
        y.chunks_mut(w.width).for_each(|y| epilogue.finish(&mut y[..columns], i * w.width));
    });
    if rows == 1 {
        across.truncate(w.columns);
        return across;
    }
    let mut y = vec![0.0; rows * w.columns];
    for (i, panel) in across.chunks_exact(rows * w.width).enumerate() {
        let first = i * w.width;
        let columns = w.width.min(w.columns - first);
        for (row, from) in panel.chunks_exact(w.width).enumerate() {
            y[row * w.columns + first..][..columns].copy_from_slice(&from[..columns]);
        }
    }
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
                let packed = Packed::transpose_of(&w, depth, &kernel);
                let epilogue =
                    Epilogue { bias: Some(&bias), activation: Some(|y| y.iter_mut().for_each(|y| *y *= 2.0)) };
                let y = product(&x, &packed, epilogue, &kernel);
                for (m, n) in (0..rows).flat_map(|m| (0..columns).map(move |n| (m, n))) {
                    let pairs = x[m * depth..][..depth].iter().zip(&w[n * depth..][..depth]);
                    let sum: f64 = pairs.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                    let exact = 2.0 * (sum + f64::from(bias[n]));
                    let difference = (f64::from(y[m * columns + n]) - exact).abs();
                    assert!(difference < 2e-5 * depth as f64, "{rows} x {depth} x {columns} at {m}, {n}: {difference}");
                }
            }
        }
    }

    #[test]
    fn a_row_comes_out_the_same_whichever_rows_are_beside_it() {
        // So large that the threads share it: the weight for few rows, the rows for many.
        let (depth, columns) = (203, 5000);
        let (x, w) = (random(90 * depth, 3), random(columns * depth, 4));
        for kernel in kernel::all() {
            let packed = Packed::transpose_of(&w, depth, &kernel);
            let run = |x: &[f32]| product(x, &packed, Epilogue::default(), &kernel);
            let alone: Vec<f32> = x.chunks(depth).flat_map(run).collect();
            for rows in [2, 3, 13, 14, 15, 27, 28, 29, 90] {
                assert!(run(&x[..rows * depth]) == alone[..rows * columns], "{rows} rows");
            }
        }
    }
}
