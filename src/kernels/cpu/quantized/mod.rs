//! GEMM with quantized weights, in GGML's formats as candle makes and reads them: for inference on the CPU.
//!
//! GGML's blocks are repacked when a weight is loaded: panels of sixteen interleaved columns, so that one instruction
//! serves all of them and needs no horizontal sum. The quantized values are unchanged, and only the repacked copy is
//! kept.
//!
//! Activations are quantized to eight bits in groups of GGML's sizes: blocks of 32 beside `q8_0`, super-blocks of 256
//! beside `q4_k`. Integers are multiplied and summed within a block, and minima within a super-block, which is exact;
//! the blocks of a super-block, and the groups of a row, are summed in f32 in their order. A row is bit-identical
//! whichever rows are computed with it, and on every processor.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
mod kernel;
mod rows;

use candle_core::quantized::QTensor;
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::gemm::{Panels, Target, TilePosition};
use crate::kernels::quant_format::{BLOCK, QuantFormat, SUPER_BLOCK};
use blocks::{Blocks, QuantLine};
pub(crate) use kernel::QuantKernel;
use kernel::QuantTile;
use rows::QuantizedRows;

/// Number of blocks of a super-block.
const PER_SUPER: usize = SUPER_BLOCK / BLOCK;
/// Columns of a panel.
pub(crate) const WIDTH: usize = 16;

/// Quantized matrix `(K, N)`.
#[derive(Debug)]
pub(crate) struct QuantizedMatrix {
    format: QuantFormat,
    blocks: Blocks,
    depth: usize,
    columns: usize,
    kernel: &'static QuantKernel,
}

/// Format and dimensions of a quantized matrix.
struct QuantDims {
    format: QuantFormat,
    depth: usize,
    columns: usize,
}

impl QuantizedMatrix {
    /// Quantizes the transpose of `w (N, K)`, as candle does.
    ///
    /// # Errors
    /// A row length that is not a multiple of the format's unit, or an error of candle.
    pub(crate) fn quantize(w: &[f32], depth: usize, format: QuantFormat, kernel: &'static QuantKernel) -> Result<Self> {
        let columns = w.len() / depth.max(1);
        Self::build(QuantDims { format, depth, columns }, kernel, |panel| {
            let rows = &w[panel * WIDTH * depth..][..WIDTH.min(columns - panel * WIDTH) * depth];
            let rows = Tensor::from_slice(rows, (rows.len() / depth, depth), &Device::Cpu)?;
            Ok(QTensor::quantize(&rows, format.ggml())?.data()?.into_owned())
        })
    }

    /// Repacks quantized weights `(N, K)`; `row` maps a column of the matrix to a row of the weights.
    ///
    /// # Errors
    /// Weights in another format, or an error of candle.
    pub(crate) fn from_candle(
        w: &QTensor,
        format: QuantFormat,
        row: &(dyn Fn(usize) -> usize + Sync),
        kernel: &'static QuantKernel,
    ) -> Result<Self> {
        if w.dtype() != format.ggml() {
            candle_core::bail!("weights in {:?} are not in {format}", w.dtype());
        }
        let (columns, depth) = w.shape().dims2()?;
        let bytes = w.data()?;
        let row_bytes = depth / format.ggml().block_size() * format.ggml().type_size();
        Self::build(QuantDims { format, depth, columns }, kernel, |panel| {
            let rows = panel * WIDTH..columns.min((panel + 1) * WIDTH);
            Ok(rows.flat_map(|i| &bytes[row(i) * row_bytes..][..row_bytes]).copied().collect())
        })
    }

    /// Packs panels, each from its rows in GGML's blocks.
    fn build(
        dims: QuantDims,
        kernel: &'static QuantKernel,
        rows_of: impl Fn(usize) -> Result<Vec<u8>> + Sync,
    ) -> Result<Self> {
        let QuantDims { format, depth, columns } = dims;
        if depth == 0 || !depth.is_multiple_of(format.unit()) {
            candle_core::bail!(
                "rows of {depth} elements are not a multiple of the {} that {format} quantizes together",
                format.unit()
            );
        }
        let mut blocks = Blocks::new(format, depth, columns.div_ceil(WIDTH));
        let panels = blocks.panels_mut();
        panels.into_par_iter().enumerate().try_for_each(|(i, panel)| -> Result<()> {
            panel.pack(&rows_of(i)?);
            Ok(())
        })?;
        Ok(Self { format, blocks, depth, columns, kernel })
    }

