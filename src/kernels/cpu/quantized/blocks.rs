//! Panels of quantized weights: GGML's blocks of sixteen columns interleaved.

use crate::kernels::cpu::memory::{filled, reserved};

use super::{BLOCK, PER_SUPER, QuantFormat, SUPER_BLOCK, WIDTH};

/// Four elements of each column, or eight of half a byte: the operand of one instruction, a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct QuantLine(pub(super) [u8; 4 * WIDTH]);

/// Blocks of all panels. `q8_0`: 8 lines a block, each with four elements of each column. `q4_k`: 4 lines a block, the
/// lower halves of whose bytes are four elements of each column and the upper halves the next four.
#[derive(Debug)]
pub(super) struct Blocks {
    format: QuantFormat,
    /// Number of blocks of a column.
    n_blocks: usize,
    quants: Vec<QuantLine>,
    /// f16 bits. `q8_0`: a scale a block. `q4_k`: for each super-block, a scale of scales, then one of minima.
    halves: Vec<[u16; WIDTH]>,
    /// `q4_k`: the scales of a super-block's eight blocks, a line each, then the minima of its blocks in pairs, two
    /// lines a pair: a column's two minima are neighbours.
    bytes: Vec<[u8; WIDTH]>,
}

/// One panel of [`Blocks`].
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) format: QuantFormat,
    pub(super) quants: &'a [QuantLine],
    pub(super) halves: &'a [[u16; WIDTH]],
    pub(super) bytes: &'a [[u8; WIDTH]],
}

/// One panel of [`Blocks`], to be filled.
pub(super) struct PanelMut<'a> {
    format: QuantFormat,
    quants: &'a mut [QuantLine],
    halves: &'a mut [[u16; WIDTH]],
    bytes: &'a mut [[u8; WIDTH]],
}

/// Returns the numbers of lines, halves and bytes of a panel.
fn sizes(format: QuantFormat, n_blocks: usize) -> [usize; 3] {
    match format {
        QuantFormat::Q8_0 => [8 * n_blocks, n_blocks, 0],
        QuantFormat::Q4K => [4 * n_blocks, 2 * n_blocks * BLOCK / SUPER_BLOCK, 2 * n_blocks],
    }
}

impl Blocks {
    pub(super) fn new(format: QuantFormat, depth: usize, n_panels: usize) -> Self {
        let n_blocks = depth / BLOCK;
        let [lines, halves, bytes] = sizes(format, n_blocks).map(|n| n * n_panels);
        Self {
            format,
            n_blocks,
            quants: filled(lines, QuantLine([0; 4 * WIDTH])),
            halves: vec![[0; WIDTH]; halves],
            bytes: vec![[0; WIDTH]; bytes],
        }
    }

    /// Concatenates the panels of matrices of the same format and depth, of which there is at least one.
    pub(super) fn join(parts: &[&Self]) -> Self {
        Self {
            format: parts[0].format,
            n_blocks: parts[0].n_blocks,
            quants: joined(parts.iter().map(|part| part.quants.as_slice())),
            halves: joined(parts.iter().map(|part| part.halves.as_slice())),
            bytes: joined(parts.iter().map(|part| part.bytes.as_slice())),
        }
    }

    pub(super) fn panels_mut(&mut self) -> Vec<PanelMut<'_>> {
        let (format, [lines, halves, bytes]) = (self.format, sizes(self.format, self.n_blocks));
        let mut all_bytes = self.bytes.as_mut_slice();
        let panels = self.quants.chunks_exact_mut(lines).zip(self.halves.chunks_exact_mut(halves));
        panels
            .map(|(quants, halves)| {
                // Not in chunks: a format may have no bytes.
                let (these, others) = std::mem::take(&mut all_bytes).split_at_mut(bytes);
                all_bytes = others;
                PanelMut { format, quants, halves, bytes: these }
            })
            .collect()
    }

    pub(super) fn panel(&self, i: usize) -> Panel<'_> {
        let [lines, halves, bytes] = sizes(self.format, self.n_blocks);
        Panel {
            format: self.format,
            quants: &self.quants[i * lines..][..lines],
            halves: &self.halves[i * halves..][..halves],
            bytes: &self.bytes[i * bytes..][..bytes],
        }
    }

    /// Returns the quantized values of a panel; empty beyond the last panel.
    pub(super) fn quants_of(&self, i: usize) -> &[QuantLine] {
        let lines = sizes(self.format, self.n_blocks)[0];
        self.quants.get(i * lines..(i + 1) * lines).unwrap_or_default()
    }
}

