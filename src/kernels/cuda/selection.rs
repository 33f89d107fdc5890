//! Indices of the largest elements of a vector on a GPU: `selection.cu`.

use candle_core::{DType, Result, Tensor};

use super::launch::{Executor, Launch, LaunchGeometry};

/// Number of threads of the only block, the maximum.
const THREADS: usize = 1024;

/// Computes [`crate::kernels::Kernels::largest_indices`] in one launch; the indices stay on the device.
///
/// # Shapes
/// `(n)` in f32 to `(min(k, n))` in u32.
///
/// # Errors
/// When `x` is not a vector in f32, or the launch fails.
pub(super) fn largest_indices(executor: &dyn Executor, x: &Tensor, k: usize) -> Result<Tensor> {
    let n = x.dims1()?;
    let k = k.min(n);
    let (x, ids) = (x.contiguous()?, executor.empty(k.into(), DType::U32)?);
    let geometry = LaunchGeometry { grid: [k.min(1), 1, 1], threads: THREADS, shared_bytes: 0 };
    let launch = Launch::new("largest_indices", DType::F32, geometry).tensor(&x)?.tensor_of(&ids, DType::U32)?;
    launch.size(n)?.size(k)?.run(executor)?;
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use crate::kernels::Kernels;
    use crate::kernels::cuda::tests::{reference, tested};
    use crate::kernels::finite_difference::random;

    use super::*;

    #[test]
    fn the_largest_elements_of_a_vector_are_those_of_the_cpu() {
        let halves = |n: usize| (random(n, 3) * 2.0).and_then(|x| x.round()? / 2.0).expect("numeric");
        let mut special: Vec<f32> = (0..3000).map(|i| (i * 7919 % 3001) as f32 - 1500.0).collect();
        special[2..7].copy_from_slice(&[f32::INFINITY, f32::NAN, f32::NEG_INFINITY, -f32::NAN, -0.0]);
        let special = Tensor::new(special, &Device::Cpu).expect("a vector");
        let vectors = [random(1, 1), random(31, 2), random(5000, 3), halves(1024), halves(4097), special];
        for tested in tested().iter().filter(|tested| tested.dtype == DType::F32) {
            for x in &vectors {
                let n = x.elem_count();
                for k in [0, 1, 2, n / 4, n / 2, n - 1, n, n + 1] {
                    let expected = reference().largest_indices(x, k).expect("a vector");
                    let found = tested.kernels.largest_indices(&tested.given(x), k).expect("a vector");
                    let ids = |ids: Tensor| ids.to_vec1::<u32>().expect("u32");
                    assert_eq!(ids(found), ids(expected), "{k} of {n} on {:?}", tested.device);
                }
            }
            let every_third = tested.given(&random((40, 3), 4)).narrow(1, 1, 1).and_then(|x| x.squeeze(1));
            let every_third = every_third.expect("a column");
            let ids = |x: &Tensor| tested.kernels.largest_indices(x, 11).and_then(|ids| ids.to_vec1::<u32>());
            let whole = every_third.contiguous().expect("memory");
            assert_eq!(ids(&every_third).expect("a vector"), ids(&whole).expect("a vector"));
            let x = Tensor::zeros(3, DType::U32, &tested.device).expect("small");
            assert!(tested.kernels.largest_indices(&x, 2).is_err());
        }
    }
}