    /// Joins the columns of several matrices, or returns `None` unless all have the same format and fill their panels.
    pub(crate) fn join(parts: &[&Self]) -> Option<Self> {
        let &&Self { format, depth, kernel, .. } = parts.first()?;
        let fits = |part: &&Self| part.format == format && part.depth == depth && part.columns.is_multiple_of(WIDTH);
        let blocks: Vec<&Blocks> = parts.iter().map(|part| &part.blocks).collect();
        parts.iter().all(fits).then(|| Self {
            format,
            blocks: Blocks::join(&blocks),
            depth,
            columns: parts.iter().map(|part| part.columns).sum(),
            kernel,
        })
    }

    /// Format of the weights.
    pub(crate) fn format(&self) -> QuantFormat {
        self.format
    }
}

impl Panels for QuantizedMatrix {
    type Left = QuantizedRows;

    fn height(&self) -> usize {
        self.kernel.height(self.format)
    }

    fn width(&self) -> usize {
        WIDTH
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn depth_block(&self) -> usize {
        self.depth
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn row_bytes(&self) -> usize {
        rows::row_bytes(self.format, self.depth)
    }

    fn prepare(&self, x: &[f32]) -> QuantizedRows {
        QuantizedRows::new(x, self.depth, self.height(), self.format)
    }

    fn tile(&self, left: &QuantizedRows, position: &TilePosition, target: &mut Target<'_>) {
        let (weights, next) = (self.blocks.panel(position.panel), self.blocks.quants_of(position.panel + 1));
        let rows = position.rows.len();
        let left = left.tile(position.rows.start, rows, self.depth);
        let prefetch: &[QuantLine] = position.prefetch_share(next);
        self.kernel.tile(&QuantTile { rows, depth: self.depth, left, weights: &weights, prefetch }, target);
    }
}

/// Returns the fastest kernel that this processor supports.
pub(crate) fn kernel() -> &'static QuantKernel {
    use std::sync::OnceLock;
    static BEST: OnceLock<QuantKernel> = OnceLock::new();
    BEST.get_or_init(QuantKernel::best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::gemm::{Epilogue, product};
    use crate::kernels::finite_difference::random_elements as random;

    const FORMATS: [QuantFormat; 2] = [QuantFormat::Q8_0, QuantFormat::Q4K];

    /// Returns the weights after quantization and dequantization by candle.
    fn dequantized(w: &[f32], depth: usize, format: QuantFormat) -> Vec<f32> {
        let w = Tensor::from_slice(w, (w.len() / depth, depth), &Device::Cpu).expect("a matrix");
        QTensor::quantize(&w, format.ggml())
            .and_then(|w| w.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1())
            .expect("whole blocks")
    }

    #[test]
    fn products_are_those_of_candles_weights_and_rounded_activations() {
        let shapes = [(1, 256, 16), (3, 512, 5), (13, 256, 33), (70, 768, 100)];
        for (format, (rows, depth, columns)) in FORMATS.into_iter().flat_map(|f| shapes.map(|shape| (f, shape))) {
            let (x, w) = (random(rows * depth, 1), random(columns * depth, 2));
            let (exact_x, exact_w) = (rows::rounded(&x, format), dequantized(&w, depth, format));
            let matrix = QuantizedMatrix::quantize(&w, depth, format, kernel()).expect("whole blocks");
            let y = product(&x, &matrix, None, Epilogue::default());
            for (m, n) in (0..rows).flat_map(|m| (0..columns).map(move |n| (m, n))) {
                let pairs = exact_x[m * depth..][..depth].iter().zip(&exact_w[n * depth..][..depth]);
                let sum: f64 = pairs.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                let difference = (f64::from(y[m * columns + n]) - sum).abs();
                assert!(difference < 3e-5, "{format}: {rows} x {depth} x {columns} at {m}, {n}: {difference}");
            }
        }
    }

    #[test]
    fn rows_are_bit_identical_on_every_kernel_and_beside_any_rows() {
        // The first product is small enough for one thread, which takes tiles of every height; threads share the weight
        // of the second.
        let heights: Vec<usize> = (1..=60).collect();
        for (columns, rows) in [(33, heights), (2100, vec![1, 2, 3, 11, 12, 13, 20, 23, 24, 25, 90])] {
            rows_are_bit_identical(columns, &rows);
        }
    }

    fn rows_are_bit_identical(columns: usize, rows: &[usize]) {
        let depth = 512;
        let most = rows.iter().max().expect("there are some");
        let (x, w) = (random(most * depth, 3), random(columns * depth, 4));
        for format in FORMATS {
            let run = |kernel: &'static QuantKernel, x: &[f32]| {
                let matrix = QuantizedMatrix::quantize(&w, depth, format, kernel).expect("whole blocks");
                product(x, &matrix, None, Epilogue::default())
            };
            let portable = run(kernel::all().first().expect("the portable one"), &x);
            for kernel in kernel::all() {
                let matrix = QuantizedMatrix::quantize(&w, depth, format, kernel).expect("whole blocks");
                for &rows in rows {
                    let y = product(&x[..rows * depth], &matrix, None, Epilogue::default());
                    assert!(y == portable[..rows * columns], "{format}, {}: {rows} rows", kernel.name);
                }
            }
        }
    }

    #[test]
    fn extreme_elements_do_not_overflow() {
        // Every product at its largest, of both signs: 8-bit kernels that saturate would fail here. Signs alternate, since
        // candle quantizes equal elements of a block to 0 in `q4_k`.
        let depth = 256;
        let alternating = |sign: f32| (0..depth).map(move |i| if i % 2 == 0 { sign } else { -sign });
        let x: Vec<f32> = alternating(1.0).chain(alternating(-1.0)).collect();
        let w: Vec<f32> = alternating(-1.0).chain(alternating(1.0)).collect();
        for (format, kernel) in FORMATS.into_iter().flat_map(|format| kernel::all().iter().map(move |k| (format, k))) {
            let matrix = QuantizedMatrix::quantize(&w, depth, format, kernel).expect("whole blocks");
            let y = product(&x, &matrix, None, Epilogue::default());
            for (y, exact) in y.iter().zip([-256.0, 256.0, 256.0, -256.0]) {
                assert!((y - exact).abs() < 1.0, "{format}, {}: {y}", kernel.name);
            }
        }
    }

    #[test]
    fn rows_of_zeros_and_of_nan_stay_so() {
        let w = random(16 * 256, 5);
        for format in FORMATS {
            let matrix = QuantizedMatrix::quantize(&w, 256, format, kernel()).expect("whole blocks");
            assert!(product(&[0.0; 256], &matrix, None, Epilogue::default()).iter().all(|&y| y == 0.0));
            let mut x = [1.0; 256];
            x[7] = f32::NAN;
            assert!(product(&x, &matrix, None, Epilogue::default()).iter().all(|y| y.is_nan()));
        }
    }

    #[test]
    fn rows_may_come_in_another_order() {
        let (depth, columns) = (256, 20);
        let w = random(columns * depth, 6);
        let tensor = Tensor::from_slice(&w, (columns, depth), &Device::Cpu).expect("a matrix");
        for format in FORMATS {
            let candle = QTensor::quantize(&tensor, format.ggml()).expect("whole blocks");
            let reversed =
                QuantizedMatrix::from_candle(&candle, format, &|i| columns - 1 - i, kernel()).expect("the same format");
            let straight = QuantizedMatrix::quantize(&w, depth, format, kernel()).expect("whole blocks");
            let x = random(depth, 7);
            let mut y = product(&x, &reversed, None, Epilogue::default());
            y.reverse();
            assert_eq!(y, product(&x, &straight, None, Epilogue::default()));
            let other = if format == QuantFormat::Q4K { QuantFormat::Q8_0 } else { QuantFormat::Q4K };
            assert!(QuantizedMatrix::from_candle(&candle, other, &|i| i, kernel()).is_err());
        }
    }
}
