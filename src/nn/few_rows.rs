//! `x W^T` for few rows of `x`, as decoding and short questions have it: bound by reading `W`, which a general product of matrices
//! first copies into another order.
//!
//! Each number is one dot product, summed in an order that depends on its length alone. So a row comes out the same, to
//! the bit, whichever rows are beside it: sequences may be run together or alone.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape};
use rayon::prelude::*;

use super::rows::contiguous;

/// More rows than this are worth the copying.
pub(super) const MAX_ROWS: usize = 32;
/// Rows of `x`, and of `W`, that are worked on together: their products stay in registers.
const TILE: usize = 4;
/// Products below which other threads are not worth waking.
const PARALLEL: usize = 1 << 20;
/// Numbers that are summed side by side.
const LANES: usize = 16;

/// The product. `x (R, d_in)` and `W (d_out, d_in)`, both contiguous f32, to `(R, d_out)`.
pub(super) struct FewRows;

impl CustomOp2 for FewRows {
    fn name(&self) -> &'static str {
        "few-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, d_in) = lx.shape().dims2()?;
        let (d_out, d_w) = lw.shape().dims2()?;
        if d_in != d_w {
            candle_core::bail!("few-rows: x has width {d_in}, the weight {d_w}");
        }
        let y = product(contiguous(x, lx)?, contiguous(w, lw)?, (rows, d_in, d_out), kernel());
        Ok((CpuStorage::F32(y), (rows, d_out).into()))
    }
}

/// Writes the products of some rows of `W` with all rows of `x`, `(rows of W, R)`.
type Kernel = fn(w: &[f32], x: &[f32], d_in: usize, y: &mut [f32]);

/// The best that this processor has.
fn kernel() -> Kernel {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature is there.
            return |w, x, d_in, y| unsafe { x86::avx512(w, x, d_in, y) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the features are there.
            return |w, x, d_in, y| unsafe { x86::avx2(w, x, d_in, y) };
        }
    }
    plain
}

fn product(x: &[f32], w: &[f32], (rows, d_in, d_out): (usize, usize, usize), kernel: Kernel) -> Vec<f32> {
    if rows == 0 || d_in == 0 || d_out == 0 {
        return vec![0.0; rows * d_out];
    }
    let mut across = vec![0.0; rows * d_out]; // (d_out, R)
    if rows * d_in * d_out < PARALLEL {
        kernel(w, x, d_in, &mut across);
    } else {
        let jobs = 4 * rayon::current_num_threads();
        let n = d_out.div_ceil(jobs).next_multiple_of(TILE);
        let parts = across.par_chunks_mut(n * rows).zip(w.par_chunks(n * d_in));
        parts.for_each(|(y, w)| kernel(w, x, d_in, y));
    }
    if rows == 1 {
        return across;
    }
    let mut y = vec![0.0; rows * d_out];
    for (m, row) in y.chunks_exact_mut(d_out).enumerate() {
        row.iter_mut().zip(across[m..].iter().step_by(rows)).for_each(|(y, &value)| *y = value);
    }
    y
}

