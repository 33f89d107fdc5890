//! Microkernels for quantized weights, which compute a tile of a product in registers: AVX-512 VNNI, AVX2 with FMA, and
//! scalar code. Results are bit-identical across kernels.

use half::f16;

use super::blocks::{Panel, QuantLine};
use super::rows::TileRows;
use super::{BLOCK, QuantFormat, SUPER_BLOCK, WIDTH};
use crate::kernels::cpu::gemm::Target;

/// Tile of a product: some rows of activations times one panel of weights.
pub(super) struct QuantTile<'a> {
    /// At most the kernel's MR.
    pub(super) rows: usize,
    /// `K`.
    pub(super) depth: usize,
    pub(super) left: TileRows<'a>,
    /// Panel, by reference: a copy would stall on the stores of the previous tile.
    pub(super) weights: &'a Panel<'a>,
    /// Lines that are read next, to be prefetched.
    pub(super) prefetch: &'a [QuantLine],
}

/// Microkernel for quantized weights.
#[derive(Debug)]
pub(crate) struct QuantKernel {
    /// MR: rows of a tile.
    pub(super) height: usize,
    pub(super) name: &'static str,
    run: fn(&QuantTile<'_>, &mut Target<'_>),
}

impl QuantKernel {
    /// Returns the fastest kernel that this processor supports.
    pub(super) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni") {
                // SAFETY: the features are there.
                return Self { height: 12, name: "avx512vnni", run: |t, y| unsafe { x86::avx512(t, y) } };
            }
            if has!("avx2") && has!("fma") && has!("f16c") {
                return Self::avx2();
            }
        }
        Self::portable()
    }

    #[cfg(target_arch = "x86_64")]
    fn avx2() -> Self {
        // SAFETY: only made where the features are there.
        Self { height: 4, name: "avx2", run: |t, y| unsafe { x86::avx2(t, y) } }
    }

    /// Returns the scalar kernel, which runs on every processor.
    pub(crate) fn portable() -> Self {
        Self { height: 4, name: "portable", run: portable }
    }

    /// Writes a tile.
    ///
    /// # Panics
    /// When the sides or the target are smaller than the tile.
    pub(super) fn tile(&self, tile: &QuantTile<'_>, target: &mut Target<'_>) {
        let QuantTile { rows, depth, left, weights, .. } = tile;
        let n_blocks = depth / BLOCK;
        let has_weights = match weights.format {
            QuantFormat::Q8_0 => weights.quants.len() >= 8 * n_blocks && weights.halves.len() >= n_blocks,
            QuantFormat::Q4K => {
                depth.is_multiple_of(SUPER_BLOCK)
                    && weights.quants.len() >= 4 * n_blocks
                    && weights.halves.len() >= 2 * depth / SUPER_BLOCK
                    && weights.bytes.len() >= 2 * n_blocks
            }
        };
        assert!(
            (1..=self.height).contains(rows)
                && depth.is_multiple_of(BLOCK)
                && left.elements.len() >= rows * depth
                && left.scales.len() >= rows * n_blocks
                && has_weights
                && (1..=WIDTH).contains(&target.columns)
                && target.elements.len() >= (rows - 1) * target.stride + target.columns,
            "a tile of {rows} x {} for {}",
            target.columns,
            self.name
        );
        (self.run)(tile, target);
    }
}

/// Computes a tile by scalar code.
fn portable(tile: &QuantTile<'_>, target: &mut Target<'_>) {
    for row in 0..tile.rows {
        let mut sums = [0.0f32; WIDTH];
        for block in 0..tile.depth / BLOCK {
            let index = block * tile.rows + row;
            let (x, scale) = (&tile.left.elements[index * BLOCK..][..BLOCK], tile.left.scales[index]);
            let dots = dots(tile.weights, block, x);
            for (column, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                let half = |i: usize| f16::from_bits(tile.weights.halves[i][column]).to_f32();
                match tile.weights.format {
                    QuantFormat::Q8_0 => *sum = (dot as f32).mul_add(half(block) * scale.scale, *sum),
                    QuantFormat::Q4K => {
                        let (super_block, byte) =
                            (block * BLOCK / SUPER_BLOCK, |i: usize| f32::from(tile.weights.bytes[i][column]));
                        let (d, m) =
                            (half(2 * super_block) * byte(2 * block), half(2 * super_block + 1) * byte(2 * block + 1));
                        *sum = (dot as f32).mul_add(d * scale.scale, *sum);
                        *sum = (-m).mul_add(scale.sum, *sum);
                    }
                }
            }
        }
        target.elements[row * target.stride..][..target.columns].copy_from_slice(&sums[..target.columns]);
    }
}

