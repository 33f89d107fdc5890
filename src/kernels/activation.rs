//! Names of the activations between linear layers.

/// An activation between two linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(1.702 x)`, CLIP's approximation of GELU.
    QuickGelu,
    /// GELU by the hyperbolic tangent (arXiv 1606.08415).
    GeluTanh,
    /// GELU by the error function.
    Gelu,
}

/// The factor in [`Activation::QuickGelu`].
pub(super) const QUICK: f64 = 1.702;
