//! Microkernels for quantized weights, which compute a tile of a product in registers: AVX-512 VNNI, AVX2 with FMA, and
//! scalar code. Results are bit-identical across kernels.

#[cfg(test)]
use std::sync::OnceLock;

use half::f16;

use super::blocks::{Panel, QuantLine};
use super::rows::{BlockScale, TileRows};
use super::{BLOCK, PER_SUPER, QuantFormat, SUPER_BLOCK, WIDTH};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::kernels::cpu::gemm::Target;

/// Calls the function of a tile's format with the number of rows as a constant.
#[cfg(target_arch = "x86_64")]
macro_rules! by_rows {
    ($tile:ident, $target:ident, $($format:ident => $function:ident: $($rows:literal)*;)*) => {
        match ($tile.weights.format, $tile.rows) {
            $($((QuantFormat::$format, $rows) => $function::<$rows>($tile, $target),)*)*
            _ => unreachable!("a tile of {} rows: `QuantKernel::tile` checks it", $tile.rows),
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) use by_rows;

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

/// MR of each format.
#[derive(Debug)]
struct Heights {
    q8_0: usize,
    q4_k: usize,
}

/// Microkernel for quantized weights.
#[derive(Debug)]
pub(crate) struct QuantKernel {
    heights: Heights,
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
                return Self {
                    heights: Heights { q8_0: 12, q4_k: 24 },
                    name: "avx512vnni",
                    run: |t, y| unsafe { avx512::tile(t, y) },
                };
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
        Self { heights: Heights { q8_0: 4, q4_k: 4 }, name: "avx2", run: |t, y| unsafe { avx2::tile(t, y) } }
    }

    /// Returns the scalar kernel, which runs on every processor.
    pub(crate) fn portable() -> Self {
        Self { heights: Heights { q8_0: 4, q4_k: 4 }, name: "portable", run: portable }
    }

    /// MR: rows of a tile with weights in `format`.
    pub(super) fn height(&self, format: QuantFormat) -> usize {
        match format {
            QuantFormat::Q8_0 => self.heights.q8_0,
            QuantFormat::Q4K => self.heights.q4_k,
        }
    }

    /// Writes a tile.
    ///
    /// # Panics
    /// When the sides or the target are smaller than the tile.
    pub(super) fn tile(&self, tile: &QuantTile<'_>, target: &mut Target<'_>) {
        let QuantTile { rows, depth, left, weights, .. } = tile;
        let n_blocks = depth / BLOCK;
        let has_scales = match weights.format {
            QuantFormat::Q8_0 => left.block_scales.len() >= rows * n_blocks,
            QuantFormat::Q4K => left.super_scales.len() >= rows * depth / SUPER_BLOCK,
        };
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
            (1..=self.height(weights.format)).contains(rows)
                && depth.is_multiple_of(BLOCK)
                && left.elements.len() >= rows * depth
                && has_scales
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
        let sums = match tile.weights.format {
            QuantFormat::Q8_0 => q8_0(tile, row),
            QuantFormat::Q4K => q4_k(tile, row),
        };
        target.elements[row * target.stride..][..target.columns].copy_from_slice(&sums[..target.columns]);
    }
}

/// Computes a row of a tile with weights in `q8_0`.
fn q8_0(tile: &QuantTile<'_>, row: usize) -> [f32; WIDTH] {
    let mut sums = [0.0; WIDTH];
    for block in 0..tile.depth / BLOCK {
        let BlockScale { scale, .. } = tile.left.block_scales[block * tile.rows + row];
        let dots = dots(tile, block, row);
        for (column, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
            let d = f16::from_bits(tile.weights.halves[block][column]).to_f32();
            *sum = (dot as f32).mul_add(d * scale, *sum);
        }
    }
    sums
}

/// Computes a row of a tile with weights in `q4_k`.
fn q4_k(tile: &QuantTile<'_>, row: usize) -> [f32; WIDTH] {
    let mut sums = [0.0; WIDTH];
    for super_block in 0..tile.depth / SUPER_BLOCK {
        let scales = &tile.left.super_scales[super_block * tile.rows + row];
        let bytes = tile.weights.bytes[2 * PER_SUPER * super_block..][..2 * PER_SUPER].as_flattened();
        let (factors, minima) = bytes.split_at(PER_SUPER * WIDTH);
        let mut scaled = [0.0f32; WIDTH];
        for (i, factors) in factors.chunks_exact(WIDTH).enumerate() {
            let dots = dots(tile, PER_SUPER * super_block + i, row);
            for (scaled, (dot, &factor)) in scaled.iter_mut().zip(dots.into_iter().zip(factors)) {
                *scaled = (dot as f32).mul_add(f32::from(factor), *scaled);
            }
        }
        for (column, (sum, scaled)) in sums.iter_mut().zip(scaled).enumerate() {
            let minima = minima.chunks_exact(2 * WIDTH).flat_map(|pair| &pair[2 * column..][..2]);
            let dot: i32 = scales.sums.iter().zip(minima).map(|(&sum, &m)| i32::from(sum) * i32::from(m)).sum();
            let [d, m] = [0, 1].map(|i| f16::from_bits(tile.weights.halves[2 * super_block + i][column]).to_f32());
            *sum = scales.scale.mul_add((-m).mul_add(dot as f32, d * scaled), *sum);
        }
    }
    sums
}

/// Computes the sums of products within a block of a row for each column.
fn dots(tile: &QuantTile<'_>, block: usize, row: usize) -> [i32; WIDTH] {
    let (weights, x) = (tile.weights, &tile.left.elements[(block * tile.rows + row) * BLOCK..][..BLOCK]);
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

/// Returns all kernels that this processor supports, the scalar one first.
#[cfg(test)]
pub(super) fn all() -> &'static [QuantKernel] {
    static ALL: OnceLock<Vec<QuantKernel>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut found = vec![QuantKernel::portable(), QuantKernel::best()];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                found.push(QuantKernel::avx2());
            }
        }
        found
    })
}
