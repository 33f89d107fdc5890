//! Layer norm and RMS norm on a GPU, one launch each: `norm.cu`.

use candle_core::{D, Result, Tensor};

use super::launch::{Executor, Launch, LaunchGeometry};
use crate::kernels::NormWeights;

/// Normalises each row, without gradients.
///
/// # Shapes
/// `(..., width)` to the same.
///
/// # Errors
/// When the width differs from the weights', or the launch fails.
pub(super) fn norm(executor: &dyn Executor, x: &Tensor, weights: &NormWeights) -> Result<Tensor> {
    let NormWeights { weight, bias, eps } = weights;
    let (width, n_weights) = (x.dim(D::Minus1)?, weight.dim(0)?);
    if width == 0 || n_weights != width || bias.as_ref().is_some_and(|bias| bias.dims() != [width]) {
        candle_core::bail!("norm: {n_weights} weights for rows of {width}");
    }
    let x = x.contiguous()?;
    let y = executor.empty_like(&x)?;
    let geometry = LaunchGeometry::of_rows(x.elem_count() / width, width, x.dtype());
    let kernel = if bias.is_some() { "layer_norm" } else { "rms_norm" };
    let launch = Launch::new(kernel, x.dtype(), geometry).tensor(&y)?.tensor(&x)?.tensor(weight)?;
    let launch = if bias.is_some() { launch.optional(bias.as_ref())? } else { launch };
    launch.size(width)?.float(*eps as f32).run(executor)?;
    Ok(y)
}