fn joined<'a, T: Copy + 'a>(parts: impl Iterator<Item = &'a [T]> + Clone) -> Vec<T> {
    let mut all = reserved(parts.clone().map(<[T]>::len).sum());
    parts.for_each(|part| all.extend_from_slice(part));
    all
}

impl PanelMut<'_> {
    /// Packs up to sixteen rows of GGML's blocks, which become columns.
    pub(super) fn pack(self, rows: &[u8]) {
        match self.format {
            QuantFormat::Q8_0 => self.pack_q8_0(rows),
            QuantFormat::Q4K => self.pack_q4_k(rows),
        }
    }

    /// Packs rows of GGML's blocks: a scale and 32 elements (`BlockQ8_0` in candle).
    fn pack_q8_0(self, rows: &[u8]) {
        const SIZE: usize = 2 + BLOCK;
        let n_blocks = self.halves.len();
        for (column, row) in rows.chunks_exact(n_blocks * SIZE).enumerate() {
            for (i, block) in row.chunks_exact(SIZE).enumerate() {
                self.halves[i][column] = u16::from_le_bytes([block[0], block[1]]);
                for (line, four) in self.quants[8 * i..].iter_mut().zip(block[2..].chunks_exact(4)) {
                    line.0[4 * column..][..4].copy_from_slice(four);
                }
            }
        }
    }

    /// Packs rows of GGML's blocks: a scale of scales, one of minima, eight scales and eight minima of six bits each,
    /// and 256 elements of half a byte: 32 in the lower halves of 32 bytes, the next 32 in their upper halves
    /// (`BlockQ4K` in candle).
    fn pack_q4_k(self, rows: &[u8]) {
        const SIZE: usize = 4 + 12 + SUPER_BLOCK / 2;
        let n_super = self.halves.len() / 2;
        for (column, row) in rows.chunks_exact(n_super * SIZE).enumerate() {
            for (i, block) in row.chunks_exact(SIZE).enumerate() {
                self.halves[2 * i][column] = u16::from_le_bytes([block[0], block[1]]);
                self.halves[2 * i + 1][column] = u16::from_le_bytes([block[2], block[3]]);
                let bytes = &mut self.bytes[2 * PER_SUPER * i..][..2 * PER_SUPER];
                let (scales, minima) = bytes.split_at_mut(PER_SUPER);
                for (j, scales) in scales.iter_mut().enumerate() {
                    let block_index = PER_SUPER * i + j;
                    let (scale, minimum) = scale_and_minimum(&block[4..16], j);
                    scales[column] = scale;
                    minima.as_flattened_mut()[2 * (j / 2 * WIDTH + column) + j % 2] = minimum;
                    let half_byte = |k: usize| block[16 + j / 2 * 32 + k] >> (4 * (j % 2)) & 0xf;
                    for (l, line) in self.quants[4 * block_index..][..4].iter_mut().enumerate() {
                        for k in 0..4 {
                            line.0[4 * column + k] = half_byte(8 * l + k) | half_byte(8 * l + 4 + k) << 4;
                        }
                    }
                }
            }
        }
    }
}

/// Unpacks the scale and the minimum of block `j` of eight, of six bits each in twelve bytes (`get_scale_min_k4` of
/// GGML).
fn scale_and_minimum(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        return (packed[j] & 63, packed[j + 4] & 63);
    }
    let high = |byte: u8| byte >> 6 << 4;
    (packed[j + 4] & 0xf | high(packed[j - 4]), packed[j + 4] >> 4 | high(packed[j]))
}
