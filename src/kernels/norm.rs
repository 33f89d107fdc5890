//! Weights of layer norm and RMS norm. Implementations are behind [`super::Kernels::norm`].

use candle_core::Tensor;

/// Weights of a norm over the last dimension: a layer norm (arXiv 1607.06450) with a bias, an RMS norm (arXiv
/// 1910.07467) without.
///
/// Layer norm: `(x - mean) / sqrt(variance + eps) * weight + bias`; RMS norm: `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Debug, Clone)]
pub struct NormWeights {
    /// Weight `(width)`.
    pub weight: Tensor,
    /// Bias `(width)` of a layer norm.
    pub bias: Option<Tensor>,
    /// Epsilon, added to the variance or the mean square.
    pub eps: f64,
}

impl NormWeights {
    /// Returns whether a weight is tracked for gradients.
    pub(super) fn is_tracked(&self) -> bool {
        self.weight.track_op() || self.bias.as_ref().is_some_and(Tensor::track_op)
    }
}
