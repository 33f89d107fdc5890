//! The `k` largest elements of each row on a GPU: `top_k.cu`.

use candle_core::{DType, Result, Tensor};

use super::launch::{Executor, Launch, LaunchGeometry};
use crate::kernels::TopK;
use crate::kernels::top_k::{MAX_TOP_K, of_rows};

/// Number of threads of a block: half of the keys that `top_k.cu` sorts (`CAPACITY`).
const THREADS: usize = MAX_TOP_K;

/// Computes [`crate::kernels::Kernels::top_k_rows`] in one launch, up to [`MAX_TOP_K`] elements of a row, and copies
/// only those elements from the device; computes more on the host.
///
/// # Shapes
/// `(R, width)` to `R` times `min(k, width)` elements in f32.
///
/// # Errors
/// When `x` is not a matrix, or the launch fails.
pub(super) fn top_k_rows(executor: &dyn Executor, x: &Tensor, k: usize) -> Result<Vec<Option<TopK>>> {
    let (n_rows, width) = x.dims2()?;
    let k = k.clamp(1, width.max(1));
    if k > MAX_TOP_K || width == 0 || n_rows == 0 {
        return of_rows(x, k);
    }
    let (x, top) = (x.contiguous()?, executor.empty((n_rows, 2, k).into(), DType::U32)?);
    let geometry = LaunchGeometry { grid: [n_rows, 1, 1], threads: THREADS, shared_bytes: 0 };
    let launch = Launch::new("top_k_rows", x.dtype(), geometry).tensor(&x)?.tensor_of(&top, DType::U32)?;
    launch.size(width)?.size(k)?.run(executor)?;
    let row = |row: &[u32]| {
        let (ids, values) = row.split_at(k);
        let values: Vec<f32> = values.iter().copied().map(f32::from_bits).collect();
        // A NaN is the first.
        values[0].is_finite().then(|| TopK { ids: ids.to_vec(), values })
    };
    Ok(top.flatten_all()?.to_vec1::<u32>()?.chunks_exact(2 * k).map(row).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::kernels::cuda::tests::{Tested, tested};
    use crate::kernels::finite_difference::random;
    use crate::kernels::{self, Kernels};

    /// Asserts that rows give the elements that they give on the CPU.
    fn assert_equal(tested: &Tested, what: &str, x: &Tensor, ks: &[usize]) {
        let cpu = kernels::of(&Device::Cpu, DType::F32);
        for &k in ks {
            let expected = cpu.top_k_rows(&tested.rounded(x), k).expect("a matrix");
            let found = tested.kernels.top_k_rows(&tested.given(x), k).expect("a matrix");
            assert_eq!(found, expected, "{k} of {what} in {:?} on {:?}", tested.dtype, tested.device);
        }
    }

    #[test]
    fn the_largest_elements_of_each_row_are_found_as_on_the_cpu() {
        for tested in tested() {
            for width in [1, 31, 1025, 5000] {
                assert_equal(&tested, "random rows", &random((3, width), 1), &[1, 2, 50, 1024, 1025]);
            }
            // Many equal elements: rounded to eighths.
            let eighths = (random((2, 6000), 2) * 8.0).and_then(|x| x.round()? / 8.0).expect("numeric");
            assert_equal(&tested, "equal elements", &eighths, &[1, 20, 700]);
            // Rows at a stride, and at least one element.
            let wide = tested.given(&random((3, 90), 5));
            let columns = wide.narrow(1, 7, 40).expect("columns");
            let whole = columns.contiguous().expect("memory");
            let top = |x: &Tensor, k| tested.kernels.top_k_rows(x, k).expect("a matrix");
            assert_eq!(top(&columns, 9), top(&whole, 9));
            assert_eq!(top(&whole, 0), top(&whole, 1));
            let x = Tensor::zeros((0, 4), DType::F32, &tested.device).expect("empty");
            assert_eq!(tested.kernels.top_k_rows(&x, 3).expect("rows"), []);
            let x = Tensor::zeros((1, 4), DType::U32, &tested.device).expect("small");
            assert!(tested.kernels.top_k_rows(&x, 3).is_err());
        }
    }

    #[test]
    fn large_elements_that_one_thread_reads_exceed_the_capacity_and_are_found() {
        // The largest elements are at multiples of the number of threads and one after: in ascending, descending and
        // random order.
        let width = 1500 * THREADS;
        for order in [|i: usize| i as f32, |i: usize| -(i as f32), |i: usize| (i * 7919 % 3001) as f32] {
            let row: Vec<f32> = (0..width)
                .map(|i| if i % THREADS < 2 { 4000.0 + order(2 * (i / THREADS) + i % THREADS) } else { 0.0 })
                .collect();
            let x = Tensor::from_vec(row, (1, width), &Device::Cpu).expect("a row");
            for tested in tested().iter().filter(|tested| tested.dtype == DType::F32) {
                assert_equal(tested, "elements of two threads", &x, &[3, 40, 1024]);
            }
        }
    }

    #[test]
    fn rows_with_nan_and_infinities_have_no_largest_elements() {
        for tested in tested() {
            let width = 1100;
            let row = |at: usize, bad: f32| {
                let mut row: Vec<f32> = (0..width).map(|i| -1.0 - (i % 7) as f32).collect();
                row[at] = bad;
                row
            };
            let rows = vec![
                row(0, f32::NAN),
                row(1099, -f32::NAN),
                row(700, f32::INFINITY),
                row(3, f32::NEG_INFINITY),
                row(5, -0.0),
                vec![f32::NEG_INFINITY; width],
            ];
            let x = Tensor::new(rows, &Device::Cpu).expect("a matrix");
            assert_equal(&tested, "rows that are not finite", &x, &[1, 3]);
        }
    }
}
