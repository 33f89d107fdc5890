//! Epilogue of a linear layer: the operations after its matrix product, which kernels fuse with it.

use candle_core::{Result, Tensor};

use super::{Activation, Kernels};

/// Operations on the rows of a matrix product, applied in the order of the fields.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinearEpilogue<'a> {
    /// Bias `(width)`, added to each row.
    pub bias: Option<&'a Tensor>,
    /// Activation of each element.
    pub activation: Option<Activation>,
    /// Residual of the product's shape, added last.
    pub residual: Option<&'a Tensor>,
}

#[cfg(any(feature = "cuda", test))]
impl LinearEpilogue<'_> {
    /// Returns whether the epilogue is the identity.
    pub(super) fn is_empty(&self) -> bool {
        self.bias.is_none() && self.activation.is_none() && self.residual.is_none()
    }

    /// Returns whether the bias or the residual is tracked for gradients.
    pub(super) fn is_tracked(&self) -> bool {
        [self.bias, self.residual].into_iter().flatten().any(Tensor::track_op)
    }
}

/// Computes [`Kernels::epilogue`] one operation after the other, with gradients.
pub(super) fn by_parts<K: Kernels + ?Sized>(
    kernels: &K,
    product: Tensor,
    epilogue: &LinearEpilogue<'_>,
) -> Result<Tensor> {
    let mut y = product;
    if let Some(bias) = epilogue.bias {
        y = kernels.add_bias(&y, bias)?;
    }
    if let Some(activation) = epilogue.activation {
        y = kernels.activate(&y, activation)?;
    }
    match epilogue.residual {
        Some(residual) => residual + y,
        None => Ok(y),
    }
}
