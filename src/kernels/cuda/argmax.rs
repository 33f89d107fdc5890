//! The index of the largest element of each row on a GPU: `argmax.cu`.

use candle_core::{DType, Result, Shape, Tensor};

use super::launch::{Executor, Geometry, Launch};

/// Threads of a block, which reads a row: a vocabulary has more elements than a block can have threads.
const THREADS: usize = 1024;
/// Index of a row without a finite largest element (`NO_INDEX` of `argmax.cu`).
const NO_INDEX: u32 = u32::MAX;

/// The index of the largest element of each row, as [`crate::kernels::Kernels::argmax_rows`] defines it. One launch;
/// `R` indices are copied from the device.
///
/// # Shapes
/// `(R, width)`, f32, to `R`.
///
/// # Errors
/// When `x` is no matrix of f32, or as [`Launch::run`].
pub(super) fn argmax_rows(executor: &dyn Executor, x: &Tensor) -> Result<Vec<Option<u32>>> {
    let (n_rows, width) = x.dims2()?;
    if n_rows == 0 {
        return Ok(Vec::new());
    }
    let x = x.contiguous()?;
    let ids = executor.empty(Shape::from(n_rows), DType::U32)?;
    let geometry = Geometry { grid: [n_rows, 1, 1], threads: THREADS, shared_bytes: 0 };
    let launch = Launch::new("argmax_rows_f32", DType::F32, geometry).tensor(&x)?.tensor_of(&ids, DType::U32)?;
    launch.size(width)?.run(executor)?;
    Ok(ids.to_vec1::<u32>()?.into_iter().map(|id| (id != NO_INDEX).then_some(id)).collect())
}
