//! Activations quantized to eight bits, in the layout that the kernels read.
//!
//! A scale is shared by as many elements as in GGML (`vec_dot_type` in `ggml-cpu.c`): 32 beside `q8_0`, 256 beside
//! `q4_k`.

use super::{BLOCK, PER_SUPER, QuantFormat, SUPER_BLOCK};
use crate::kernels::cpu::processor::for_each_processor;

/// Scale and sum of a block of a row, beside weights in `q8_0`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BlockScale {
    /// Factor of the block's integers.
    pub(super) scale: f32,
    /// -128 times the sum of the block's integers: for kernels that read weights 128 too large.
    pub(super) offset: i32,
}

/// Scale and sums of a super-block of a row, beside weights in `q4_k`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SuperScale {
    /// Factor of the super-block's integers.
    pub(super) scale: f32,
    /// Sum of each block's integers.
    pub(super) sums: [i16; PER_SUPER],
}

/// Returns the bytes of a quantized row of `depth` elements.
pub(super) fn row_bytes(format: QuantFormat, depth: usize) -> usize {
    depth
        + match format {
            QuantFormat::Q8_0 => depth / BLOCK * size_of::<BlockScale>(),
            QuantFormat::Q4K => depth / SUPER_BLOCK * size_of::<SuperScale>(),
        }
}

/// Quantized rows, tile by tile, `(K / 32, rows, 32)` each; the last tile may have fewer rows.
#[derive(Debug)]
pub(crate) struct QuantizedRows {
    elements: Vec<i8>,
    scales: ActivationScales,
}

/// Scales of quantized rows, `(K / 32, rows)` or `(K / 256, rows)` of each tile.
#[derive(Debug)]
enum ActivationScales {
    Blocks(Vec<BlockScale>),
    Supers(Vec<SuperScale>),
}

/// Rows of a tile.
#[derive(Clone, Copy)]
pub(super) struct TileRows<'a> {
    /// `(K / 32, rows, 32)`.
    pub(super) elements: &'a [i8],
    /// `(K / 32, rows)` beside weights in `q8_0`, else empty.
    pub(super) block_scales: &'a [BlockScale],
    /// `(K / 256, rows)` beside weights in `q4_k`, else empty.
    pub(super) super_scales: &'a [SuperScale],
}

impl QuantizedRows {
    /// Quantizes rows of `depth` elements for tiles of `height` rows with weights in `format`. `depth` is a multiple of
    /// the format's unit.
    pub(super) fn new(x: &[f32], depth: usize, height: usize, format: QuantFormat) -> Self {
        let rows = TiledRows { x, depth, height };
        let mut elements = vec![0; x.len()];
        let scales = match format {
            QuantFormat::Q8_0 => ActivationScales::Blocks(rows.round(&mut elements, depth / BLOCK, round_blocks)),
            QuantFormat::Q4K => ActivationScales::Supers(rows.round(&mut elements, depth / SUPER_BLOCK, round_supers)),
        };
        Self { elements, scales }
    }

    /// Returns the tile of `rows` rows from `first` on: a multiple of the height, and as many rows as the tile has.
    pub(super) fn tile(&self, first: usize, rows: usize, depth: usize) -> TileRows<'_> {
        let elements = &self.elements[first * depth..][..rows * depth];
        let (mut block_scales, mut super_scales): (&[BlockScale], &[SuperScale]) = (&[], &[]);
        match &self.scales {
            ActivationScales::Blocks(scales) => {
                block_scales = &scales[first * (depth / BLOCK)..][..rows * (depth / BLOCK)];
            }
            ActivationScales::Supers(scales) => {
                super_scales = &scales[first * (depth / SUPER_BLOCK)..][..rows * (depth / SUPER_BLOCK)];
            }
        }
        TileRows { elements, block_scales, super_scales }
    }
}

/// Rows of `depth` elements, to be quantized for tiles of `height` rows.
struct TiledRows<'x> {
    x: &'x [f32],
    depth: usize,
    height: usize,
}

