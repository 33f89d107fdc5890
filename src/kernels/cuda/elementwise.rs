//! Elementwise operations on a GPU, one launch each: epilogues, SwiGLU gates and running sums (`elementwise.cu`).

use candle_core::{D, DType, Result, Tensor};

use super::launch::{Executor, Launch, LaunchGeometry};
use crate::kernels::{Activation, LinearEpilogue};

/// Returns the code of an activation in kernels (`Activation` of `activation.cuh`).
pub(super) fn activation_code(activation: Option<Activation>) -> usize {
    match activation {
        None => 0,
        Some(Activation::QuickGelu) => 1,
        Some(Activation::GeluTanh) => 2,
        Some(Activation::Gelu) => 3,
    }
}

/// Applies an epilogue in place to a product without other owners, without gradients.
///
/// # Shapes
/// `(R, width)` to the same.
///
/// # Errors
/// When the shapes do not match, or the launch fails.
pub(super) fn epilogue(executor: &dyn Executor, product: Tensor, epilogue: &LinearEpilogue<'_>) -> Result<Tensor> {
    let (rows, width) = product.dims2()?;
    let LinearEpilogue { bias, activation, residual } = *epilogue;
    if bias.is_some_and(|bias| bias.dims() != [width]) || residual.is_some_and(|r| r.dims() != [rows, width]) {
        let dims = |x: Option<&Tensor>| x.map(|x| x.dims().to_vec());
        candle_core::bail!(
            "epilogue: bias {:?} and residual {:?} for a product of {rows} x {width}",
            dims(bias),
            dims(residual)
        );
    }
    let (y, residual) = (product.contiguous()?, residual.map(Tensor::contiguous).transpose()?);
    let geometry = LaunchGeometry::of_shared_rows(rows, width, y.dtype());
    let launch =
        Launch::new("epilogue", y.dtype(), geometry).tensor(&y)?.optional(bias)?.optional(residual.as_ref())?;
    launch.size(width)?.size(activation_code(activation))?.run(executor)?;
    Ok(y)
}

/// Computes `silu(gate) up` without gradients. Rows may be views into wider rows.
///
/// # Shapes
/// Twice `(..., width)` to the same.
///
/// # Errors
/// When the shapes differ, or the launch fails.
pub(super) fn swiglu(executor: &dyn Executor, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        candle_core::bail!("swiglu: gate {:?} and up {:?}", gate.dims(), up.dims());
    }
    let ((gate, gate_stride), (up, up_stride)) = (with_row_stride(gate)?, with_row_stride(up)?);
    let (width, y) = (gate.dim(D::Minus1)?, executor.empty_like(&gate)?);
    let geometry = LaunchGeometry::of_shared_rows(gate.elem_count() / width.max(1), width, gate.dtype());
    let launch = Launch::new("swiglu", gate.dtype(), geometry).tensor(&y)?.rows(&gate)?.rows(&up)?;
    launch.size(width)?.size(gate_stride)?.size(up_stride)?.run(executor)?;
    Ok(y)
}

/// Returns a tensor whose rows have a uniform stride, with that stride in elements: `x` itself, or a copy.
fn with_row_stride(x: &Tensor) -> Result<(Tensor, usize)> {
    let (dims, stride) = (x.dims(), x.stride());
    let [.., row_stride, 1] = *stride else { return Ok((x.contiguous()?, x.dim(D::Minus1)?)) };
    let rank = dims.len();
    let is_uniform = (0..rank.saturating_sub(2)).all(|i| dims[i] == 1 || stride[i] == dims[i + 1] * stride[i + 1]);
    if is_uniform { Ok((x.clone(), row_stride)) } else { Ok((x.contiguous()?, x.dim(D::Minus1)?)) }
}