/// Computes the sums of products within a block for each column.
fn dots(weights: &Panel<'_>, block: usize, x: &[i8]) -> [i32; WIDTH] {
    let mut dots = [0; WIDTH];
    let mut add = |column: usize, weight: i32, x: i8| dots[column] += weight * i32::from(x);
    match weights.format {
        QuantFormat::Q8_0 => {
            for (line, x) in weights.quants[8 * block..][..8].iter().zip(x.chunks_exact(4)) {
                for (i, &weight) in line.0.iter().enumerate() {
                    add(i / 4, i32::from(weight.cast_signed()), x[i % 4]);
                }
            }
        }
        QuantFormat::Q4K => {
            for (line, x) in weights.quants[4 * block..][..4].iter().zip(x.chunks_exact(8)) {
                for (i, &two) in line.0.iter().enumerate() {
                    add(i / 4, i32::from(two & 0xf), x[i % 4]);
                    add(i / 4, i32::from(two >> 4), x[i % 4 + 4]);
                }
            }
        }
    }
    dots
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::rows::Scale;
    use super::{BLOCK, QuantFormat, QuantTile, SUPER_BLOCK, Target, WIDTH};

    /// Rows below which a tile is bound by reading its weights.
    const FEW: usize = 4;
    /// Distance of the prefetch then, in lines: two kilobytes.
    const SOON: usize = 32;
    /// Blocks that share the scales of their scales.
    const PER_SUPER: usize = SUPER_BLOCK / BLOCK;

    /// Calls a function with the number of rows as a constant.
    macro_rules! by_rows {
        ($tile:ident, $target:ident, $q8_0:ident, $q4_k:ident, $($rows:literal)*) => {
            match ($tile.weights.format, $tile.rows) {
                $((QuantFormat::Q8_0, $rows) => $q8_0::<$rows>($tile, $target),)*
                $((QuantFormat::Q4K, $rows) => $q4_k::<$rows>($tile, $target),)*
                _ => unreachable!("a tile of {} rows: `QuantKernel::tile` checks it", $tile.rows),
            }
        };
    }

    /// # Safety
    /// The processor has the features, and the tile was checked.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn avx512(tile: &QuantTile<'_>, target: &mut Target<'_>) {
        // SAFETY: as the caller says.
        unsafe { by_rows!(tile, target, q8_0_512, q4_k_512, 1 2 3 4 5 6 7 8 9 10 11 12) }
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
    /// As [`avx512`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn q8_0_512<const ROWS: usize>(tile: &QuantTile<'_>, target: &mut Target<'_>) {
        // The instruction takes unsigned bytes on one side: weights are read 128 too large, which the offset subtracts.
        let flip = _mm512_set1_epi8(-128);
        let mut sums = [_mm512_setzero_ps(); ROWS];
        let (mut x, mut scales) = (tile.left.elements.as_ptr(), tile.left.scales.as_ptr());
        let (mut quants, mut halves) = (tile.weights.quants.as_ptr(), tile.weights.halves.as_ptr());
        let mut prefetch = Prefetch::of(tile);
        for _ in 0..tile.depth / BLOCK {
            // SAFETY: each block has 8 lines and 16 scales, and of each row 32 elements and a scale.
            unsafe {
                prefetch.fetch();
                let mut dots = [_mm512_setzero_si512(); ROWS];
                for (row, dot) in dots.iter_mut().enumerate() {
                    *dot = _mm512_set1_epi32((*scales.add(row)).offset);
                }
                for line in 0..8 {
                    let weights = _mm512_xor_si512(_mm512_load_si512(quants.add(line).cast()), flip);
                    for (row, dot) in dots.iter_mut().enumerate() {
                        *dot = _mm512_dpbusd_epi32(*dot, weights, four_512(x.add(row * BLOCK + 4 * line)));
                    }
                }
                let d = _mm512_cvtph_ps(_mm256_loadu_si256(halves.cast()));
                for (row, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                    let scale = _mm512_mul_ps(d, _mm512_set1_ps((*scales.add(row)).scale));
                    *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, *sum);
                }
                (x, scales) = (x.add(ROWS * BLOCK), scales.add(ROWS));
                (quants, halves) = (quants.add(8), halves.add(1));
            }
        }
        // SAFETY: as the caller says.
        unsafe { store_512(&sums, target) }
    }

    /// # Safety
    /// As [`avx512`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn q4_k_512<const ROWS: usize>(tile: &QuantTile<'_>, target: &mut Target<'_>) {
        let low = _mm512_set1_epi8(0xf);
        let mut sums = [_mm512_setzero_ps(); ROWS];
        let (mut x, mut scales) = (tile.left.elements.as_ptr(), tile.left.scales.as_ptr());
        let (mut quants, mut bytes) = (tile.weights.quants.as_ptr(), tile.weights.bytes.as_ptr());
        let mut prefetch = Prefetch::of(tile);
        for super_block in 0..tile.depth / SUPER_BLOCK {
            // SAFETY: a super-block has two lines of halves, each of its blocks 4 lines and two lines of bytes, and of
            // each row 32 elements and a scale.
            unsafe {
                let halves = tile.weights.halves.as_ptr().add(2 * super_block);
                let d_of_super = _mm512_cvtph_ps(_mm256_loadu_si256(halves.cast()));
                let m_of_super = _mm512_cvtph_ps(_mm256_loadu_si256(halves.add(1).cast()));
                for _ in 0..PER_SUPER {
                    prefetch.fetch();
                    let mut dots = [_mm512_setzero_si512(); ROWS];
                    for line in 0..4 {
                        let two = _mm512_load_si512(quants.add(line).cast());
                        let (first, second) =
                            (_mm512_and_si512(two, low), _mm512_and_si512(_mm512_srli_epi16::<4>(two), low));
                        for (row, dot) in dots.iter_mut().enumerate() {
                            let x = x.add(row * BLOCK + 8 * line);
                            *dot = _mm512_dpbusd_epi32(*dot, first, four_512(x));
                            *dot = _mm512_dpbusd_epi32(*dot, second, four_512(x.add(4)));
                        }
                    }
                    let d = _mm512_mul_ps(d_of_super, bytes_512(bytes.cast()));
                    let m = _mm512_mul_ps(m_of_super, bytes_512(bytes.add(1).cast()));
                    for (row, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                        let Scale { scale, sum: of_row, .. } = *scales.add(row);
                        let scale = _mm512_mul_ps(d, _mm512_set1_ps(scale));
                        *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, *sum);
                        *sum = _mm512_fnmadd_ps(m, _mm512_set1_ps(of_row), *sum);
                    }
                    (x, scales) = (x.add(ROWS * BLOCK), scales.add(ROWS));
                    (quants, bytes) = (quants.add(4), bytes.add(2));
                }
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

    /// # Safety
    /// The processor has the features, and the tile was checked.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn avx2(tile: &QuantTile<'_>, target: &mut Target<'_>) {
        // SAFETY: as the caller says.
        unsafe { by_rows!(tile, target, q8_0_256, q4_k_256, 1 2 3 4) }
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
    /// As [`avx2`].
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn q8_0_256<const ROWS: usize>(tile: &QuantTile<'_>, target: &mut Target<'_>) {
        for side in 0..2 {
            let mut sums = [_mm256_setzero_ps(); ROWS];
            let (mut x, mut scales) = (tile.left.elements.as_ptr(), tile.left.scales.as_ptr());
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
    /// As [`avx2`].
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn q4_k_256<const ROWS: usize>(tile: &QuantTile<'_>, target: &mut Target<'_>) {
        let low = _mm256_set1_epi8(0xf);
        for side in 0..2 {
            let mut sums = [_mm256_setzero_ps(); ROWS];
            let (mut x, mut scales) = (tile.left.elements.as_ptr(), tile.left.scales.as_ptr());
            let (mut quants, mut bytes) = (tile.weights.quants.as_ptr(), tile.weights.bytes.as_ptr());
            for super_block in 0..tile.depth / SUPER_BLOCK {
                // SAFETY: a super-block has two lines of halves, each of its blocks 4 lines and two lines of bytes, and
                // of each row 32 elements and a scale.
                unsafe {
                    let halves = tile.weights.halves.as_ptr().add(2 * super_block);
                    let half =
                        |line: usize| _mm256_cvtph_ps(_mm_loadu_si128(halves.add(line).cast::<__m128i>().add(side)));
                    let (d_of_super, m_of_super) = (half(0), half(1));
                    for _ in 0..PER_SUPER {
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
                        let d = _mm256_mul_ps(d_of_super, bytes_256(bytes.cast::<u8>().add(8 * side)));
                        let m = _mm256_mul_ps(m_of_super, bytes_256(bytes.add(1).cast::<u8>().add(8 * side)));
                        for (row, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                            let Scale { scale, sum: of_row, .. } = *scales.add(row);
                            let scale = _mm256_mul_ps(d, _mm256_set1_ps(scale));
                            *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, *sum);
                            *sum = _mm256_fnmadd_ps(m, _mm256_set1_ps(of_row), *sum);
                        }
                        (x, scales) = (x.add(ROWS * BLOCK), scales.add(ROWS));
                        (quants, bytes) = (quants.add(4), bytes.add(2));
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
}

/// Returns all kernels that this processor supports, the scalar one first.
#[cfg(test)]
pub(super) fn all() -> &'static [QuantKernel] {
    let mut found = vec![QuantKernel::portable(), QuantKernel::best()];
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx2") && has!("fma") && has!("f16c") {
            found.push(QuantKernel::avx2());
        }
    }
    Vec::leak(found)
}
