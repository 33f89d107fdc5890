//! The few primitives that towers, projector and language model share, on candle's own. Each can be trained: where an input or a weight
//! is tracked, the gradient is there, and a test compares it with finite differences. What is for inference alone (weights that are
//! packed or in fewer bits, attention that holds no scores) says so, and refuses what is tracked.

pub mod activation;
pub mod attention;
#[cfg(test)]
pub(crate) mod finite_difference;
pub mod fused;
pub mod linear;
pub mod matrices;
pub mod norm;
pub mod softmax;

pub use crate::kernels::cpu::quantized::QuantFormat;
pub use crate::kernels::cpu::workers::on_workers;
pub use activation::Activation;
pub use attention::{Mask, attention, full_attention};
pub use fused::{Fused, FusedConfig};
pub use linear::{Linear, matmul};
pub use matrices::{AsRead, Matrices, Quantizing};
pub use norm::{LayerNorm, RmsNorm};
pub use softmax::softmax;
