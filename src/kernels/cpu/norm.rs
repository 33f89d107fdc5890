//! Layer norm (arXiv 1607.06450) and RMS norm (arXiv 1910.07467) in f32 on the CPU: by row, for the packed layers that
//! normalise their input as they read it, and as an operation with an explicit gradient for training.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::processor::for_each_processor;
use super::rows::{add_bias, column_sums, contiguous, per_row, per_row_pair};
use crate::kernels::NormWeights;

/// Norm for kernels that normalise row by row. Clones share the weights.
#[derive(Debug, Clone)]
pub struct RowNorm {
    weight: Arc<[f32]>,
    /// Bias of a layer norm; `None` for an RMS norm.
    bias: Option<Arc<[f32]>>,
    eps: f32,
}

impl RowNorm {
    /// Copies the weights.
    ///
    /// # Errors
    /// Weights that are not vectors in f32.
    pub(super) fn new(weights: &NormWeights) -> Result<Self> {
        let elements = |x: &Tensor| Ok::<Arc<[f32]>, candle_core::Error>(x.to_vec1::<f32>()?.into());
        Ok(Self {
            weight: elements(&weights.weight)?,
            bias: weights.bias.as_ref().map(elements).transpose()?,
            eps: weights.eps as f32,
        })
    }

    /// Refuses rows of another width.
    pub(super) fn check(&self, width: usize) -> Result<()> {
        let bias = self.bias.as_ref().map_or(width, |bias| bias.len());
        if (self.weight.len(), bias) != (width, width) {
            candle_core::bail!("norm: {} weights and {bias} biases for rows of {width}", self.weight.len());
        }
        Ok(())
    }

    /// Normalises a row of as many elements as there are weights.
    pub(super) fn run(&self, x: &[f32], y: &mut [f32]) {
        match &self.bias {
            Some(bias) => layer_norm(x, &LayerNormWeights { weight: &self.weight, bias, eps: self.eps }, y),
            None => rms_norm(x, &self.weight, self.eps, y),
        }
    }
}

/// Weights of a layer norm.
pub(crate) struct LayerNormWeights<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
}

for_each_processor! {
    /// One row of a layer norm.
    layer_norm, layer_norm_of, (x: &[f32], weights: &LayerNormWeights<'_>, y: &mut [f32])
}
for_each_processor! {
    /// One row of an RMS norm.
    rms_norm, rms_norm_of, (x: &[f32], weight: &[f32], eps: f32, y: &mut [f32])
}

#[inline(always)]
fn rms_norm_of(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let scale = 1.0 / (sum_of(x, |x| x * x) / x.len() as f32 + eps).sqrt();
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * weight;
    }
}

#[inline(always)]
fn layer_norm_of(x: &[f32], weights: &LayerNormWeights<'_>, y: &mut [f32]) {
    let LayerNormWeights { weight, bias, eps } = *weights;
    let n = x.len() as f32;
    let mean = sum_of(x, |x| x) / n;
    let variance = sum_of(x, |x| (x - mean) * (x - mean)) / n;
    let scale = 1.0 / (variance + eps).sqrt();
    for ((y, x), (weight, bias)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
        *y = (x - mean) * scale * weight + bias;
    }
}

/// Sums `f` over a row, in lanes.
#[inline(always)]
fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    const LANES: usize = 32;
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in whole {
        sums.iter_mut().zip(chunk).for_each(|(sum, &x)| *sum += f(x));
    }
    sums.iter().sum::<f32>() + rest.iter().map(|&x| f(x)).sum::<f32>()
}

/// Computes a norm with gradients by its input and its weights.
///
/// # Shapes
/// `(..., width)` to the same.
///
/// # Errors
/// Weights of another width than the rows.
pub(super) fn norm_with_gradients(x: &Tensor, weights: &NormWeights) -> Result<Tensor> {
    let NormWeights { weight, bias, eps } = weights;
    let normalise = Normalise { centre: bias.is_some(), eps: *eps as f32 };
    let scaled = x.contiguous()?.apply_op2(weight, normalise)?;
    match bias {
        Some(bias) => add_bias(&scaled.reshape(((), bias.dim(0)?))?, bias)?.reshape(x.shape()),
        None => Ok(scaled),
    }
}

/// Rows scaled to variance 1 about their mean, or about 0, times a weight.
#[derive(Clone, Copy)]
struct Normalise {
    /// Whether the mean is subtracted, as in a layer norm.
    centre: bool,
    eps: f32,
}

impl Normalise {
    /// Returns the mean of a row, or 0, and the reciprocal of its standard deviation.
    fn moments(self, x: &[f32]) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = if self.centre { x.iter().sum::<f32>() / n } else { 0.0 };
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }
}

impl CustomOp2 for Normalise {
    fn name(&self) -> &'static str {
        "normalise"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (contiguous(x, lx)?, contiguous(w, lw)?);
        let y = per_row(x, w.len(), |x, y| {
            let (mean, scale) = self.moments(x);
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = (x - mean) * scale * w;
            }
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    /// With `h = (x - mean) scale` and `g = dy w`: `dx = scale (g - mean(g) - h mean(g h))`, where `mean(g)` is
    /// left out without centring, and `dw` is the sum of `dy h` over the rows.
    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dy, width) = (dy.contiguous()?, w.dim(0)?);
        let dh = dy.broadcast_mul(w)?;
        let dx = x.track_op().then(|| x.apply_op2_no_bwd(&dh, &NormaliseGrad(*self))).transpose()?;
        let dw = w.track_op().then(|| {
            let h = x.apply_op2_no_bwd(&Tensor::ones_like(w)?, self)?;
            column_sums(&(h * &dy)?.reshape(((), width))?)
        });
        Ok((dx, dw.transpose()?))
    }
}

/// Gradient of [`Normalise`] by `x`, from `x` and `dy w`.
struct NormaliseGrad(Normalise);

impl CustomOp2 for NormaliseGrad {
    fn name(&self) -> &'static str {
        "normalise-grad"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, g) = (contiguous(x, lx)?, contiguous(g, lg)?);
        let width = lx.shape().dims().last().copied().unwrap_or(1);
        let dx = per_row_pair(x, g, width, |x, g, dx| {
            let (mean, scale) = self.0.moments(x);
            let n = x.len() as f32;
            let mean_g = if self.0.centre { g.iter().sum::<f32>() / n } else { 0.0 };
            let mean_gh = g.iter().zip(x).map(|(g, x)| g * (x - mean) * scale).sum::<f32>() / n;
            for ((dx, g), x) in dx.iter_mut().zip(g).zip(x) {
                *dx = scale * (g - mean_g - (x - mean) * scale * mean_gh);
            }
        });
        Ok((CpuStorage::F32(dx), lx.shape().clone()))
    }
}
