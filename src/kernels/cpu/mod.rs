//! Kernels for f32 on the CPU: matrix products with packed and quantized weights, attention, norms, softmax and
//! activations. Called through [`Kernels`], which is chosen once when a model is loaded.
//!
//! Inference-only kernels (packed and quantized weights, attention without stored scores) refuse tracked inputs, or
//! leave them to candle's operations. Candle's operation is used wherever it is as fast.

pub(crate) mod activation;
pub(crate) mod blockwise_attention;
pub(crate) mod elementwise;
pub(crate) mod gemm;
mod half_precision;
mod kv_layout;
pub(crate) mod kv_pages;
pub(crate) mod memory;
pub(crate) mod norm;
pub(crate) mod packed;
pub(crate) mod paged_attention;
pub(crate) mod processor;
pub(crate) mod quantized;
pub(crate) mod rows;
pub(crate) mod softmax;
pub(crate) mod workers;

use std::sync::OnceLock;

use candle_core::{Result, Storage, Tensor};
use rayon::prelude::*;

use super::attention::{check_full, full_by_heads};
use super::candle::{self, CandleKernels};
use super::kv::{KvConfig, KvStore};
use super::top_k::argmax;
use super::{
    Activation, Kernels, NormWeights, OpThreads, OpWork, PackedLinear, QuantFormat, RowNorm, StoredLinear, VisibleKeys,
};
use blockwise_attention::FullAttention;
use gemm::PackedMatrix;
use kv_pages::CpuPages;
use packed::{CpuLinear, WeightMatrix};
use quantized::QuantizedMatrix;

/// Number of logits below which other threads are not worth waking.
const PARALLEL: usize = 1 << 17;

/// Kernels of one processor.
#[derive(Debug)]
pub(crate) struct Cpu {
    gemm: &'static gemm::GemmKernel,
    quantized: &'static quantized::QuantKernel,
}

impl Cpu {
    /// Returns the fastest kernels that this processor supports.
    pub(super) fn best() -> &'static Self {
        static BEST: OnceLock<Cpu> = OnceLock::new();
        BEST.get_or_init(|| Self { gemm: gemm::kernel(), quantized: quantized::kernel() })
    }

    /// Returns the scalar kernels, which run on every processor.
    #[cfg(test)]
    pub(super) fn portable() -> &'static Self {
        static PORTABLE: OnceLock<Cpu> = OnceLock::new();
        PORTABLE.get_or_init(|| Self {
            gemm: Box::leak(Box::new(gemm::GemmKernel::portable())),
            quantized: Box::leak(Box::new(quantized::QuantKernel::portable())),
        })
    }

    /// Returns whether f32 weights are packed for this crate's GEMM: on x86-64 with AVX2 and FMA, or AVX-512.
    /// Elsewhere, as on ARM and Apple's processors, candle's GEMM is faster than the portable loop. Quantized weights
    /// use this crate's GEMM on every processor: candle multiplies by them row by row.
    fn packs_f32(&self) -> bool {
        !self.gemm.is_portable()
    }
}

impl Kernels for Cpu {
    fn matmul(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        a.matmul(b)
    }