/// Adds `x` in place to a sum without other owners, without gradients.
///
/// # Shapes
/// `sum` in f32 and `x` in any precision, of the same shape.
///
/// # Errors
/// When the shapes differ, or the launch fails.
pub(super) fn accumulate(executor: &dyn Executor, sum: Tensor, x: &Tensor) -> Result<Tensor> {
    if sum.dims() != x.dims() {
        candle_core::bail!("accumulate: {:?} onto {:?}", x.dims(), sum.dims());
    }
    let (sum, x, width) = (sum.contiguous()?, x.contiguous()?, x.dim(D::Minus1)?);
    let geometry = LaunchGeometry::of_shared_rows(x.elem_count() / width.max(1), width, x.dtype());
    let launch = Launch::new("accumulate", x.dtype(), geometry).tensor_of(&sum, DType::F32)?.tensor(&x)?;
    launch.size(width)?.run(executor)?;
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kernels;
    use crate::kernels::cuda::tests::{reference, tested};
    use crate::kernels::finite_difference::random;

    #[test]
    fn epilogues_agree_with_the_cpu() {
        let activations = [None, Some(Activation::QuickGelu), Some(Activation::GeluTanh), Some(Activation::Gelu)];
        for tested in tested() {
            for (rows, width) in [(1, 1), (3, 7), (5, 64), (2, 4304), (1, 20_008)] {
                let x = (random((rows, width), 1) * 3.0).expect("small");
                let (bias, residual) = (random(width, 2), random((rows, width), 3));
                for (activation, parts) in activations.into_iter().zip([0b11, 0b01, 0b10, 0b00]).chain([(None, 0b10)]) {
                    let run = |kernels: &dyn Kernels, of: &dyn Fn(&Tensor) -> Tensor| {
                        let (bias, residual) = (of(&bias), of(&residual));
                        let (bias, residual) = ((parts & 1 > 0).then_some(&bias), (parts & 2 > 0).then_some(&residual));
                        let product = of(&x).copy().expect("memory");
                        kernels
                            .epilogue(product, &LinearEpilogue { bias, activation, residual })
                            .expect("the shapes match")
                    };
                    let found = run(tested.kernels, &|x| tested.given(x));
                    let expected = run(reference(), &|x| tested.rounded(x));
                    tested.assert_close(&format!("{activation:?}, {parts:b} of {rows} x {width}"), &found, &expected);
                }
            }
            let x = tested.given(&random((2, 6), 1));
            for (bias, residual) in [(Some(random(5, 1)), None), (None, Some(random((3, 6), 1)))] {
                let (bias, residual) = (bias.map(|x| tested.given(&x)), residual.map(|x| tested.given(&x)));
                let wrong = LinearEpilogue { bias: bias.as_ref(), activation: None, residual: residual.as_ref() };
                assert!(tested.kernels.epilogue(x.copy().expect("memory"), &wrong).is_err());
            }
        }
    }

    #[test]
    fn joined_and_separate_swiglu_agree_with_the_cpu() {
        for tested in tested() {
            for (rows, width) in [(1, 1), (3, 5), (2, 64), (3, 1100)] {
                let both = (random((1, rows, 2 * width), 1) * 3.0).expect("small");
                let expected = reference().swiglu_joined(&tested.rounded(&both)).expect("an even width");
                let both = tested.given(&both);
                let joined = tested.kernels.swiglu_joined(&both).expect("an even width");
                tested.assert_close("swiglu of joined rows", &joined, &expected);
                let [gate, up] = [0, width].map(|first| both.narrow(2, first, width).expect("half"));
                let separate = [&gate, &up].map(|x| x.contiguous().expect("memory"));
                let found = tested.kernels.swiglu(&separate[0], &separate[1]).expect("equal widths");
                tested.assert_close("swiglu", &found, &expected);
                let transposed =
                    tested.kernels.swiglu(&gate.transpose(0, 1).expect("rank 3"), &up.transpose(0, 1).expect("rank 3"));
                let transposed = transposed.and_then(|y| y.transpose(0, 1)?.contiguous()).expect("equal widths");
                tested.assert_close("swiglu of views", &transposed, &expected);
            }
        }
    }

    #[test]
    fn running_sums_are_accumulated_in_f32() {
        for tested in tested() {
            for shape in [(1, 1, 1), (2, 3, 5), (2, 3, 64), (1, 2, 1152)] {
                let states: Vec<Tensor> = (0..4).map(|seed| random(shape, seed)).collect();
                let mut sum = None;
                let mut expected = Tensor::zeros(shape, DType::F32, &candle_core::Device::Cpu).expect("small");
                for state in &states {
                    expected = (expected + tested.rounded(state)).expect("same shape");
                    sum = Some(tested.kernels.accumulate(sum, &tested.given(state)).expect("same shape"));
                }
                let sum = sum.expect("four states");
                assert_eq!(sum.dtype(), DType::F32);
                // Sums of rounded elements are exact to f32 in every precision.
                let difference =
                    (sum.to_device(&candle_core::Device::Cpu).expect("a copy") - &expected).expect("same shape");
                let largest = difference.abs().and_then(|x| x.flatten_all()?.max(0)?.to_scalar::<f32>()).expect("f32");
                assert!(largest < 1e-6, "{:?}: {largest}", tested.dtype);
                // The sum does not share the memory of the first state.
                tested.assert_close("state", &tested.given(&states[0]), &tested.rounded(&states[0]));
            }
        }
    }
}
