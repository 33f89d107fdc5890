//! Activations quantized to eight bits, in the layout that the kernels read.

use super::BLOCK;
use crate::kernels::cpu::processor::for_each_processor;

/// Size in bytes of a block without its elements.
pub(super) const BLOCK_BYTES: usize = size_of::<Scale>();

/// Scale and sums of a block of a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scale {
    /// Factor of the block's integers.
    pub(super) scale: f32,
    /// Sum of the block's integers, times the scale.
    pub(super) sum: f32,
    /// -128 times the sum of the block's integers: for kernels that read weights 128 too large.
    pub(super) offset: i32,
}

/// Returns the number of rows that a block of a tile has in memory: odd, from three rows on. With an even number the
/// AVX-512 kernel takes up to a fifth longer (4 to 12 rows on an Emerald Rapids Xeon), for no reason found in its code.
pub(super) const fn block_rows(rows: usize) -> usize {
    if rows > 2 { rows | 1 } else { rows }
}

/// Quantized rows, tile by tile, `(K / 32, block_rows, 32)` each.
#[derive(Debug)]
pub(crate) struct QuantizedRows {
    /// Rows of a tile; the last one may have fewer.
    height: usize,
    elements: Vec<i8>,
    scales: Vec<Scale>,
}

/// Rows of a tile.
#[derive(Clone, Copy)]
pub(super) struct TileRows<'a> {
    /// `(K / 32, block_rows, 32)`.
    pub(super) elements: &'a [i8],
    /// `(K / 32, rows)`.
    pub(super) scales: &'a [Scale],
}

impl QuantizedRows {
    /// Quantizes rows of `depth` elements, a multiple of 32, for tiles of `height` rows.
    pub(super) fn new(x: &[f32], depth: usize, height: usize) -> Self {
        let (n_rows, n_blocks) = (x.len() / depth, depth / BLOCK);
        let n_block_rows = n_rows / height * block_rows(height) + block_rows(n_rows % height);
        let (mut elements, mut scales) = (vec![0; n_block_rows * depth], vec![Scale::default(); n_rows * n_blocks]);
        let tiles = x.chunks(height * depth).zip(elements.chunks_mut(block_rows(height) * depth));
        for ((x, elements), scales) in tiles.zip(scales.chunks_mut(height * n_blocks)) {
            let rows = x.len() / depth;
            for (row, x) in x.chunks_exact(depth).enumerate() {
                round_row(x, row, &mut QuantizedTile { rows, elements, scales });
            }
        }
        Self { height, elements, scales }
    }

    /// Returns the tile of `rows` rows from `first` on, a multiple of the height.
    pub(super) fn tile(&self, first: usize, rows: usize, depth: usize) -> TileRows<'_> {
        let n_blocks = depth / BLOCK;
        TileRows {
            elements: &self.elements[first / self.height * block_rows(self.height) * depth..]
                [..block_rows(rows) * depth],
            scales: &self.scales[first * n_blocks..][..rows * n_blocks],
        }
    }
}

/// Tile of rows that are being quantized, block by block in turns.
pub(crate) struct QuantizedTile<'a> {
    rows: usize,
    elements: &'a mut [i8],
    scales: &'a mut [Scale],
}

for_each_processor! {
    /// Quantizes one of the rows of a tile.
    round_row, round_row_of, (x: &[f32], row: usize, tile: &mut QuantizedTile<'_>)
}

#[inline(always)]
fn round_row_of(x: &[f32], row: usize, tile: &mut QuantizedTile<'_>) {
    let QuantizedTile { rows, elements, scales } = tile;
    let blocks = elements.as_chunks_mut::<BLOCK>().0[row..].iter_mut().step_by(block_rows(*rows));
    for ((x, to), scale) in x.as_chunks::<BLOCK>().0.iter().zip(blocks).zip(scales[row..].iter_mut().step_by(*rows)) {
        *scale = round_block(x, to);
    }
}

/// Quantizes a block: its largest magnitude becomes 127. A block with a NaN has a scale of NaN.
#[inline(always)]
fn round_block(x: &[f32; BLOCK], to: &mut [i8; BLOCK]) -> Scale {
    // 1.5 * 2^23: adding it rounds to an integer, which is then in the lowest bits.
    const SHIFT: f32 = 12_582_912.0;
    let mut largest = [0.0f32; BLOCK / 2];
    let (low, high) = x.split_at(BLOCK / 2);
    largest.iter_mut().zip(low.iter().zip(high)).for_each(|(largest, (low, high))| {
        // Bits of magnitudes are in the order of the magnitudes, and those of NaN come last.
        let (low, high) = (low.abs().to_bits(), high.abs().to_bits());
        *largest = f32::from_bits(if low > high { low } else { high });
    });
    let largest = f32::from_bits(largest.iter().fold(0, |most, x| most.max(x.to_bits())));
    let scale = largest / 127.0;
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut whole = [0i32; BLOCK];
    whole
        .iter_mut()
        .zip(x)
        .for_each(|(whole, x)| *whole = (x * inverse + SHIFT).to_bits() as i32 - SHIFT.to_bits() as i32);
    to.iter_mut().zip(&whole).for_each(|(to, &whole)| *to = whole as i8);
    let sum = to.iter().map(|&to| i32::from(to)).sum::<i32>();
    Scale { scale, sum: scale * sum as f32, offset: -128 * sum }
}

/// The elements after quantization.
#[cfg(test)]
pub(super) fn rounded(x: &[f32]) -> Vec<f32> {
    let blocks = x.as_chunks::<BLOCK>().0.iter().flat_map(|x| {
        let mut elements = [0; BLOCK];
        let scale = round_block(x, &mut elements);
        elements.map(|number| f32::from(number) * scale.scale)
    });
    blocks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_rounded_to_half_a_step() {
        let x: [f32; BLOCK] = std::array::from_fn(|i| (i as f32 - 20.0) * 0.37);
        let step = 20.0 * 0.37 / 127.0;
        for (x, y) in x.iter().zip(rounded(&x)) {
            assert!((x - y).abs() <= step * 0.501, "{x} became {y}");
        }
        let mut elements = [0; BLOCK];
        let scale = round_block(&x, &mut elements);
        assert_eq!(elements.iter().min(), Some(&-127));
        let sum: i32 = elements.iter().map(|&n| i32::from(n)).sum();
        assert_eq!((scale.sum, scale.offset), (scale.scale * sum as f32, -128 * sum));
    }

    #[test]
    fn rows_of_a_tile_stand_block_by_block() {
        // Three rows of two blocks for tiles of two: rows 0 and 1, then row 2.
        let x: Vec<f32> = (0..3 * 64).map(|i| (i / 32 + 1) as f32).collect();
        let rows = QuantizedRows::new(&x, 64, 2);
        let scales = |tile: TileRows<'_>| tile.scales.iter().map(|s| (s.scale * 127.0).round()).collect::<Vec<_>>();
        assert_eq!(scales(rows.tile(0, 2, 64)), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(scales(rows.tile(2, 1, 64)), [5.0, 6.0]);
        assert!(rows.elements.iter().all(|&n| n == 127));
        // Five rows of one block for tiles of four: one row of padding in the first tile, none in the second.
        let x: Vec<f32> = (0..5 * 32).map(|_| 1.0).collect();
        let rows = QuantizedRows::new(&x, 32, 4);
        let filled = |first, n| rows.tile(first, n, 32).elements.iter().filter(|&&n| n == 127).count() / 32;
        assert_eq!((filled(0, 4), filled(4, 1), rows.elements.len()), (4, 1, 6 * 32));
    }
}
