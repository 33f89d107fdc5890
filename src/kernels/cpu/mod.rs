//! Kernels for the CPU in f32: matrix products with packed and quantized weights, attention, and row-wise loops.

pub(crate) mod blockwise_attention;
pub(crate) mod elementwise;
pub(crate) mod gemm;
pub(crate) mod kv_pages;
pub(crate) mod memory;
pub(crate) mod packed;
pub(crate) mod paged_attention;
pub(crate) mod processor;
pub(crate) mod quantized;
pub(crate) mod rows;
pub(crate) mod workers;
