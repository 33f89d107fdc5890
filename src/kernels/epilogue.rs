//! The part of a linear layer that follows its matrix product.

use candle_core::{Result, Tensor};

use super::{Activation, Kernels};

/// Operations on the rows of a product, in this order: a bias, an activation, a residual.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinearEpilogue<'a> {
    /// `(width)`, added to each row.
    pub bias: Option<&'a Tensor>,
    /// Of each element.
    pub activation: Option<Activation>,
    /// Of the product's shape, added last.
    pub residual: Option<&'a Tensor>,
}

#[cfg(any(feature = "cuda", test))]
impl LinearEpilogue<'_> {
    /// Whether the epilogue leaves a product as it is.
    pub(super) fn is_empty(&self) -> bool {
        self.bias.is_none() && self.activation.is_none() && self.residual.is_none()
    }

    /// Whether a bias or a residual wants a gradient.
    pub(super) fn is_tracked(&self) -> bool {
        [self.bias, self.residual].into_iter().flatten().any(Tensor::track_op)
    }
}

/// [`Kernels::epilogue`] by one operation after the other, with gradients.
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
