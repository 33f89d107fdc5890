//! Layer norm and RMS norm, for inference and for training.
//!
//! Candle's fused kernels have no gradient and drop it in silence, so they serve only where none is wanted. Where one
//! is, the CPU has kernels of its own with their gradients written out, and other devices use candle's primitives.

use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use crate::kernels::cpu::processor::for_each_processor;
use crate::kernels::cpu::rows::{add_bias, column_sums, contiguous, per_row, per_row_pair};

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension (arXiv 1607.06450).
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Of a weight and a bias, `(width)` each.
    #[cfg(test)]
    pub(crate) fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps }
    }

    /// Reads `weight (width)` and `bias (width)`.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn load(width: usize, eps: f64, vb: &VarBuilder) -> Result<Self> {
        Ok(Self { weight: vb.get(width, "weight")?, bias: vb.get(width, "bias")?, eps })
    }

    /// # Shapes
    /// `(..., width)` to the same.
    ///
    /// # Errors
    /// When the width does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !(x.track_op() || self.weight.track_op()) {
            return candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps as f32);
        }
        if x.device().is_cpu() && x.dtype() == DType::F32 {
            let scaled = x.contiguous()?.apply_op2(&self.weight, Normalise { centre: true, eps: self.eps as f32 })?;
            let rows = scaled.reshape(((), self.bias.dim(0)?))?;
            return add_bias(&rows, &self.bias)?.reshape(x.shape());
        }
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        scale_to_one(&centred, self.eps)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

/// What comes before a linear layer.
#[derive(Debug, Clone, Copy)]
pub enum Norm<'a> {
    /// In a tower.
    Layer(&'a LayerNorm),
    /// In a language model.
    Rms(&'a RmsNorm),
}

impl<'a> From<&'a LayerNorm> for Norm<'a> {
    fn from(norm: &'a LayerNorm) -> Self {
        Self::Layer(norm)
    }
}

impl<'a> From<&'a RmsNorm> for Norm<'a> {
    fn from(norm: &'a RmsNorm) -> Self {
        Self::Rms(norm)
    }
}

impl Norm<'_> {
    pub(crate) fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Layer(norm) => norm.forward(x),
            Self::Rms(norm) => norm.forward(x),
        }
    }

    /// What it does to rows, for a kernel that takes them one by one, in f32 on the CPU.
    pub(crate) fn rows(self) -> Result<NormalisedRows> {
        Ok(match self {
            Self::Layer(LayerNorm { weight, bias, eps }) => {
                NormalisedRows { weight: weight.to_vec1()?, bias: Some(bias.to_vec1()?), eps: *eps as f32 }
            }
            Self::Rms(RmsNorm { weight, eps }) => {
                NormalisedRows { weight: weight.to_vec1()?, bias: None, eps: *eps as f32 }
            }
        })
    }
}

/// [`Norm`] in f32 on the CPU, row by row.
pub(crate) struct NormalisedRows {
    weight: Vec<f32>,
    /// Of a layer norm alone.
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl NormalisedRows {
    /// Refuses rows of another width than its own.
    pub(crate) fn check(&self, width: usize) -> Result<()> {
        let bias = self.bias.as_ref().map_or(width, Vec::len);
        if (self.weight.len(), bias) != (width, width) {
            candle_core::bail!("a norm of {} weights and {bias} biases is not for rows of {width}", self.weight.len());
        }
        Ok(())
    }

    /// Normalises a row of as many numbers as there are weights.
    pub(crate) fn run(&self, x: &[f32], y: &mut [f32]) {
        match &self.bias {
            Some(bias) => layer_norm(x, &self.weight, bias, self.eps, y),
            None => rms_norm(x, &self.weight, self.eps, y),
        }
    }
}

for_each_processor! {
    /// One row of [`LayerNorm`].
    layer_norm, layer_norm_of, (x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32])
}
for_each_processor! {
    /// One row of [`RmsNorm`].
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
fn layer_norm_of(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum_of(x, |x| x) / n;
    let variance = sum_of(x, |x| (x - mean) * (x - mean)) / n;
    let scale = 1.0 / (variance + eps).sqrt();
    for ((y, x), (weight, bias)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
        *y = (x - mean) * scale * weight + bias;
    }
}

/// The sum of `f` over some numbers, in lanes.
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

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension (arXiv 1910.07467).
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Of a weight, `(width)`.
    #[cfg(test)]
    pub(crate) fn new(weight: Tensor, eps: f64) -> Self {
        Self { weight, eps }
    }

    /// Reads `weight (width)`.
    ///
    /// # Errors
    /// When the weight cannot be read.
    pub fn load(width: usize, eps: f64, vb: &VarBuilder) -> Result<Self> {
        Ok(Self { weight: vb.get(width, "weight")?, eps })
    }

    /// # Shapes
    /// `(..., width)` to the same.
    ///
    /// # Errors
    /// When the width does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !(x.track_op() || self.weight.track_op()) {
            return candle_nn::ops::rms_norm(&x.contiguous()?, &self.weight, self.eps as f32);
        }
        if x.device().is_cpu() && x.dtype() == DType::F32 {
            return x.contiguous()?.apply_op2(&self.weight, Normalise { centre: false, eps: self.eps as f32 });
        }
        scale_to_one(x, self.eps)?.broadcast_mul(&self.weight)
    }
}

/// `x / sqrt(mean(x^2) + eps)`.
fn scale_to_one(x: &Tensor, eps: f64) -> Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?)
}

/// Rows brought to variance 1 (about their mean, or about 0), times a weight.
#[derive(Clone, Copy)]
struct Normalise {
    centre: bool,
    eps: f32,
}

impl Normalise {
    /// A row's mean, or 0, and the reciprocal of its deviation.
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

    /// With `h = (x - mean) scale` and `g = dy w`: `dx = scale (g - mean(g) - h mean(g h))`, where the first mean is
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

/// The gradient of [`Normalise`] by `x`, from `x` and `dy w`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::finite_difference::{assert_gradients, random};

    #[test]
    fn layer_norm_has_its_gradients() {
        assert_gradients(&[random((3, 2, 5), 1), random(5, 2), random(5, 3)], |t| {
            LayerNorm { weight: t[1].clone(), bias: t[2].clone(), eps: 1e-5 }.forward(&t[0])
        });
    }

    #[test]
    fn rms_norm_has_its_gradients() {
        assert_gradients(&[random((3, 2, 5), 1), random(5, 2)], |t| {
            RmsNorm { weight: t[1].clone(), eps: 1e-5 }.forward(&t[0])
        });
    }

    #[test]
    fn training_and_inference_give_the_same() {
        let (x, w, b) = (random((4, 7), 1), random(7, 2), random(7, 3));
        let tracked = candle_core::Var::from_tensor(&x).expect("small");
        let layer = LayerNorm { weight: w.clone(), bias: b, eps: 1e-5 };
        let rms = RmsNorm { weight: w, eps: 1e-5 };
        for (a, b) in [
            (layer.forward(&x).expect("fits"), layer.forward(tracked.as_tensor()).expect("fits")),
            (rms.forward(&x).expect("fits"), rms.forward(tracked.as_tensor()).expect("fits")),
        ] {
            let difference = (a - b).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>()).expect("same shape");
            assert!(difference < 1e-5, "{difference}");
        }
    }
}
