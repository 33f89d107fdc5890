//! Linear layers of one row (GEMV) with their epilogue on a GPU, one launch each: `gemv.cu`.

use candle_core::{Result, Shape, Tensor};

use super::elementwise::activation_code;
use super::launch::{Executor, Launch, LaunchGeometry, WARP};
use crate::kernels::LinearEpilogue;

/// Number of threads of a block; each warp computes an output.
const THREADS: usize = 256;

/// Returns whether [`linear`] supports this layer: one row, contiguous weights of its precision, no tracked tensor.
pub(super) fn is_supported(x: &Tensor, weight: &Tensor, epilogue: &LinearEpilogue<'_>) -> bool {
    let is_tracked = x.track_op() || weight.track_op() || epilogue.is_tracked();
    let is_one_row = matches!(x.dims(), [1, k] if *k > 0) && x.is_contiguous();
    !is_tracked && is_one_row && weight.is_contiguous() && x.dtype() == weight.dtype()
}

/// Computes `activation(x W^T + bias) + residual` of one row, rounded once.
///
/// # Shapes
/// `x (1, K)`, `weight (N, K)` to `(1, N)`.
///
/// # Errors
/// When the shapes do not match, or the launch fails.
pub(super) fn linear(
    executor: &dyn Executor,
    x: &Tensor,
    weight: &Tensor,
    epilogue: &LinearEpilogue<'_>,
) -> Result<Tensor> {
    let ((_, k), (n, depth)) = (x.dims2()?, weight.dims2()?);
    let LinearEpilogue { bias, activation, residual } = *epilogue;
    if k != depth || bias.is_some_and(|bias| bias.dims() != [n]) || residual.is_some_and(|r| r.dims() != [1, n]) {
        let dims = |x: Option<&Tensor>| x.map(|x| x.dims().to_vec());
        candle_core::bail!(
            "linear: weight {n} x {depth}, bias {:?} and residual {:?} for a row of {k}",
            dims(bias),
            dims(residual)
        );
    }
    let residual = residual.map(Tensor::contiguous).transpose()?;
    let y = executor.empty(Shape::from((1, n)), x.dtype())?;
    let geometry = LaunchGeometry { grid: [n.div_ceil(THREADS / WARP), 1, 1], threads: THREADS, shared_bytes: 0 };
    let launch = Launch::new("gemv", x.dtype(), geometry).tensor(&y)?.tensor(weight)?.tensor(x)?;
    let launch = launch.optional(bias)?.optional(residual.as_ref())?;
    launch.size(n)?.size(k)?.size(activation_code(activation))?.run(executor)?;
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::tests::{reference, tested};
    use crate::kernels::finite_difference::random;
    use crate::kernels::{Activation, Kernels};

    #[test]
    fn one_row_agrees_with_the_cpu() {
        let activations = [None, Some(Activation::QuickGelu), Some(Activation::GeluTanh), Some(Activation::Gelu)];
        for tested in tested() {
            for (n, k) in [(1, 1), (9, 7), (16, 64), (21, 1160), (3, 4100)] {
                let (x, weight) = (random((1, k), 1), (random((n, k), 2) / (k as f64).sqrt()).expect("small"));
                let (bias, residual) = (random(n, 3), random((1, n), 4));
                for (activation, parts) in activations.into_iter().zip([0b11, 0b01, 0b10, 0b00]) {
                    let run = |kernels: &dyn Kernels, of: &dyn Fn(&Tensor) -> Tensor| {
                        let [x, weight, bias, residual] = [&x, &weight, &bias, &residual].map(of);
                        let (bias, residual) = ((parts & 1 > 0).then_some(&bias), (parts & 2 > 0).then_some(&residual));
                        let epilogue = LinearEpilogue { bias, activation, residual };
                        kernels.linear(&x, &weight, &epilogue).expect("the shapes match")
                    };
                    let found = run(tested.kernels, &|x| tested.given(x));
                    let expected = run(reference(), &|x| tested.rounded(x));
                    tested.assert_close(&format!("{activation:?}, {parts:b} of {n} x {k}"), &found, &expected);
                }
            }
        }
    }

    #[test]
    fn mismatched_sizes_are_rejected() {
        for tested in tested() {
            let [x, weight] = [random((1, 8), 1), random((5, 8), 2)].map(|x| tested.given(&x));
            let [short, bias, residual] =
                [random((1, 7), 1), random(4, 3), random((1, 6), 4)].map(|x| tested.given(&x));
            let plain = LinearEpilogue { bias: None, activation: None, residual: None };
            assert!(tested.kernels.linear(&short, &weight, &plain).is_err());
            for (bias, residual) in [(Some(&bias), None), (None, Some(&residual))] {
                let wrong = LinearEpilogue { bias, activation: None, residual };
                assert!(tested.kernels.linear(&x, &weight, &wrong).is_err());
            }
        }
    }
}
