//! Activations between linear layers. The arithmetic is in `cpu`, in `cuda/activation.cuh` and in `candle`.

use serde::Serialize;

/// An activation between two linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x sigmoid(1.702 x)`, CLIP's approximation of GELU.
    QuickGelu,
    /// GELU in the tanh approximation (arXiv 1606.08415).
    GeluTanh,
    /// GELU, exact: by the error function.
    Gelu,
}

/// Factor of [`Activation::QuickGelu`].
pub(super) const QUICK: f64 = 1.702;
