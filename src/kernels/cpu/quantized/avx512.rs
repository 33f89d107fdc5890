//! Microkernel for quantized weights in AVX-512 VNNI.
//!
//! Called by `QuantKernel::tile` alone, which checks all lengths of a tile; the kernel is chosen after the processor's
//! features were detected.

use std::arch::x86_64::*;

use super::kernel::{QuantTile, by_rows};
use super::rows::SuperScale;
use super::{BLOCK, PER_SUPER, QuantFormat, SUPER_BLOCK, Target, WIDTH};

/// Rows below which a tile is bound by reading its weights.
const FEW: usize = 4;
/// Distance of the prefetch then, in lines: two kilobytes.
const SOON: usize = 32;

/// Writes a tile.
///
/// # Safety
/// The processor has the features, and the tile was checked.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn tile(tile: &QuantTile<'_>, target: &mut Target<'_>) {
    // SAFETY: as the caller says.
    unsafe {
        by_rows!(
            tile, target,
            Q8_0 => q8_0_512: 1 2 3 4 5 6 7 8 9 10 11 12;
            Q4K => q4_k_512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24;
        )
    }
}

/// Evaluates an expression for each row. Unlike a loop over so many rows, this is always unrolled: arrays of vectors
/// stay in registers only while all their indices are constants.
macro_rules! for_each_row {
    ($rows:ident, $row:ident => $body:expr) => {
        const { assert!($rows <= 24, "a row beyond those that are listed here") };
        for_each_row!(@ $rows, $row, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23)
    };
    (@ $rows:ident, $row:ident, $body:expr, $($i:literal)*) => {
        $(if $i < $rows {
            let $row = $i;
            $body;
        })*
    };
}

/// Adds the products of a line of `q4_k` to the rows' sums: eight elements of each column and row. With a loop over the
/// four lines of a block, a tile of 24 rows took a fifth longer.
macro_rules! add_line {
    ($rows:ident, $dots:ident, $quants:ident, $x:ident, $line:literal) => {
        let low = _mm512_set1_epi8(0xf);
        let two = _mm512_load_si512($quants.add($line).cast());
        let first = _mm512_and_si512(two, low);
        for_each_row!($rows, row => {
            let x = four_512($x.add(row * BLOCK + 8 * $line));
            $dots[row] = _mm512_dpbusd_epi32($dots[row], first, x)
        });
        let second = _mm512_and_si512(_mm512_srli_epi16::<4>(two), low);
        for_each_row!($rows, row => {
            let x = four_512($x.add(row * BLOCK + 8 * $line + 4));
            $dots[row] = _mm512_dpbusd_epi32($dots[row], second, x)
        });
    };
}

/// Broadcasts four elements of a row to each column.
///
/// # Safety
/// There are four at `x`.
#[target_feature(enable = "avx512f")]
unsafe fn four_512(x: *const i8) -> __m512i {
    // SAFETY: as the caller says; `x` need not be aligned.
    _mm512_set1_epi32(unsafe { x.cast::<i32>().read_unaligned() })
}

/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn q8_0_512<const ROWS: usize>(tile: &QuantTile<'_>, target: &mut Target<'_>) {
    // The instruction takes unsigned bytes on one side: weights are read 128 too large, which the offset subtracts.
    let flip = _mm512_set1_epi8(-128);
    let mut sums = [_mm512_setzero_ps(); ROWS];
    let (mut x, mut scales) = (tile.left.elements.as_ptr(), tile.left.block_scales.as_ptr());
    let (mut quants, mut halves) = (tile.weights.quants.as_ptr(), tile.weights.halves.as_ptr());
    let mut prefetch = Prefetch::of(tile);
    for _ in 0..tile.depth / BLOCK {
        // SAFETY: each block has 8 lines and 16 scales, and of each row 32 elements and a scale.
        unsafe {
            prefetch.fetch();
            let mut dots = [_mm512_setzero_si512(); ROWS];
            for_each_row!(ROWS, row => dots[row] = _mm512_set1_epi32((*scales.add(row)).offset));
            for line in 0..8 {
                let weights = _mm512_xor_si512(_mm512_load_si512(quants.add(line).cast()), flip);
                for_each_row!(ROWS, row => {
                    dots[row] = _mm512_dpbusd_epi32(dots[row], weights, four_512(x.add(row * BLOCK + 4 * line)))
                });
            }
            let d = _mm512_cvtph_ps(_mm256_loadu_si256(halves.cast()));
            for_each_row!(ROWS, row => {
                let scale = _mm512_mul_ps(d, _mm512_set1_ps((*scales.add(row)).scale));
                sums[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[row]), scale, sums[row])
            });
            (x, scales) = (x.add(ROWS * BLOCK), scales.add(ROWS));
            (quants, halves) = (quants.add(8), halves.add(1));
        }
    }
    // SAFETY: as the caller says.
    unsafe { store_512(&sums, target) }
}