/// Without instructions of a particular processor.
fn plain(w: &[f32], x: &[f32], d_in: usize, y: &mut [f32]) {
    for (w, y) in w.chunks_exact(d_in).zip(y.chunks_exact_mut(x.len() / d_in)) {
        for (x, y) in x.chunks_exact(d_in).zip(y) {
            let mut lanes = [0.0; LANES];
            let (whole, rest) = (d_in / LANES * LANES, d_in % LANES);
            for (w, x) in w[..whole].chunks_exact(LANES).zip(x[..whole].chunks_exact(LANES)) {
                lanes.iter_mut().zip(w.iter().zip(x)).for_each(|(sum, (w, x))| *sum += w * x);
            }
            for i in 0..rest {
                lanes[i] += w[whole + i] * x[whole + i];
            }
            *y = lanes.iter().sum();
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::TILE;

    /// One kernel: its instructions, and the tiles of each size that they are used in.
    macro_rules! kernel {
        ($name:ident, $tile:ident, $features:literal, $lanes:literal, $zero:ident, $load:expr, $tail:expr, $fma:ident, $sum:expr) => {
            /// # Safety
            /// The processor has the features.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(w: &[f32], x: &[f32], d_in: usize, y: &mut [f32]) {
                let rows = x.len() / d_in;
                for (w, y) in w.chunks(TILE * d_in).zip(y.chunks_mut(TILE * rows)) {
                    for (first, x) in x.chunks(TILE * d_in).enumerate() {
                        let out = (&mut *y, rows, first * TILE);
                        match (x.len() / d_in, w.len() / d_in) {
                            (1, 1) => $tile::<1, 1>(x, w, d_in, out),
                            (1, 2) => $tile::<1, 2>(x, w, d_in, out),
                            (1, 3) => $tile::<1, 3>(x, w, d_in, out),
                            (1, _) => $tile::<1, 4>(x, w, d_in, out),
                            (2, 1) => $tile::<2, 1>(x, w, d_in, out),
                            (2, 2) => $tile::<2, 2>(x, w, d_in, out),
                            (2, 3) => $tile::<2, 3>(x, w, d_in, out),
                            (2, _) => $tile::<2, 4>(x, w, d_in, out),
                            (3, 1) => $tile::<3, 1>(x, w, d_in, out),
                            (3, 2) => $tile::<3, 2>(x, w, d_in, out),
                            (3, 3) => $tile::<3, 3>(x, w, d_in, out),
                            (3, _) => $tile::<3, 4>(x, w, d_in, out),
                            (_, 1) => $tile::<4, 1>(x, w, d_in, out),
                            (_, 2) => $tile::<4, 2>(x, w, d_in, out),
                            (_, 3) => $tile::<4, 3>(x, w, d_in, out),
                            (..) => $tile::<4, 4>(x, w, d_in, out),
                        }
                    }
                }
            }

            /// `M` rows of `x` with `N` rows of `W`, written to column `column` of each of `N` rows of `width`.
            #[target_feature(enable = $features)]
            fn $tile<const M: usize, const N: usize>(
                x: &[f32],
                w: &[f32],
                d_in: usize,
                (y, width, column): (&mut [f32], usize, usize),
            ) {
                assert!(x.len() == M * d_in && w.len() == N * d_in);
                let (x, w) = (x.as_ptr(), w.as_ptr());
                let mut sums = [[$zero(); N]; M];
                let whole = d_in / $lanes * $lanes;
                // SAFETY: row `m` of `x` and row `n` of `W` have `d_in` numbers each, as asserted, and of the last ones only
                // those before `d_in` are read.
                unsafe {
                    for i in (0..whole).step_by($lanes) {
                        let mut weights = [$zero(); N];
                        for n in 0..N {
                            weights[n] = $load(w.add(n * d_in + i));
                        }
                        for m in 0..M {
                            let input = $load(x.add(m * d_in + i));
                            for n in 0..N {
                                sums[m][n] = $fma(input, weights[n], sums[m][n]);
                            }
                        }
                    }
                    if whole < d_in {
                        for m in 0..M {
                            let input = $tail(x.add(m * d_in + whole), d_in - whole);
                            for n in 0..N {
                                sums[m][n] = $fma(input, $tail(w.add(n * d_in + whole), d_in - whole), sums[m][n]);
                            }
                        }
                    }
                }
                for n in 0..N {
                    for m in 0..M {
                        y[n * width + column + m] = $sum(sums[m][n]);
                    }
                }
            }
        };
    }

    kernel!(
        avx512,
        tile_512,
        "avx512f",
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        tail_512,
        _mm512_fmadd_ps,
        _mm512_reduce_add_ps
    );
    kernel!(avx2, tile_256, "avx2,fma", 8, _mm256_setzero_ps, _mm256_loadu_ps, tail_256, _mm256_fmadd_ps, sum_256);

    /// The first `n` of 16 numbers, the others 0.
    ///
    /// # Safety
    /// `n` numbers are there.
    #[target_feature(enable = "avx512f")]
    unsafe fn tail_512(from: *const f32, n: usize) -> __m512 {
        // SAFETY: as the caller says; what the mask leaves out is not read.
        unsafe { _mm512_maskz_loadu_ps((1u16 << n) - 1, from) }
    }

    /// The first `n` of 8 numbers, the others 0.
    ///
    /// # Safety
    /// `n` numbers are there.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tail_256(from: *const f32, n: usize) -> __m256 {
        let mut padded = [0.0; 8];
        for (i, value) in padded.iter_mut().enumerate().take(n) {
            // SAFETY: as the caller says.
            *value = unsafe { *from.add(i) };
        }
        // SAFETY: eight numbers are there.
        unsafe { _mm256_loadu_ps(padded.as_ptr()) }
    }

    #[target_feature(enable = "avx2,fma")]
    fn sum_256(lanes: __m256) -> f32 {
        let mut numbers = [0.0; 8];
        // SAFETY: there is room for eight numbers.
        unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), lanes) };
        numbers.iter().sum()
    }
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

    /// All kernels that this processor has.
    fn kernels() -> Vec<(&'static str, Kernel)> {
        let mut found: Vec<(&'static str, Kernel)> = vec![("plain", plain), ("best", kernel())];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the features are there.
            found.push(("avx2", |w, x, d_in, y| unsafe { x86::avx2(w, x, d_in, y) }));
        }
        found
    }

    #[test]
    fn every_kernel_gives_the_sums_of_products_in_every_shape() {
        for (name, kernel) in kernels() {
            for (rows, d_in, d_out) in [(1, 1, 1), (3, 7, 5), (4, 16, 4), (5, 33, 9), (32, 70, 131), (2, 600, 1000)] {
                let (x, w) = (random(rows * d_in, 1), random(d_out * d_in, 2));
                let y = product(&x, &w, (rows, d_in, d_out), kernel);
                for (m, n) in (0..rows).flat_map(|m| (0..d_out).map(move |n| (m, n))) {
                    let pairs = x[m * d_in..][..d_in].iter().zip(&w[n * d_in..][..d_in]);
                    let exact: f64 = pairs.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                    let difference = (f64::from(y[m * d_out + n]) - exact).abs();
                    assert!(
                        difference < 1e-5 * d_in as f64,
                        "{name} {rows} x {d_in} x {d_out} at {m}, {n}: {difference}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_row_comes_out_the_same_whichever_rows_are_beside_it() {
        let (d_in, d_out) = (203, 37);
        let (x, w) = (random(MAX_ROWS * d_in, 3), random(d_out * d_in, 4));
        for (name, kernel) in kernels() {
            let alone: Vec<f32> = x.chunks(d_in).flat_map(|row| product(row, &w, (1, d_in, d_out), kernel)).collect();
            for rows in 1..=MAX_ROWS {
                let together = product(&x[..rows * d_in], &w, (rows, d_in, d_out), kernel);
                assert!(together == alone[..rows * d_out], "{name}, {rows} rows");
            }
        }
    }
}
