//! Layers that towers, projector and language model share: linear layers, norms, and the loaders of their weights.
//!
//! A layer stores the kernels of its device ([`crate::kernels::of`]) and is device-neutral otherwise. Layers propagate
//! gradients for tracked inputs and weights, which tests compare with finite differences. Layers with packed or
//! quantized weights are for inference only and reject tracked inputs.

pub mod fused;
pub mod linear;
pub mod linear_loader;
pub mod norm;

#[cfg(test)]
pub(crate) use crate::kernels::finite_difference;
pub use crate::kernels::{Activation, FeedForwardLayers, QuantFormat, VisibleKeys};
pub use fused::{Fused, FusedConfig};
pub use linear::Linear;
pub use linear_loader::{FullPrecisionLoader, LinearLoader, Purpose, QuantizingLoader};
pub use norm::{LayerNorm, RmsNorm};
