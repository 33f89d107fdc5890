//! GEMM microkernels in AVX-512 and in AVX2 with FMA and F16C, over panels in f32 and in f16.
//!
//! Called by `GemmKernel::tile` alone, which checks all lengths of a tile; the kernel is chosen after the processor's
//! features were detected.

use std::arch::x86_64::*;

use half::f16;

use super::kernel::{Left, PanelElements, Target, Tile};

/// Rows below which a tile is bound by reading its weights.
const FEW: usize = 4;
/// Distance of the prefetch then, in bytes.
const SOON: usize = 1024;

/// Rows of the left matrix; `stride` is used where they are not packed.
#[derive(Clone, Copy)]
struct LeftPointer {
    elements: *const f32,
    stride: usize,
}

/// Calls a function with the number of rows, the number of vectors of columns, and the type of the panel's elements
/// as constants.
macro_rules! by_size {
    ($tile:ident, $target:ident, $panel:ident, $run:ident, $vectors:literal, $element:ty, $($rows:literal)*) => {
        match ($tile.left, $tile.rows) {
            $((Left::Rows { elements, stride }, $rows) => {
                let left = LeftPointer { elements: elements.as_ptr(), stride };
                $run::<$rows, false, $vectors, $element>(left, $panel.as_ptr(), $tile, $target)
            })*
            $((Left::Packed(elements), $rows) => {
                let left = LeftPointer { elements: elements.as_ptr(), stride: 1 };
                $run::<$rows, true, $vectors, $element>(left, $panel.as_ptr(), $tile, $target)
            })*
            _ => unreachable!("a tile of {} rows: `GemmKernel::tile` checks it", $tile.rows),
        }
    };
}

/// Type of a panel's elements.
trait Element: Copy {
    /// Whether the elements are in f16, not f32.
    const IS_F16: bool;
}

impl Element for f32 {
    const IS_F16: bool = false;
}

impl Element for f16 {
    const IS_F16: bool = true;
}

