//! FP8 weights: E4M3 values with scales in a tensor beside them, converted to full precision while they are read.
//!
//! Formats of `compressed-tensors` (float-quantized, mxfp8-quantized) and transformers' `finegrained_fp8`. Scales
//! of activations are ignored: matrix products run in the model's precision, as those of transformers do on a device
//! without FP8 arithmetic.

use candle_core::{DType, Result};

/// Storage format of a checkpoint's FP8 weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fp8Format {
    /// Last part of the name of the scales, in place of `weight`.
    pub scale: &'static str,
    /// Parts of a weight that share a scale; one for each group of layers.
    pub blocks: Vec<ScaleBlock>,
    /// Precision of the products of values and scales.
    pub product: ScaleProduct,
}

/// Part of a weight `(d_out, d_in)` that shares a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleBlock {
    /// The whole weight.
    Tensor,
    /// A row: a scale for each output channel.
    Row,
    /// Consecutive values of a row.
    Group(usize),
    /// A rectangle of rows and columns.
    Block(usize, usize),
}

/// Precision of the products of values and scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleProduct {
    /// f32 (`finegrained_fp8`).
    F32,
    /// The precision of the scales (`compressed-tensors`).
    OfScales,
}

/// Names of tensors with scales of activations.
const ACTIVATION_SCALES: [&str; 3] = ["input_scale", "output_scale", "activation_scale"];

impl Fp8Format {
    /// Returns the name of the scales of a weight, or `None` for a tensor that is not called `weight`.
    pub(super) fn scale_name(&self, weight: &str) -> Option<String> {
        Some(format!("{}.{}", weight.strip_suffix(".weight")?, self.scale))
    }

    /// Returns the names of the tensors that belong to a weight, its scales first.
    pub(super) fn companions(&self, weight: &str) -> Vec<String> {
        let Some(layer) = weight.strip_suffix(".weight") else { return Vec::new() };
        std::iter::once(self.scale).chain(ACTIVATION_SCALES).map(|name| format!("{layer}.{name}")).collect()
    }

    /// Returns the numbers of rows and columns that share a scale in a weight `(rows, columns)` with scales of shape
    /// `scales`.
    fn block(&self, rows: usize, columns: usize, scales: &[usize]) -> Option<(usize, usize)> {
        self.blocks.iter().find_map(|block| {
            let (height, width) = match *block {
                ScaleBlock::Tensor => (rows, columns),
                ScaleBlock::Row => (1, columns),
                ScaleBlock::Group(width) => (1, width),
                ScaleBlock::Block(height, width) => (height, width),
            };
            let grid = [rows.div_ceil(height.max(1)), columns.div_ceil(width.max(1))];
            let is_single = grid == [1, 1] && scales.iter().product::<usize>() == 1;
            (scales == grid || scales == [grid[0]] && grid[1] == 1 || is_single).then_some((height, width))
        })
    }

    /// Multiplies the values of a weight by its scales.
    ///
    /// # Shapes
    /// `values (rows, columns)` row-major; `scales` of one of the format's shapes.
    ///
    /// # Errors
    /// Scales of a shape that the format does not have.
    pub(super) fn dequantize(&self, values: &mut [f32], shape: &[usize], scales: &Scales) -> Result<()> {
        let &[rows, columns] = shape else {
            candle_core::bail!("an FP8 weight of shape {shape:?}; expected two dimensions")
        };
        let Some((height, width)) = self.block(rows, columns, &scales.shape) else {
            candle_core::bail!(
                "scales of shape {:?} for a weight of shape {shape:?}; quantization_config calls for {:?}",
                scales.shape,
                self.blocks
            )
        };
        let per_row = columns.div_ceil(width.max(1));
        for (i, row) in values.chunks_exact_mut(columns.max(1)).enumerate() {
            let of_row = &scales.values[i / height.max(1) * per_row..][..per_row];
            for (group, scale) in row.chunks_mut(width.max(1)).zip(of_row) {
                group.iter_mut().for_each(|value| *value = self.rounded(*value * scale, scales.dtype));
            }
        }
        Ok(())
    }

