//! Pooling of a patch grid along its two axes, with the windows of PyTorch's adaptive pools and `interpolate`. This is
//! the reference with gradients; the GPU's kernel is in `cuda/rows.cu`.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reduction of a window of patches to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolMode {
    /// Mean (`AdaptiveAvgPool2d`).
    #[default]
    Average,
    /// Maximum of each channel (`AdaptiveMaxPool2d`).
    Max,
    /// Bilinear interpolation (`interpolate(mode="bilinear", align_corners=False)`).
    Bilinear,
}

/// Pooling of a grid to another size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GridPool {
    /// Rows and columns of the input.
    pub from: [usize; 2],
    /// Rows and columns of the output.
    pub to: [usize; 2],
    /// Reduction of a window.
    pub mode: PoolMode,
}

impl GridPool {
    /// Checks that frames have the input grid, and that neither grid is empty.
    ///
    /// # Errors
    /// When a condition is violated.
    pub(super) fn check(&self, frames: &Tensor) -> Result<()> {
        let (_, n, _) = frames.dims3()?;
        let ([height, width], [rows, columns]) = (self.from, self.to);
        if height * width != n || n == 0 || rows * columns == 0 {
            candle_core::bail!("pool: frames of {n} tokens from {height} x {width} to {rows} x {columns}");
        }
        Ok(())
    }
}

/// Computes [`super::Kernels::pool_grid`] one axis after the other, with gradients. The shapes must have passed
/// [`GridPool::check`].
pub(super) fn by_axes(frames: &Tensor, pool: &GridPool) -> Result<Tensor> {
    let ((t, _, d), [height, width], [rows, columns]) = (frames.dims3()?, pool.from, pool.to);
    let pooled = along(&frames.reshape((t, height, width * d))?, rows, pool.mode)?; // (t, rows, width d)
    along(&pooled.reshape((t * rows, width, d))?, columns, pool.mode)?.reshape((t, rows * columns, d))
}

/// Pools the middle axis to `n` cells.
///
/// # Shapes
/// `(b, m, d)` to `(b, n, d)`.
///
/// # Errors
/// When candle fails.
fn along(x: &Tensor, n: usize, mode: PoolMode) -> Result<Tensor> {
    let m = x.dim(1)?;
    if m == n {
        return Ok(x.clone());
    }
    let weighted = |weights: Vec<Vec<(usize, f32)>>| {
        let weighted_sum = |weights: Vec<(usize, f32)>| {
            let mut sum: Option<Tensor> = None;
            for (i, weight) in weights {
                let part = (x.narrow(1, i, 1)?.to_dtype(DType::F32)? * f64::from(weight))?;
                sum = Some(match sum {
                    Some(sum) => (sum + part)?,
                    None => part,
                });
            }
            sum.ok_or_else(|| candle_core::Error::msg("pool: an empty window"))
        };
        let cells: Vec<Tensor> = weights.into_iter().map(weighted_sum).collect::<Result<_>>()?;
        Tensor::cat(&cells, 1)?.to_dtype(x.dtype())
    };
    match mode {
        PoolMode::Average => weighted((0..n).map(|i| mean_of(window(m, n, i))).collect()),
        PoolMode::Bilinear => weighted((0..n).map(|i| neighbours(m, n, i)).collect()),
        PoolMode::Max => {
            let maximum = |i| {
                let Range { start, end } = window(m, n, i);
                x.narrow(1, start, end - start)?.max_keepdim(1)
            };
            Tensor::cat(&(0..n).map(maximum).collect::<Result<Vec<_>>>()?, 1)
        }
    }
}

/// Returns window `i` of the adaptive pool of `m` cells to `n`: from `floor(i m / n)` to `ceil((i + 1) m / n)`.
fn window(m: usize, n: usize, i: usize) -> Range<usize> {
    i * m / n..((i + 1) * m).div_ceil(n)
}

fn mean_of(window: Range<usize>) -> Vec<(usize, f32)> {
    let weight = 1.0 / window.len() as f32;
    window.map(|i| (i, weight)).collect()
}

/// Returns the two cells around the centre `(i + 1/2) m / n - 1/2` of output `i`, clamped to the first, with their
/// weights.
fn neighbours(m: usize, n: usize, i: usize) -> Vec<(usize, f32)> {
    let centre = ((i as f64 + 0.5) * m as f64 / n as f64 - 0.5).max(0.0);
    let (low, share) = (centre as usize, centre.fract() as f32);
    vec![(low, 1.0 - share), ((low + 1).min(m - 1), share)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn pooled(values: &[f32], from: [usize; 2], to: [usize; 2], mode: PoolMode) -> Vec<f32> {
        let frames = Tensor::from_slice(values, (1, from[0] * from[1], 1), &Device::Cpu).expect("it fits");
        by_axes(&frames, &GridPool { from, to, mode }).and_then(|x| x.flatten_all()?.to_vec1()).expect("it pools")
    }

    #[test]
    fn windows_are_those_of_the_adaptive_pool() {
        // 5 cells to 3: 0..2, 1..4, 3..5 overlap, as in PyTorch.
        assert_eq!([0, 1, 2].map(|i| window(5, 3, i)), [0..2, 1..4, 3..5]);
        assert_eq!([0, 1].map(|i| window(24, 2, i)), [0..12, 12..24]);
    }

    #[test]
    fn a_grid_is_pooled_to_values_worked_out_by_hand() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]; // 3 rows of 4
        // Rows 0..2 and 1..3, columns 0..2 and 2..4.
        assert_eq!(pooled(&values, [3, 4], [2, 2], PoolMode::Average), [3.5, 5.5, 7.5, 9.5]);
        assert_eq!(pooled(&values, [3, 4], [2, 2], PoolMode::Max), [6.0, 8.0, 10.0, 12.0]);
        // Rows at 0.25 and 1.75, columns at 0.5 and 2.5: 1 + 4 row + column.
        assert_eq!(pooled(&values, [3, 4], [2, 2], PoolMode::Bilinear), [2.5, 4.5, 8.5, 10.5]);
        assert_eq!(pooled(&values, [3, 4], [3, 4], PoolMode::Max), values);
    }
}
