//! Pools along the two axes of the patch grid, as PyTorch's adaptive pools and `interpolate` do.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Grid;

/// How the patches of a window become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolMode {
    /// Their mean (`AdaptiveAvgPool2d`).
    #[default]
    Average,
    /// Their maximum, channel by channel (`AdaptiveMaxPool2d`).
    Max,
    /// Interpolation between the nearest ones (`interpolate(mode="bilinear", align_corners=False)`).
    Bilinear,
}

/// Pools each frame's grid to `to`.
///
/// # Shapes
/// `(t, Hg Wg, H)` to `(t, h w, H)`.
///
/// # Errors
/// When the frames have not that grid.
pub fn pool(frames: &Tensor, from: Grid, to: Grid, mode: PoolMode) -> Result<Tensor> {
    let (t, _, d) = frames.dims3()?;
    let rows = along(&frames.reshape((t, from.height, from.width * d))?, to.height, mode)?; // (t, h, Wg H)
    let rows = rows.reshape((t * to.height, from.width, d))?;
    along(&rows, to.width, mode)?.reshape((t, to.height * to.width, d))
}

/// Pools the middle axis to `n` places.
///
/// # Shapes
/// `(b, m, d)` to `(b, n, d)`.
///
/// # Errors
/// When candle fails.
pub fn along(x: &Tensor, n: usize, mode: PoolMode) -> Result<Tensor> {
    let m = x.dim(1)?;
    if m == n {
        return Ok(x.clone());
    }
    let weighted = |weights: Vec<Vec<(usize, f32)>>| {
        let place = |weights: Vec<(usize, f32)>| {
            let mut sum: Option<Tensor> = None;
            for (i, weight) in weights {
                let part = (x.narrow(1, i, 1)?.to_dtype(DType::F32)? * f64::from(weight))?;
                sum = Some(match sum {
                    Some(sum) => (sum + part)?,
                    None => part,
                });
            }
            sum.ok_or_else(|| candle_core::Error::msg("a pool over nothing"))
        };
        let places: Vec<Tensor> = weights.into_iter().map(place).collect::<Result<_>>()?;
        Tensor::cat(&places, 1)?.to_dtype(x.dtype())
    };
    match mode {
        PoolMode::Average => weighted((0..n).map(|i| mean_of(window(m, n, i))).collect()),
        PoolMode::Bilinear => weighted((0..n).map(|i| neighbours(m, n, i)).collect()),
        PoolMode::Max => {
            let place = |i| {
                let Range { start, end } = window(m, n, i);
                x.narrow(1, start, end - start)?.max_keepdim(1)
            };
            Tensor::cat(&(0..n).map(place).collect::<Result<Vec<_>>>()?, 1)
        }
    }
}

/// Window `i` of the adaptive pool of `m` places to `n`: from `floor(i m / n)` to `ceil((i + 1) m / n)`.
pub fn window(m: usize, n: usize, i: usize) -> Range<usize> {
    i * m / n..((i + 1) * m).div_ceil(n)
}

fn mean_of(window: Range<usize>) -> Vec<(usize, f32)> {
    let weight = 1.0 / window.len() as f32;
    window.map(|i| (i, weight)).collect()
}

/// The two places around the middle of output `i`, which lies at `(i + 1/2) m / n - 1/2`, not before the first.
fn neighbours(m: usize, n: usize, i: usize) -> Vec<(usize, f32)> {
    let at = ((i as f64 + 0.5) * m as f64 / n as f64 - 0.5).max(0.0);
    let (low, share) = (at as usize, at.fract() as f32);
    vec![(low, 1.0 - share), ((low + 1).min(m - 1), share)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn pooled(values: &[f32], from: Grid, to: Grid, mode: PoolMode) -> Vec<f32> {
        let frames = Tensor::from_slice(values, (1, from.n_patches(), 1), &Device::Cpu).expect("it fits");
        pool(&frames, from, to, mode).and_then(|x| x.flatten_all()?.to_vec1()).expect("it pools")
    }

    #[test]
    fn windows_are_those_of_the_adaptive_pool() {
        // 5 places to 3: 0..2, 1..4, 3..5 overlap as PyTorch's do.
        assert_eq!([0, 1, 2].map(|i| window(5, 3, i)), [0..2, 1..4, 3..5]);
        assert_eq!([0, 1].map(|i| window(24, 2, i)), [0..12, 12..24]);
    }

    #[test]
    fn a_grid_is_pooled_as_worked_out_by_hand() {
        let grid = |height, width| Grid { height, width };
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]; // 3 rows of 4
        // Rows 0..2 and 1..3, columns 0..2 and 2..4.
        assert_eq!(pooled(&values, grid(3, 4), grid(2, 2), PoolMode::Average), [3.5, 5.5, 7.5, 9.5]);
        assert_eq!(pooled(&values, grid(3, 4), grid(2, 2), PoolMode::Max), [6.0, 8.0, 10.0, 12.0]);
        // Rows at 0.25 and 1.75, columns at 0.5 and 2.5: 1 + 4 row + column.
        assert_eq!(pooled(&values, grid(3, 4), grid(2, 2), PoolMode::Bilinear), [2.5, 4.5, 8.5, 10.5]);
        assert_eq!(pooled(&values, grid(3, 4), grid(3, 4), PoolMode::Max), values);
    }
}
