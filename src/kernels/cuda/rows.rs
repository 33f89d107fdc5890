//! Operations on rows of tokens on a GPU: gather, cosine similarity and grid pooling (`rows.cu`).

use candle_core::{DType, Result, Tensor};

use super::launch::{Executor, Launch, LaunchGeometry};
use crate::kernels::{GridPool, PoolMode};

/// Gathers rows of a table by index, without gradients. An index out of range gives a row of NaN.
///
/// # Shapes
/// `table (n, width)` and `ids (R)` in u32 to `(R, width)`.
///
/// # Errors
/// When the shapes do not match, or the launch fails.
pub(super) fn gather(executor: &dyn Executor, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let ((n, width), rows) = (table.dims2()?, ids.dims1()?);
    let (table, ids) = (table.contiguous()?, ids.contiguous()?);
    if n == 0 && rows > 0 {
        candle_core::bail!("gather: {rows} rows of an empty table");
    }
    let y = executor.empty((rows, width).into(), table.dtype())?;
    let geometry = LaunchGeometry::of_shared_rows(rows, width, table.dtype());
    let launch = Launch::new("gather", table.dtype(), geometry).tensor(&y)?.tensor(&table)?;
    launch.tensor_of(&ids, DType::U32)?.size(n)?.size(width)?.run(executor)?;
    Ok(y)
}

/// Computes the cosine similarity of each row of `a` with the same row of `b`, without gradients.
///
/// # Shapes
/// Twice `(R, width)` to `(R)`, f32.
///
/// # Errors
/// When the shapes differ, or the launch fails.
pub(super) fn row_cosines(executor: &dyn Executor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (rows, width) = a.dims2()?;
    if b.dims() != a.dims() {
        candle_core::bail!("cosine similarity: rows {:?} and {:?}", a.dims(), b.dims());
    }
    let (a, b, y) = (a.contiguous()?, b.contiguous()?, executor.empty(rows.into(), DType::F32)?);
    let geometry = LaunchGeometry::of_rows(rows, width, a.dtype());
    let launch = Launch::new("row_cosines", a.dtype(), geometry).tensor_of(&y, DType::F32)?.tensor(&a)?.tensor(&b)?;
    launch.size(width)?.run(executor)?;
    Ok(y)
}

/// Pools each frame's grid, without gradients. The shapes must have passed [`GridPool::check`].
///
/// # Errors
/// When the launch fails.
pub(super) fn pool_grid(executor: &dyn Executor, frames: &Tensor, pool: &GridPool) -> Result<Tensor> {
    let (t, n, width) = frames.dims3()?;
    let ([from_h, from_w], [to_h, to_w]) = (pool.from, pool.to);
    let (frames, stride) = match *frames.stride() {
        [stride, tokens, 1] if tokens == width => (frames.clone(), stride),
        _ => (frames.contiguous()?, n * width),
    };
    let mode = match pool.mode {
        PoolMode::Average => 0,
        PoolMode::Max => 1,
        PoolMode::Bilinear => 2,
    };
    let y = executor.empty((t, to_h * to_w, width).into(), frames.dtype())?;
    let geometry = LaunchGeometry { grid: [to_h * to_w, t, 1], ..LaunchGeometry::of_rows(1, width, frames.dtype()) };
    let launch = Launch::new("pool_grid", frames.dtype(), geometry).tensor(&y)?.rows(&frames)?.size(width)?;
    let launch = launch.size(from_h)?.size(from_w)?.size(to_h)?.size(to_w)?;
    launch.size(stride)?.size(mode)?.run(executor)?;
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kernels;
    use crate::kernels::cuda::tests::{reference, tested};
    use crate::kernels::finite_difference::random;

    #[test]
    fn rows_are_gathered_and_an_index_out_of_range_gives_nan() {
        for tested in tested() {
            for width in [1, 7, 64, 4104] {
                let (table, ids) = (random((5, width), 1), [4u32, 0, 4, 2]);
                let on = |device| Tensor::new(&ids, device).expect("small");
                let found =
                    tested.kernels.gather(&tested.given(&table), &on(&tested.device)).expect("the shapes match");
                let expected =
                    tested.rounded(&table).index_select(&on(&candle_core::Device::Cpu), 0).expect("the shapes match");
                tested.assert_close("gathered rows", &found, &expected);
            }
            let ids = Tensor::new(&[1u32, 5], &tested.device).expect("small");
            let found = tested.kernels.gather(&tested.given(&random((5, 8), 1)), &ids).expect("it runs");
            let found = found.to_dtype(DType::F32).and_then(|x| x.to_vec2::<f32>()).expect("numeric");
            assert!(found[0].iter().all(|x| x.is_finite()) && found[1].iter().all(|x| x.is_nan()));
        }
    }

    #[test]
    fn cosines_agree_with_the_cpu() {
        for tested in tested() {
            for (rows, width) in [(1, 1), (3, 7), (4, 64), (2, 4096)] {
                let zero = Tensor::zeros((1, width), DType::F32, &candle_core::Device::Cpu).expect("small");
                let a = Tensor::cat(&[random((rows, width), 1), zero], 0).expect("equal widths");
                let b = random((rows + 1, width), 2);
                let found = tested.kernels.row_cosines(&tested.given(&a), &tested.given(&b)).expect("equal shapes");
                let expected = reference().row_cosines(&tested.rounded(&a), &tested.rounded(&b)).expect("equal shapes");
                assert_eq!(found.dtype(), DType::F32);
                tested.assert_close("cosines", &found, &expected);
            }
        }
    }

    #[test]
    fn pooled_grids_agree_with_the_cpu() {
        let pools = [([3, 4], [2, 2]), ([5, 5], [3, 2]), ([4, 6], [4, 6]), ([7, 3], [1, 1]), ([6, 2], [6, 1])];
        for tested in tested() {
            for mode in [PoolMode::Average, PoolMode::Max, PoolMode::Bilinear] {
                for ((from, to), width) in pools.into_iter().zip([1, 7, 64, 72, 40]) {
                    let frames = random((3, from[0] * from[1], width), 4);
                    let pool = GridPool { from, to, mode };
                    let found = tested.kernels.pool_grid(&tested.given(&frames), &pool).expect("the shapes match");
                    let expected = reference().pool_grid(&tested.rounded(&frames), &pool).expect("the shapes match");
                    tested.assert_close(&format!("{pool:?}"), &found, &expected);
                }
            }
            // Frames with more tokens than the grid.
            let frames = random((2, 7, 8), 4);
            let pool = GridPool { from: [3, 2], to: [3, 1], mode: PoolMode::Max };
            let part = |x: &Tensor| x.narrow(1, 0, 6).expect("six of seven");
            let found = tested.kernels.pool_grid(&part(&tested.given(&frames)), &pool).expect("the shapes match");
            let expected = reference().pool_grid(&part(&tested.rounded(&frames)), &pool).expect("the shapes match");
            tested.assert_close("part of each frame", &found, &expected);
            assert!(tested.kernels.pool_grid(&tested.given(&frames), &pool).is_err());
        }
    }
}