/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn q4_k_512<const ROWS: usize>(tile: &QuantTile<'_>, target: &mut Target<'_>) {
    let mut sums = [_mm512_setzero_ps(); ROWS];
    let mut x = tile.left.elements.as_ptr();
    let mut quants = tile.weights.quants.as_ptr();
    let mut prefetch = Prefetch::of(tile);
    for super_block in 0..tile.depth / SUPER_BLOCK {
        // SAFETY: a super-block has two lines of halves and 16 of bytes, each of its blocks 4 lines and 32 elements of
        // each row, and each row a scale.
        unsafe {
            let bytes = tile.weights.bytes.as_ptr().add(2 * PER_SUPER * super_block);
            let mut scaled = [_mm512_setzero_ps(); ROWS];
            for block in 0..PER_SUPER {
                prefetch.fetch();
                let mut dots = [_mm512_setzero_si512(); ROWS];
                add_line!(ROWS, dots, quants, x, 0);
                add_line!(ROWS, dots, quants, x, 1);
                add_line!(ROWS, dots, quants, x, 2);
                add_line!(ROWS, dots, quants, x, 3);
                let scale = bytes_512(bytes.add(block).cast());
                for_each_row!(ROWS, row => {
                    scaled[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[row]), scale, scaled[row])
                });
                (x, quants) = (x.add(ROWS * BLOCK), quants.add(4));
            }
            let halves = tile.weights.halves.as_ptr().add(2 * super_block);
            let d = _mm512_cvtph_ps(_mm256_loadu_si256(halves.cast()));
            let m = _mm512_cvtph_ps(_mm256_loadu_si256(halves.add(1).cast()));
            let mut minima = [_mm512_setzero_si512(); PER_SUPER / 2];
            for (pair, minima) in minima.iter_mut().enumerate() {
                *minima = _mm512_cvtepu8_epi16(_mm256_loadu_si256(bytes.add(PER_SUPER + 2 * pair).cast()));
            }
            let scales = tile.left.super_scales.as_ptr().add(super_block * ROWS);
            for_each_row!(ROWS, row => {
                let SuperScale { scale, sums: block_sums } = &*scales.add(row);
                let mut dot = _mm512_setzero_si512();
                for (pair, minima) in minima.iter().enumerate() {
                    let two = block_sums.as_ptr().add(2 * pair).cast::<i32>().read_unaligned();
                    dot = _mm512_dpwssd_epi32(dot, *minima, _mm512_set1_epi32(two));
                }
                let part = _mm512_fnmadd_ps(m, _mm512_cvtepi32_ps(dot), _mm512_mul_ps(d, scaled[row]));
                sums[row] = _mm512_fmadd_ps(_mm512_set1_ps(*scale), part, sums[row])
            });
        }
    }
    // SAFETY: as the caller says.
    unsafe { store_512(&sums, target) }
}

/// Converts sixteen bytes to f32.
///
/// # Safety
/// There are sixteen.
#[target_feature(enable = "avx512f")]
unsafe fn bytes_512(bytes: *const __m128i) -> __m512 {
    // SAFETY: as the caller says.
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(bytes) }))
}

/// # Safety
/// The target has room for as many rows.
#[target_feature(enable = "avx512f")]
unsafe fn store_512(sums: &[__m512], target: &mut Target<'_>) {
    let mask = if target.columns >= WIDTH { u16::MAX } else { (1 << target.columns) - 1 };
    for (row, &sum) in sums.iter().enumerate() {
        // SAFETY: the target has `columns` elements in each row, and the mask lets no more through.
        unsafe { _mm512_mask_storeu_ps(target.elements.as_mut_ptr().add(row * target.stride), mask, sum) };
    }
}

/// Prefetch of a part of the next panel with each block; with few rows, where reading weights is the bound, of the
/// next lines of this panel.
struct Prefetch {
    next: *const i8,
    lines: usize,
    step: usize,
}

impl Prefetch {
    fn of(tile: &QuantTile<'_>) -> Self {
        let n_blocks = tile.depth / BLOCK;
        if tile.rows < FEW {
            let lines = tile.weights.quants.len();
            let next = tile.weights.quants.as_ptr().wrapping_add(SOON);
            return Self { next: next.cast(), lines, step: lines / n_blocks };
        }
        let step = tile.prefetch.len().div_ceil(n_blocks);
        Self { next: tile.prefetch.as_ptr().cast(), lines: tile.prefetch.len(), step }
    }

    #[inline(always)]
    fn fetch(&mut self) {
        for _ in 0..self.step.min(self.lines) {
            // SAFETY: a prefetch may name any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.next) };
            self.next = self.next.wrapping_add(64);
        }
        self.lines -= self.step.min(self.lines);
    }
}
