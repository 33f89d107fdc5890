//! The few primitives that towers, projector and language model share, on candle's own.

pub mod attention;
pub mod linear;

pub use attention::{Mask, attention};
pub use linear::{Linear, matmul};
