//! Argmax of each row on a GPU: `argmax.cu`.

use candle_core::{DType, Result, Shape, Tensor};

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
    let n_rows = x.dim(0)?;
    if n_rows == 0 {
        return Ok(Vec::new());
    }
    let ids = executor.empty(Shape::from(n_rows), DType::U32)?;
    argmax_to(executor, x, &ids)?;
    read_indices(&ids)
}

/// Launches the kernel without waiting; [`read_indices`] copies its result.
///
/// # Shapes
/// `x (R, width)`, `ids (R)` in u32.
///
/// # Errors
/// When `x` is not a matrix, `ids` has another length, or the launch fails.
pub(super) fn argmax_to(executor: &dyn Executor, x: &Tensor, ids: &Tensor) -> Result<()> {
    let (n_rows, width) = x.dims2()?;
    if ids.dims() != [n_rows] {
        candle_core::bail!("argmax: {:?} indices for {n_rows} rows", ids.dims());
    }
    let x = x.contiguous()?;
    let geometry = LaunchGeometry { grid: [n_rows, 1, 1], threads: THREADS, shared_bytes: 0 };
    let launch = Launch::new("argmax_rows", x.dtype(), geometry).tensor(&x)?.tensor_of(ids, DType::U32)?;
    launch.size(width)?.run(executor)
}

/// Copies the indices of rows from the device, `None` for rows without a finite maximum.
///
/// # Errors
/// When candle fails.
pub(super) fn read_indices(ids: &Tensor) -> Result<Vec<Option<u32>>> {
    Ok(ids.to_vec1::<u32>()?.into_iter().map(|id| (id != NO_INDEX).then_some(id)).collect())
}
