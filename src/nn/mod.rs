//! The few primitives that towers, projector and language model share, on candle's own. Each can be trained: where an input or a weight
//! is tracked, the gradient is there, and a test compares it with finite differences. What is for inference alone (weights that are
//! packed or in fewer bits, attention that holds no scores) says so, and refuses what is tracked.

pub mod activation;
pub mod attention;
mod blockwise_attention;
mod causal_attention;
mod decode_attention;
mod elementwise;
#[cfg(test)]
pub(crate) mod finite_difference;
mod gemm;
pub mod linear;
pub mod matrices;
mod memory;
pub mod norm;
mod packed;
mod processor;
mod quantized;
mod rows;
pub mod softmax;
mod workers;

pub use activation::Activation;
pub use attention::{Mask, attention, full_attention};
pub use linear::{Linear, matmul};
pub use matrices::{AsRead, Matrices, Quantizing};
pub use norm::{LayerNorm, RmsNorm};
pub use quantized::QuantFormat;
pub use softmax::softmax;
pub use workers::on_workers;
