//! Weights of the norms over the last dimension.

use candle_core::Tensor;

/// Weights of a norm over the last dimension: a layer norm (arXiv 1607.06450) where there is a bias, an RMS norm (arXiv
/// 1910.07467) where there is none.
///
/// Layer norm: `(x - mean) / sqrt(variance + eps) * weight + bias`; RMS norm: `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Debug, Clone)]
pub struct NormWeights {
    /// `(width)`.
    pub weight: Tensor,
    /// `(width)`, of a layer norm.
    pub bias: Option<Tensor>,
    /// Added to the variance.
    pub eps: f64,
}

impl NormWeights {
    /// Whether a weight wants a gradient.
    pub(super) fn is_tracked(&self) -> bool {
        self.weight.track_op() || self.bias.as_ref().is_some_and(Tensor::track_op)
    }
}
