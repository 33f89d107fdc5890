//! Microkernels for quantized weights, which compute a tile of a product in registers: AVX-512 VNNI, AVX2 with FMA, and
//! scalar code. Results are bit-identical across kernels.

#[cfg(test)]
use std::sync::OnceLock;

use half::f16;

use super::blocks::{Panel, QuantLine};
use super::rows::{TileRows, block_rows};
use super::{BLOCK, QuantFormat, SUPER_BLOCK, WIDTH};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::kernels::cpu::gemm::Target;

/// Blocks that share the scales of their scales.
#[cfg(target_arch = "x86_64")]
pub(super) const PER_SUPER: usize = SUPER_BLOCK / BLOCK;

/// Calls a function with the number of rows as a constant.
#[cfg(target_arch = "x86_64")]
macro_rules! by_rows {
    ($tile:ident, $target:ident, $q8_0:ident, $q4_k:ident, $($rows:literal)*) => {
        match ($tile.weights.format, $tile.rows) {
            $((QuantFormat::Q8_0, $rows) => $q8_0::<$rows>($tile, $target),)*
            $((QuantFormat::Q4K, $rows) => $q4_k::<$rows>($tile, $target),)*
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
                return Self { height: 12, name: "avx512vnni", run: |t, y| unsafe { avx512::tile(t, y) } };
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
        Self { height: 4, name: "avx2", run: |t, y| unsafe { avx2::tile(t, y) } }
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
                && left.elements.len() >= block_rows(*rows) * depth
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
            let x = &tile.left.elements[(block * block_rows(tile.rows) + row) * BLOCK..][..BLOCK];
            let scale = tile.left.scales[block * tile.rows + row];
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
