//! Row-wise loops over contiguous f32 storage on the thread pool, used by the CPU's kernels with gradients.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Number of rows of one job, so that a job outweighs its scheduling.
const ROWS_PER_JOB: usize = 32;

/// Returns the elements of a contiguous f32 tensor.
pub(crate) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| candle_core::Error::msg("kernel: tensor is not contiguous"))?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Makes a buffer of the size of `x` row by row.
pub(crate) fn per_row(x: &[f32], width: usize, run: impl Fn(&[f32], &mut [f32]) + Sync) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let job = ROWS_PER_JOB * width;
    y.par_chunks_mut(job).zip(x.par_chunks(job)).for_each(|(y, x)| {
        y.chunks_exact_mut(width).zip(x.chunks_exact(width)).for_each(|(y, x)| run(x, y));
    });
    y
}

/// Makes a buffer row by row from two buffers of the same size.
pub(crate) fn per_row_pair(
    a: &[f32],
    b: &[f32],
    width: usize,
    run: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let mut y = vec![0.0; a.len()];
    let job = ROWS_PER_JOB * width;
    y.par_chunks_mut(job).zip(a.par_chunks(job)).zip(b.par_chunks(job)).for_each(|((y, a), b)| {
        let rows = y.chunks_exact_mut(width).zip(a.chunks_exact(width)).zip(b.chunks_exact(width));
        rows.for_each(|((y, a), b)| run(a, b, y));
    });
    y
}

/// Computes `x + bias` with a gradient that sums columns by a matrix product: candle's reduction over rows is slow.
///
/// # Shapes
/// `x (R, width)`, `bias (width)` to `(R, width)`.
pub(crate) fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if bias.track_op() {
        return x.contiguous()?.apply_op2(bias, AddBias);
    }
    x.broadcast_add(bias)
}

/// Sums each column.
///
/// # Shapes
/// `(R, width)` to `(width)`.
pub(crate) fn column_sums(x: &Tensor) -> Result<Tensor> {
    Tensor::ones((1, x.dim(0)?), x.dtype(), x.device())?.matmul(x)?.squeeze(0)
}

struct AddBias;

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, bias: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let bias = contiguous(bias, lb)?;
        let y = per_row(contiguous(x, lx)?, bias.len(), |x, y| {
            y.iter_mut().zip(x.iter().zip(bias)).for_each(|(y, (x, bias))| *y = x + bias);
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(dy.clone()), Some(column_sums(dy)?)))
    }
}
