//! Layers that towers, projector and language model share: linear layers, norms, and the loaders of their weights.
//!
//! A layer stores the kernels of its device ([`crate::kernels::of`]) and is device-neutral otherwise. Layers propagate
//! gradients for tracked inputs and weights, which tests compare with finite differences. Layers with packed or
//! quantized weights are for inference only and reject tracked inputs.

mod fused;
pub(crate) mod linear;
mod linear_loader;
mod norm;

#[cfg(test)]
pub(crate) use crate::kernels::finite_difference;
pub use crate::kernels::{Activation, FeedForwardLayers, QuantFormat, VisibleKeys};
pub(crate) use fused::{Fused, FusedConfig};
pub use linear::{Linear, feed_forward};
pub(crate) use linear_loader::FullPrecisionLoader;
pub use linear_loader::{LinearLoader, Purpose, QuantizingLoader};
pub use norm::LayerNorm;
pub(crate) use norm::RmsNorm;
