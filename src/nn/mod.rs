//! Layers that towers, projector and language model share: linear layers, norms, and where their weights come from.
//!
//! A layer holds the kernels of the device that its weights were loaded to ([`crate::kernels::of`]) and asks nothing
//! more of it. Each can be trained: where an input or a weight is tracked the gradient is there, and a test compares it
//! with finite differences. Layers of packed and quantized weights are for inference alone, and refuse tracked inputs.

pub mod fused;
pub mod linear;
pub mod linear_loader;
pub mod norm;

#[cfg(test)]
pub(crate) use crate::kernels::finite_difference;
pub use crate::kernels::{Activation, FeedForward, QuantFormat, VisibleKeys};
pub use fused::{Fused, FusedConfig};
pub use linear::Linear;
pub use linear_loader::{FullPrecisionLoader, LinearLoader, Purpose, QuantizingLoader};
pub use norm::{LayerNorm, RmsNorm};