/// # Safety
/// The processor has the feature, and the tile was checked.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512(tile: &Tile<'_>, target: &mut Target<'_>) {
    // SAFETY: as the caller says.
    unsafe {
        match (tile.panel, target.columns > 16) {
            (PanelElements::F32(panel), true) => {
                by_size!(tile, target, panel, rows_512, 2, f32, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
            }
            (PanelElements::F32(panel), false) => {
                by_size!(tile, target, panel, rows_512, 1, f32, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
            }
            (PanelElements::F16(panel), true) => {
                by_size!(tile, target, panel, rows_512, 2, f16, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
            }
            (PanelElements::F16(panel), false) => {
                by_size!(tile, target, panel, rows_512, 1, f16, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
            }
        }
    }
}

/// Loads sixteen elements as f32.
///
/// # Safety
/// There are sixteen.
#[target_feature(enable = "avx512f")]
unsafe fn load_512<E: Element>(from: *const E) -> __m512 {
    // SAFETY: as the caller says.
    unsafe { if E::IS_F16 { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) } else { _mm512_loadu_ps(from.cast()) } }
}

/// Computes a tile of `ROWS` rows and `VECTORS` times sixteen columns.
///
/// # Safety
/// As [`avx512`].
#[target_feature(enable = "avx512f")]
unsafe fn rows_512<const ROWS: usize, const PACKED: bool, const VECTORS: usize, E: Element>(
    left: LeftPointer,
    mut weights: *const E,
    tile: &Tile<'_>,
    target: &mut Target<'_>,
) {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let (all, columns) = (target.elements.as_mut_ptr(), target.columns);
    let mask = |i: usize| match columns - 16 * i {
        16.. => u16::MAX,
        n => (1 << n) - 1,
    };
    if tile.accumulates {
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the target has `columns` elements in each row, and the masks let no more through.
            unsafe {
                let from = all.add(row * target.stride);
                *sums = std::array::from_fn(|i| _mm512_maskz_loadu_ps(mask(i), from.add(16 * i)));
            }
        }
    }
    let (mut prefetch, step) = tile.prefetch();
    for k in 0..tile.depth {
        // SAFETY: the panel has 32 elements for each `k`, and each of the rows has `depth`; a prefetch may name any
        // address.
        unsafe {
            let these: [__m512; VECTORS] = std::array::from_fn(|i| load_512(weights.add(16 * i)));
            weights = weights.add(32);
            if ROWS < FEW {
                // Bound by reading weights: the same panel's next elements are more urgent than the next panel.
                _mm_prefetch::<_MM_HINT_T0>(weights.cast::<i8>().wrapping_add(SOON));
                if !E::IS_F16 {
                    _mm_prefetch::<_MM_HINT_T0>(weights.cast::<i8>().wrapping_add(SOON + 64));
                }
            } else {
                _mm_prefetch::<_MM_HINT_T1>(prefetch);
                prefetch = prefetch.wrapping_add(step);
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let value =
                    _mm512_set1_ps(*left.elements.add(if PACKED { k * ROWS + row } else { row * left.stride + k }));
                sums.iter_mut().zip(these).for_each(|(sum, these)| *sum = _mm512_fmadd_ps(value, these, *sum));
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: as above.
        unsafe {
            let to = all.add(row * target.stride);
            sums.iter().enumerate().for_each(|(i, &sum)| _mm512_mask_storeu_ps(to.add(16 * i), mask(i), sum));
        }
    }
}

/// # Safety
/// The processor has the features, and the tile was checked.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn avx2(tile: &Tile<'_>, target: &mut Target<'_>) {
    // SAFETY: as the caller says.
    unsafe {
        match (tile.panel, target.columns > 8) {
            (PanelElements::F32(panel), true) => by_size!(tile, target, panel, rows_256, 2, f32, 1 2 3 4 5 6),
            (PanelElements::F32(panel), false) => by_size!(tile, target, panel, rows_256, 1, f32, 1 2 3 4 5 6),
            (PanelElements::F16(panel), true) => by_size!(tile, target, panel, rows_256, 2, f16, 1 2 3 4 5 6),
            (PanelElements::F16(panel), false) => by_size!(tile, target, panel, rows_256, 1, f16, 1 2 3 4 5 6),
        }
    }
}

/// Loads eight elements as f32.
///
/// # Safety
/// There are eight.
#[target_feature(enable = "avx2,f16c")]
unsafe fn load_256<E: Element>(from: *const E) -> __m256 {
    // SAFETY: as the caller says.
    unsafe { if E::IS_F16 { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) } else { _mm256_loadu_ps(from.cast()) } }
}

/// Computes a tile of `ROWS` rows and `VECTORS` times eight columns.
///
/// # Safety
/// As [`avx2`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_256<const ROWS: usize, const PACKED: bool, const VECTORS: usize, E: Element>(
    left: LeftPointer,
    mut weights: *const E,
    tile: &Tile<'_>,
    target: &mut Target<'_>,
) {
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    let columns = target.columns;
    if tile.accumulates {
        for (row, sums) in sums.iter_mut().enumerate() {
            let from = &target.elements[row * target.stride..][..columns];
            let mut elements = [0.0; 16];
            // Whole rows are loaded from where they are.
            let from = if columns == 8 * VECTORS {
                from.as_ptr()
            } else {
                elements[..columns].copy_from_slice(from);
                elements.as_ptr()
            };
            // SAFETY: there are eight elements for each vector.
            unsafe { *sums = std::array::from_fn(|i| _mm256_loadu_ps(from.add(8 * i))) };
        }
    }
    let (mut prefetch, step) = tile.prefetch();
    for k in 0..tile.depth {
        // SAFETY: the panel has 16 elements for each `k`, and each of the rows has `depth`; a prefetch may name any
        // address.
        unsafe {
            let these: [__m256; VECTORS] = std::array::from_fn(|i| load_256(weights.add(8 * i)));
            weights = weights.add(16);
            _mm_prefetch::<_MM_HINT_T1>(prefetch);
            prefetch = prefetch.wrapping_add(step);
            for (row, sums) in sums.iter_mut().enumerate() {
                let value =
                    _mm256_set1_ps(*left.elements.add(if PACKED { k * ROWS + row } else { row * left.stride + k }));
                sums.iter_mut().zip(these).for_each(|(sum, these)| *sum = _mm256_fmadd_ps(value, these, *sum));
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        let to = &mut target.elements[row * target.stride..][..columns];
        let mut elements = [0.0; 16];
        let is_whole = columns == 8 * VECTORS;
        let at = if is_whole { to.as_mut_ptr() } else { elements.as_mut_ptr() };
        // SAFETY: there is room for eight elements of each vector.
        unsafe { sums.iter().enumerate().for_each(|(i, &sum)| _mm256_storeu_ps(at.add(8 * i), sum)) };
        if !is_whole {
            to.copy_from_slice(&elements[..columns]);
        }
    }
}
