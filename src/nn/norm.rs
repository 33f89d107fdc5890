//! Layer norm and RMS norm layers. The arithmetic is behind [`Kernels::norm`]; packed linear layers apply the norm to
//! their input themselves.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::kernels::{self, Kernels, NormWeights, RowNorm};

/// Norm over the last dimension, of either kind, for fusion with a linear layer.
#[derive(Debug, Clone)]
pub struct Norm {
    weights: NormWeights,
    /// Norm for packed layers; `None` for tracked weights.
    rows: Option<RowNorm>,
    kernels: &'static dyn Kernels,
}

/// Layer norm over the last dimension (arXiv 1607.06450): `(x - mean) / sqrt(variance + eps) * weight + bias`.
#[derive(Debug, Clone)]
pub struct LayerNorm(Norm);

/// RMS norm over the last dimension (arXiv 1910.07467): `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Debug, Clone)]
pub(crate) struct RmsNorm(Norm);

impl Norm {
    fn new(weights: NormWeights) -> Result<Self> {
        let kernels = kernels::of(weights.weight.device(), weights.weight.dtype());
        Ok(Self { rows: kernels.row_norm(&weights)?, weights, kernels })
    }

    /// Normalises each row.
    ///
    /// # Shapes
    /// `(..., width)` to the same.
    ///
    /// # Errors
    /// When the last dimension is not the norm's width.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.kernels.norm(x, &self.weights)
    }

    /// Returns the norm in the form that packed layers apply.
    pub(super) fn rows(&self) -> Option<&RowNorm> {
        self.rows.as_ref()
    }
}

impl LayerNorm {
    /// Creates the layer from a weight and a bias, `(width)` each.
    ///
    /// # Errors
    /// When candle fails.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        Norm::new(NormWeights { weight, bias: Some(bias), eps }).map(Self)
    }

    /// Reads `weight (width)` and `bias (width)`.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn load(width: usize, eps: f64, vb: &VarBuilder) -> Result<Self> {
        Self::new(vb.get(width, "weight")?, vb.get(width, "bias")?, eps)
    }

    /// Normalises each row.
    ///
    /// # Shapes
    /// `(..., width)` to the same.
    ///
    /// # Errors
    /// When the last dimension is not the norm's width.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}

impl RmsNorm {
    /// Creates the layer from a weight `(width)`.
    ///
    /// # Errors
    /// When candle fails.
    pub(crate) fn new(weight: Tensor, eps: f64) -> Result<Self> {
        Norm::new(NormWeights { weight, bias: None, eps }).map(Self)
    }

    /// Reads `weight (width)`.
    ///
    /// # Errors
    /// When the weight cannot be read.
    pub(crate) fn load(width: usize, eps: f64, vb: &VarBuilder) -> Result<Self> {
        Self::new(vb.get(width, "weight")?, eps)
    }

    /// Normalises each row.
    ///
    /// # Shapes
    /// `(..., width)` to the same.
    ///
    /// # Errors
    /// When the last dimension is not the norm's width.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}

impl AsRef<Norm> for LayerNorm {
    fn as_ref(&self) -> &Norm {
        &self.0
    }
}

impl AsRef<Norm> for RmsNorm {
    fn as_ref(&self) -> &Norm {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::finite_difference::{assert_gradients, random};

    #[test]
    fn layer_norm_has_its_gradients() {
        assert_gradients(&[random((3, 2, 5), 1), random(5, 2), random(5, 3)], |t| {
            LayerNorm::new(t[1].clone(), t[2].clone(), 1e-5)?.forward(&t[0])
        });
    }

    #[test]
    fn rms_norm_has_its_gradients() {
        assert_gradients(&[random((3, 2, 5), 1), random(5, 2)], |t| RmsNorm::new(t[1].clone(), 1e-5)?.forward(&t[0]));
    }

    #[test]
    fn a_tracked_bias_alone_has_its_gradient() {
        let (x, weight) = (random((3, 5), 1), random(5, 2));
        assert_gradients(&[random(5, 3)], |t| LayerNorm::new(weight.clone(), t[0].clone(), 1e-5)?.forward(&x));
    }

    #[test]
    fn training_and_inference_agree() {
        let (x, w, b) = (random((4, 7), 1), random(7, 2), random(7, 3));
        let tracked = candle_core::Var::from_tensor(&x).expect("small");
        let layer = LayerNorm::new(w.clone(), b, 1e-5).expect("f32");
        let rms = RmsNorm::new(w, 1e-5).expect("f32");
        for (a, b) in [
            (layer.forward(&x).expect("fits"), layer.forward(tracked.as_tensor()).expect("fits")),
            (rms.forward(&x).expect("fits"), rms.forward(tracked.as_tensor()).expect("fits")),
        ] {
            let difference = (a - b).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>()).expect("same shape");
            assert!(difference < 1e-5, "{difference}");
        }
    }

    #[test]
    fn tracked_and_half_precision_weights_have_no_packed_norm() {
        let norm = RmsNorm::new(random(7, 2), 1e-5).expect("f32");
        assert!(norm.as_ref().rows().is_some());
        let var = candle_core::Var::from_tensor(&random(7, 2)).expect("small");
        assert!(RmsNorm::new(var.as_tensor().clone(), 1e-5).expect("f32").as_ref().rows().is_none());
        let half = random(7, 2).to_dtype(candle_core::DType::BF16).expect("numeric");
        assert!(RmsNorm::new(half, 1e-5).expect("bf16").as_ref().rows().is_none());
    }
}