    fn rounded(&self, product: f32, dtype: DType) -> f32 {
        match (self.product, dtype) {
            (ScaleProduct::OfScales, DType::BF16) => half::bf16::from_f32(product).to_f32(),
            (ScaleProduct::OfScales, DType::F16) => half::f16::from_f32(product).to_f32(),
            _ => product,
        }
    }
}

/// Scales of one weight.
pub(super) struct Scales {
    pub(super) values: Vec<f32>,
    pub(super) shape: Vec<usize>,
    /// Type in which the scales are stored.
    pub(super) dtype: DType,
}

/// Returns the scale of an E8M0 byte: a power of two (OCP Microscaling Formats, section 5.4.1).
pub(super) fn e8m0_to_f32(byte: u8) -> f32 {
    match byte {
        255 => f32::NAN,
        exponent => (f32::from(exponent) - 127.0).exp2(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(blocks: &[ScaleBlock], product: ScaleProduct) -> Fp8Format {
        Fp8Format { scale: "weight_scale", blocks: blocks.to_vec(), product }
    }

    fn scaled(block: ScaleBlock, shape: &[usize], scales: &[f32]) -> std::result::Result<Vec<f32>, String> {
        let mut values = vec![1.0; 6];
        let scales = Scales { values: scales.to_vec(), shape: shape.to_vec(), dtype: DType::F32 };
        let format = format(&[block], ScaleProduct::F32);
        format.dequantize(&mut values, &[2, 3], &scales).map_err(|error| error.to_string()).map(|()| values)
    }

    #[test]
    fn each_block_has_its_scale_and_the_last_one_may_be_smaller() {
        for shape in [&[][..], &[1], &[1, 1]] {
            assert_eq!(scaled(ScaleBlock::Tensor, shape, &[2.0]).expect("one scale"), [2.0; 6]);
        }
        for shape in [&[2][..], &[2, 1]] {
            let rows = scaled(ScaleBlock::Row, shape, &[2.0, 3.0]).expect("a scale a row");
            assert_eq!(rows, [2.0, 2.0, 2.0, 3.0, 3.0, 3.0]);
        }
        let groups = scaled(ScaleBlock::Group(2), &[2, 2], &[2.0, 3.0, 4.0, 5.0]).expect("two groups a row");
        assert_eq!(groups, [2.0, 2.0, 3.0, 4.0, 4.0, 5.0]);
        let blocks = scaled(ScaleBlock::Block(128, 2), &[1, 2], &[2.0, 3.0]).expect("two blocks");
        assert_eq!(blocks, [2.0, 2.0, 3.0, 2.0, 2.0, 3.0]);
        let error = scaled(ScaleBlock::Block(2, 2), &[2, 1], &[2.0, 3.0]).expect_err("another grid");
        assert!(error.starts_with("scales of shape [2, 1] for a weight of shape [2, 3]"), "{error}");
    }

    #[test]
    fn products_are_rounded_as_the_scales_are_stored() {
        let (product, exact) = (1.25f32 * 0.333_984_38, 0.417_480_47);
        assert_eq!(format(&[], ScaleProduct::F32).rounded(product, DType::BF16), exact);
        // bf16 keeps 8 bits: 0.41748 is between 0.416015625 and 0.41796875.
        assert_eq!(format(&[], ScaleProduct::OfScales).rounded(product, DType::BF16), 0.417_968_75);
    }

    #[test]
    fn an_e8m0_byte_is_a_power_of_two() {
        assert_eq!([127, 128, 120].map(e8m0_to_f32), [1.0, 2.0, 1.0 / 128.0]);
        assert!(e8m0_to_f32(255).is_nan());
    }
}
