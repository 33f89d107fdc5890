//! Argmax of each row on a GPU: `argmax.cu`.

use candle_core::{DType, Result, Tensor};

use super::launch::{Executor, Launch, LaunchGeometry};

/// Number of threads of a block, the maximum: a block reads a row, and a vocabulary is larger than a block.
const THREADS: usize = 1024;
/// Index of a row without a finite maximum (`NO_INDEX` of `argmax.cu`).
const NO_INDEX: u32 = u32::MAX;

/// Computes [`crate::kernels::Kernels::argmax_rows`] in one launch; only `R` indices are copied from the device.
///
/// # Shapes
/// `(R, width)` to `R`.
///
/// # Errors
/// When `x` is not a matrix, or the launch fails.
pub(super) fn argmax_rows(executor: &dyn Executor, x: &Tensor) -> Result<Vec<Option<u32>>> {
    let (n_rows, width) = x.dims2()?;
    if n_rows == 0 {
        return Ok(Vec::new());
    }
    let (x, ids) = (x.contiguous()?, executor.empty(n_rows.into(), DType::U32)?);
    let geometry = LaunchGeometry { grid: [n_rows, 1, 1], threads: THREADS, shared_bytes: 0 };
    let launch = Launch::new("argmax_rows", x.dtype(), geometry).tensor(&x)?.tensor_of(&ids, DType::U32)?;
    launch.size(width)?.run(executor)?;
    Ok(ids.to_vec1::<u32>()?.into_iter().map(|id| (id != NO_INDEX).then_some(id)).collect())
}