    fn add_bias(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        rows::add_bias(x, bias)
    }

    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match activation {
            Activation::QuickGelu if x.track_op() => activation::quick_gelu_with_gradient(x),
            _ => CandleKernels::CPU.activate(x, activation),
        }
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        activation::swiglu(gate, up)
    }

    fn swiglu_joined(&self, gate_and_up: &Tensor) -> Result<Tensor> {
        if gate_and_up.track_op() {
            let (gate, up) = candle::halves(gate_and_up)?;
            return activation::swiglu(&gate, &up);
        }
        activation::swiglu_joined(gate_and_up)
    }

    fn norm(&self, x: &Tensor, weights: &NormWeights) -> Result<Tensor> {
        if x.track_op() || weights.is_tracked() {
            return norm::norm_with_gradients(x, weights);
        }
        candle::fused_norm(x, weights)
    }

    fn row_norm(&self, weights: &NormWeights) -> Result<Option<RowNorm>> {
        if weights.is_tracked() { Ok(None) } else { RowNorm::new(weights).map(Some) }
    }

    fn softmax(&self, x: &Tensor) -> Result<Tensor> {
        if x.track_op() { softmax::softmax_with_gradient(x) } else { candle_nn::ops::softmax_last_dim(x) }
    }

    fn softmax_visible(&self, x: &Tensor, visible: &VisibleKeys) -> Result<Tensor> {
        visible.check(x)?;
        softmax::softmax_visible(x, visible)
    }

    fn full_attention(&self, qkv: &[Tensor; 3], n_heads: usize) -> Result<Tensor> {
        check_full(qkv, n_heads)?;
        let [q, k, v] = qkv;
        if self.packs_f32() && !qkv.iter().any(Tensor::track_op) {
            return q.apply_op3_no_bwd(k, v, &FullAttention { n_heads, kernel: self.gemm });
        }
        full_by_heads(self, qkv, n_heads)
    }

    fn kv_store(&self, config: &KvConfig<'_>) -> Result<Box<dyn KvStore>> {
        Ok(Box::new(CpuPages::new(config)?))
    }

    fn pack(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<PackedLinear>> {
        if !self.packs_f32() || weight.track_op() {
            return Ok(None);
        }
        let pack = |weight: &[f32], depth| Ok(WeightMatrix::Full(PackedMatrix::transpose_of(weight, depth, self.gemm)));
        Ok(Some(pack_layer(weight, bias, pack)?.into()))
    }

    fn quantize(&self, weight: &Tensor, bias: Option<&Tensor>, format: QuantFormat) -> Result<Option<PackedLinear>> {
        let Some(format) = format.fitting(weight.dim(1)?).filter(|_| !weight.track_op()) else { return Ok(None) };
        let quantize = |weight: &[f32], depth| {
            QuantizedMatrix::quantize(weight, depth, format, self.quantized).map(WeightMatrix::Quantized)
        };
        Ok(Some(pack_layer(weight, bias, quantize)?.into()))
    }

    fn load_quantized(&self, stored: &StoredLinear<'_>) -> Result<PackedLinear> {
        let &StoredLinear { weight, format, row, ref bias, .. } = stored;
        let matrix = QuantizedMatrix::from_candle(weight, format, row, self.quantized)?;
        Ok(CpuLinear::new(WeightMatrix::Quantized(matrix), bias.as_ref().map(Tensor::to_vec1).transpose()?).into())
    }

    fn argmax_rows(&self, x: &Tensor) -> Result<Vec<Option<u32>>> {
        let (_, width) = x.dims2()?;
        let x = x.contiguous()?;
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("argmax: rows on another device than the CPU")
        };
        let (x, width) = (rows::contiguous(storage, layout)?, width.max(1));
        if x.len() < PARALLEL {
            return Ok(x.chunks_exact(width).map(argmax).collect());
        }
        Ok(x.par_chunks_exact(width).map(argmax).collect())
    }

    fn threads(&self, work: OpWork) -> OpThreads {
        let is_small = gemm::is_small(work.product) && paged_attention::is_small(work.attention);
        if is_small { OpThreads::Caller } else { OpThreads::Pool }
    }
}

/// Makes a layer of the matrix that `pack` makes from the weight's rows and their length.
fn pack_layer(
    weight: &Tensor,
    bias: Option<&Tensor>,
    pack: impl FnOnce(&[f32], usize) -> Result<WeightMatrix>,
) -> Result<CpuLinear> {
    let (weight, depth) = (weight.contiguous()?, weight.dim(1)?);
    let (storage, layout) = weight.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("linear: weights on another device than the CPU") };
    let matrix = pack(rows::contiguous(storage, layout)?, depth)?;
    Ok(CpuLinear::new(matrix, bias.map(Tensor::to_vec1).transpose()?))
}
