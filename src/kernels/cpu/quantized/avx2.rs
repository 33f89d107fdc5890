//! Microkernel for quantized weights in AVX2 with FMA and F16C: each half of a panel's columns in turn.
//!
//! Called by `QuantKernel::tile` alone, which checks all lengths of a tile; the kernel is chosen after the processor's
//! features were detected.

use std::arch::x86_64::*;

use super::kernel::{QuantTile, by_rows};
use super::rows::SuperScale;
use super::{BLOCK, PER_SUPER, QuantFormat, SUPER_BLOCK, Target, WIDTH};

/// Writes a tile.
///
/// # Safety
/// The processor has the features, and the tile was checked.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tile(tile: &QuantTile<'_>, target: &mut Target<'_>) {
    // SAFETY: as the caller says.
    unsafe { by_rows!(tile, target, Q8_0 => q8_0_256: 1 2 3 4; Q4K => q4_k_256: 1 2 3 4;) }
}

/// Broadcasts four elements of a row to each column.
///
/// # Safety
/// There are four at `x`.
#[target_feature(enable = "avx2")]
unsafe fn four_256(x: *const i8) -> __m256i {
    // SAFETY: as the caller says; `x` need not be aligned.
    _mm256_set1_epi32(unsafe { x.cast::<i32>().read_unaligned() })
}

/// Adds to `dot` the products of unsigned and signed bytes, summed by fours. The sum of two products fits in 16
/// bits.
#[target_feature(enable = "avx2")]
fn add_products(dot: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(unsigned, signed);
    _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q8_0_256<const ROWS: usize>(tile: &QuantTile<'_>, target: &mut Target<'_>) {
    for side in 0..2 {
        let mut sums = [_mm256_setzero_ps(); ROWS];
        let (mut x, mut scales) = (tile.left.elements.as_ptr(), tile.left.block_scales.as_ptr());
        let (mut quants, mut halves) = (tile.weights.quants.as_ptr(), tile.weights.halves.as_ptr());
        for _ in 0..tile.depth / BLOCK {
            // SAFETY: each block has 8 lines and 16 scales, and of each row 32 elements and a scale.
            unsafe {
                let mut dots = [_mm256_setzero_si256(); ROWS];
                for line in 0..8 {
                    let weights = _mm256_load_si256(quants.add(line).cast::<__m256i>().add(side));
                    // |w| (x sign(w)): activations are never -128, which has no negative in a byte.
                    let unsigned = _mm256_abs_epi8(weights);
                    for (row, dot) in dots.iter_mut().enumerate() {
                        let x = _mm256_sign_epi8(four_256(x.add(row * BLOCK + 4 * line)), weights);
                        *dot = add_products(*dot, unsigned, x);
                    }
                }
                let d = _mm256_cvtph_ps(_mm_loadu_si128(halves.cast::<__m128i>().add(side)));
                for (row, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                    let scale = _mm256_mul_ps(d, _mm256_set1_ps((*scales.add(row)).scale));
                    *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, *sum);
                }
                (x, scales) = (x.add(ROWS * BLOCK), scales.add(ROWS));
                (quants, halves) = (quants.add(8), halves.add(1));
            }
        }
        // SAFETY: there are eight columns on each side.
        unsafe { store_256(&sums, side, target) }
    }
}

/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q4_k_256<const ROWS: usize>(tile: &QuantTile<'_>, target: &mut Target<'_>) {
    let low = _mm256_set1_epi8(0xf);
    for side in 0..2 {
        let mut sums = [_mm256_setzero_ps(); ROWS];
        let mut x = tile.left.elements.as_ptr();
        let mut quants = tile.weights.quants.as_ptr();
        for super_block in 0..tile.depth / SUPER_BLOCK {
            // SAFETY: a super-block has two lines of halves and 16 of bytes, each of its blocks 4 lines and 32 elements
            // of each row, and each row a scale.
            unsafe {
                let bytes = tile.weights.bytes.as_ptr().add(2 * PER_SUPER * super_block);
                let mut scaled = [_mm256_setzero_ps(); ROWS];
                for block in 0..PER_SUPER {
                    let mut dots = [_mm256_setzero_si256(); ROWS];
                    for line in 0..4 {
                        let two = _mm256_load_si256(quants.add(line).cast::<__m256i>().add(side));
                        let (first, second) =
                            (_mm256_and_si256(two, low), _mm256_and_si256(_mm256_srli_epi16::<4>(two), low));
                        for (row, dot) in dots.iter_mut().enumerate() {
                            let x = x.add(row * BLOCK + 8 * line);
                            *dot = add_products(*dot, first, four_256(x));
                            *dot = add_products(*dot, second, four_256(x.add(4)));
                        }
                    }
                    let scale = bytes_256(bytes.add(block).cast::<u8>().add(WIDTH / 2 * side));
                    for (scaled, dot) in scaled.iter_mut().zip(dots) {
                        *scaled = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, *scaled);
                    }
                    (x, quants) = (x.add(ROWS * BLOCK), quants.add(4));
                }
                let halves = tile.weights.halves.as_ptr().add(2 * super_block);
                let half = |line: usize| _mm256_cvtph_ps(_mm_loadu_si128(halves.add(line).cast::<__m128i>().add(side)));
                let (d, m) = (half(0), half(1));
                let pairs = bytes.add(PER_SUPER).cast::<u8>().add(WIDTH * side);
                let mut minima = [_mm256_setzero_si256(); PER_SUPER / 2];
                for (pair, minima) in minima.iter_mut().enumerate() {
                    *minima = _mm256_cvtepu8_epi16(_mm_loadu_si128(pairs.add(2 * WIDTH * pair).cast()));
                }
                for (row, (sum, scaled)) in sums.iter_mut().zip(scaled).enumerate() {
                    let SuperScale { scale, sums: block_sums } =
                        &*tile.left.super_scales.as_ptr().add(super_block * ROWS + row);
                    let mut dot = _mm256_setzero_si256();
                    for (pair, minima) in minima.iter().enumerate() {
                        let two = block_sums.as_ptr().add(2 * pair).cast::<i32>().read_unaligned();
                        dot = _mm256_add_epi32(dot, _mm256_madd_epi16(*minima, _mm256_set1_epi32(two)));
                    }
                    let part = _mm256_fnmadd_ps(m, _mm256_cvtepi32_ps(dot), _mm256_mul_ps(d, scaled));
                    *sum = _mm256_fmadd_ps(_mm256_set1_ps(*scale), part, *sum);
                }
            }
        }
        // SAFETY: there are eight columns on each side.
        unsafe { store_256(&sums, side, target) }
    }
}

/// Converts eight bytes to f32.
///
/// # Safety
/// There are eight.
#[target_feature(enable = "avx2")]
unsafe fn bytes_256(bytes: *const u8) -> __m256 {
    // SAFETY: as the caller says.
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(bytes.cast()) }))
}

/// # Safety
/// There is room for eight elements.
#[target_feature(enable = "avx2")]
unsafe fn store_256(sums: &[__m256], side: usize, target: &mut Target<'_>) {
    let first = side * WIDTH / 2;
    let columns = (WIDTH / 2).min(target.columns.saturating_sub(first));
    for (row, &sum) in sums.iter().enumerate() {
        let mut elements = [0.0; WIDTH / 2];
        // SAFETY: there is room for eight elements.
        unsafe { _mm256_storeu_ps(elements.as_mut_ptr(), sum) };
        if columns > 0 {
            target.elements[row * target.stride + first..][..columns].copy_from_slice(&elements[..columns]);
        }
    }
}