impl TiledRows<'_> {
    /// Quantizes each row by `round`, and returns the `n_scales` scales of each.
    fn round<S: Default + Clone>(&self, elements: &mut [i8], n_scales: usize, round: RoundRow<S>) -> Vec<S> {
        let Self { x, depth, height } = *self;
        let mut scales = vec![S::default(); x.len() / depth * n_scales];
        let tiles = x.chunks(height * depth).zip(elements.chunks_mut(height * depth));
        for ((x, elements), scales) in tiles.zip(scales.chunks_mut(height * n_scales)) {
            let (rows, blocks) = (x.len() / depth, elements.as_chunks_mut::<BLOCK>().0);
            for (row, x) in x.chunks_exact(depth).enumerate() {
                round(x, &mut QuantizedRow { rows, elements: &mut blocks[row..], scales: &mut scales[row..] });
            }
        }
        scales
    }
}

/// Function that quantizes a row.
type RoundRow<S> = fn(&[f32], &mut QuantizedRow<'_, S>);

/// Row of a tile that is being quantized: its blocks and their scales, with the other rows' between them.
pub(crate) struct QuantizedRow<'a, S> {
    rows: usize,
    elements: &'a mut [[i8; BLOCK]],
    scales: &'a mut [S],
}

for_each_processor! {
    /// Quantizes a row with a scale for each block.
    round_blocks, round_blocks_of, (x: &[f32], row: &mut QuantizedRow<'_, BlockScale>)
}

for_each_processor! {
    /// Quantizes a row with a scale for each super-block.
    round_supers, round_supers_of, (x: &[f32], row: &mut QuantizedRow<'_, SuperScale>)
}

#[inline(always)]
fn round_blocks_of(x: &[f32], row: &mut QuantizedRow<'_, BlockScale>) {
    let QuantizedRow { rows, elements, scales } = row;
    let blocks = elements.iter_mut().step_by(*rows);
    for ((x, to), scale) in x.as_chunks::<BLOCK>().0.iter().zip(blocks).zip(scales.iter_mut().step_by(*rows)) {
        let rounding = Rounding::of(x);
        *scale = BlockScale { scale: rounding.scale, offset: -128 * rounding.round(x, to) };
    }
}

#[inline(always)]
fn round_supers_of(x: &[f32], row: &mut QuantizedRow<'_, SuperScale>) {
    let QuantizedRow { rows, elements, scales } = row;
    let mut blocks = elements.iter_mut().step_by(*rows);
    for (x, to) in x.as_chunks::<SUPER_BLOCK>().0.iter().zip(scales.iter_mut().step_by(*rows)) {
        let rounding = Rounding::of(x);
        to.scale = rounding.scale;
        for ((x, to), sum) in x.as_chunks::<BLOCK>().0.iter().zip(&mut blocks).zip(&mut to.sums) {
            *sum = rounding.round(x, to) as i16;
        }
    }
}

/// Factors between elements and their integers, the largest magnitude of which is 127.
#[derive(Clone, Copy)]
struct Rounding {
    /// Factor of the integers; NaN if an element is NaN.
    scale: f32,
    /// Factor of the elements.
    inverse: f32,
}

impl Rounding {
    /// Returns the factors for elements that share a scale.
    #[inline(always)]
    fn of(x: &[f32]) -> Self {
        let mut largest = [0u32; BLOCK / 2];
        for x in x.as_chunks::<{ BLOCK / 2 }>().0 {
            // Bits of magnitudes are in the order of the magnitudes, and those of NaN come last.
            largest.iter_mut().zip(x).for_each(|(largest, x)| *largest = x.abs().to_bits().max(*largest));
        }
        let largest = f32::from_bits(largest.iter().fold(0, |most, &x| most.max(x)));
        Self { scale: largest / 127.0, inverse: if largest > 0.0 { 127.0 / largest } else { 0.0 } }
    }

    /// Rounds a block, and returns the sum of its integers.
    #[inline(always)]
    fn round(self, x: &[f32; BLOCK], to: &mut [i8; BLOCK]) -> i32 {
        // 1.5 * 2^23: adding it rounds to an integer, which is then in the lowest bits.
        const SHIFT: f32 = 12_582_912.0;
        let mut whole = [0i32; BLOCK];
        whole
            .iter_mut()
            .zip(x)
            .for_each(|(whole, x)| *whole = (x * self.inverse + SHIFT).to_bits() as i32 - SHIFT.to_bits() as i32);
        to.iter_mut().zip(&whole).for_each(|(to, &whole)| *to = whole as i8);
        to.iter().map(|&to| i32::from(to)).sum()
    }
}

/// The elements after quantization for weights in `format`.
#[cfg(test)]
pub(super) fn rounded(x: &[f32], format: QuantFormat) -> Vec<f32> {
    let parts = x.chunks_exact(format.unit()).flat_map(|x| {
        let rounding = Rounding::of(x);
        let blocks = x.as_chunks::<BLOCK>().0.iter().flat_map(move |x| {
            let mut elements = [0; BLOCK];
            rounding.round(x, &mut elements);
            elements.map(|number| f32::from(number) * rounding.scale)
        });
        blocks.collect::<Vec<_>>()
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_rounded_to_half_a_step() {
        for format in [QuantFormat::Q8_0, QuantFormat::Q4K] {
            let x: Vec<f32> = (0..2 * SUPER_BLOCK).map(|i| (i as f32 - 20.0) * 0.37).collect();
            for (x, y) in x.chunks(format.unit()).zip(rounded(&x, format).chunks(format.unit())) {
                let step = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
                assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() <= step * 0.501), "{format}: {x:?} became {y:?}");
            }
        }
    }

    #[test]
    fn sums_are_those_of_the_integers() {
        let x: Vec<f32> = (0..SUPER_BLOCK).map(|i| (i as f32 * 0.7).sin() - 0.2).collect();
        let sums = |rows: &QuantizedRows| {
            let blocks = rows.elements.chunks_exact(BLOCK);
            blocks.map(|block| block.iter().map(|&n| i32::from(n)).sum::<i32>()).collect::<Vec<_>>()
        };
        let rows = QuantizedRows::new(&x, SUPER_BLOCK, 1, QuantFormat::Q8_0);
        let offsets = rows.tile(0, 1, SUPER_BLOCK).block_scales.iter().map(|block| block.offset / -128);
        assert_eq!(offsets.collect::<Vec<_>>(), sums(&rows));
        let rows = QuantizedRows::new(&x, SUPER_BLOCK, 1, QuantFormat::Q4K);
        let found = rows.tile(0, 1, SUPER_BLOCK).super_scales[0].sums.map(i32::from);
        assert_eq!(found.to_vec(), sums(&rows));
        assert!(rows.elements.iter().any(|n| n.abs() == 127));
    }

    #[test]
    fn rows_of_a_tile_stand_block_by_block() {
        // Three rows of two blocks for tiles of two: rows 0 and 1, then row 2.
        let x: Vec<f32> = (0..3 * 64).map(|i| (i / 32 + 1) as f32).collect();
        let rows = QuantizedRows::new(&x, 64, 2, QuantFormat::Q8_0);
        let scales =
            |tile: TileRows<'_>| tile.block_scales.iter().map(|s| (s.scale * 127.0).round()).collect::<Vec<_>>();
        assert_eq!(scales(rows.tile(0, 2, 64)), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(scales(rows.tile(2, 1, 64)), [5.0, 6.0]);
        assert!(rows.elements.iter().all(|&n| n == 127));
        // The same of super-blocks: a row has two.
        let x: Vec<f32> = (0..3 * 512).map(|i| (i / 256 + 1) as f32).collect();
        let rows = QuantizedRows::new(&x, 512, 2, QuantFormat::Q4K);
        let scales =
            |tile: TileRows<'_>| tile.super_scales.iter().map(|s| (s.scale * 127.0).round()).collect::<Vec<_>>();
        assert_eq!(scales(rows.tile(0, 2, 512)), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(scales(rows.tile(2, 1, 512)), [5.0, 6.0]);
    }
}
