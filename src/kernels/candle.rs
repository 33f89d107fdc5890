//! Candle's operations as [`Kernels`]: the fallback for every device and precision without kernels of this crate, and
//! the reference of their tests. Products of quantized weights are in `ggml.rs`.
//!
//! Candle's fused norms and softmax silently drop gradients. They are called for untracked inputs only; tracked inputs
//! take a composition of primitives.

use candle_core::{D, DType, Device, Result, Tensor};

use super::activation::QUICK;
use super::attention::{by_scores, check};
use super::candle_pages::CandlePages;
use super::cpu::kv_pages::CpuPages;
use super::ggml::GgmlLinear;
use super::kv::{KvConfig, KvStore};
use super::{
    Activation, Kernels, Mask, NormWeights, OpThreads, OpWork, PackedLinear, QuantFormat, RowNorm, StoredLinear,
    VisibleKeys,
};

/// Candle's operations.
#[derive(Debug)]
pub(super) struct CandleKernels {
    gemm_precision: GemmPrecision,
    attention: AttentionImpl,
    threads: OpThreads,
}

/// Precision of matrix products.
#[derive(Debug, Clone, Copy)]
enum GemmPrecision {
    /// Precision of the inputs.
    Native,
    /// Computed in f32 and rounded, like a kernel that accumulates in f32: candle has no bf16 GEMM on the CPU.
    F32,
}

/// Implementation of unmasked attention.
#[derive(Debug, Clone, Copy)]
enum AttentionImpl {
    /// Matrix products and a softmax.
    ByScores,
    /// Flash attention (arXiv 2205.14135), in f16 and bf16 on NVIDIA GPUs.
    #[cfg(feature = "flash-attn")]
    Flash,
}

impl CandleKernels {
    pub(super) const CPU: Self =
        Self { gemm_precision: GemmPrecision::Native, attention: AttentionImpl::ByScores, threads: OpThreads::Pool };
    const CPU_BF16: Self = Self { gemm_precision: GemmPrecision::F32, ..Self::CPU };
    pub(super) const GPU: Self = Self { threads: OpThreads::Caller, ..Self::CPU };
    #[cfg(feature = "flash-attn")]
    const GPU_FLASH: Self = Self { attention: AttentionImpl::Flash, ..Self::GPU };

    /// Returns the operations of a device in a precision.
    pub(super) fn of(device: &Device, dtype: DType) -> &'static Self {
        match (device, dtype) {
            (Device::Cpu, DType::BF16) => &Self::CPU_BF16,
            (Device::Cpu, _) => &Self::CPU,
            #[cfg(feature = "flash-attn")]
            (Device::Cuda(_), DType::F16 | DType::BF16) => &Self::GPU_FLASH,
            _ => &Self::GPU,
        }
    }

    /// Returns whether full attention is flash attention.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn has_flash(&self) -> bool {
        !matches!(self.attention, AttentionImpl::ByScores)
    }
}

impl Kernels for CandleKernels {
    fn matmul(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self.gemm_precision {
            GemmPrecision::Native => a.matmul(b),
            GemmPrecision::F32 => a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.to_dtype(a.dtype()),
        }
    }

    fn add_bias(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        x.broadcast_add(bias)
    }

    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        activate(x, activation)
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        gate.silu()? * up
    }

    fn swiglu_joined(&self, gate_and_up: &Tensor) -> Result<Tensor> {
        let (gate, up) = halves(gate_and_up)?;
        self.swiglu(&gate, &up)
    }

    fn norm(&self, x: &Tensor, weights: &NormWeights) -> Result<Tensor> {
        if !x.track_op() && !weights.is_tracked() {
            return fused_norm(x, weights);
        }
        let NormWeights { weight, bias, eps } = weights;
        let Some(bias) = bias else { return rms_normalise(x, *eps)?.broadcast_mul(weight) };
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        rms_normalise(&centred, *eps)?.broadcast_mul(weight)?.broadcast_add(bias)
    }

    fn row_norm(&self, _: &NormWeights) -> Result<Option<RowNorm>> {
        Ok(None)
    }

    fn softmax(&self, x: &Tensor) -> Result<Tensor> {
        let x32 = x.to_dtype(DType::F32)?;
        let y = if x32.track_op() {
            candle_nn::ops::softmax(&x32, D::Minus1)?
        } else {
            candle_nn::ops::softmax_last_dim(&x32)?
        };
        y.to_dtype(x.dtype())
    }

    fn softmax_visible(&self, x: &Tensor, visible: &VisibleKeys) -> Result<Tensor> {
        visible.check(x)?;
        self.softmax(&x.broadcast_add(&visible.bias(x.dim(0)?, x.device())?.to_dtype(x.dtype())?)?)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask<'_>) -> Result<Tensor> {
        check(q, k, v)?;
        match (self.attention, mask) {
            #[cfg(feature = "flash-attn")]
            (AttentionImpl::Flash, Mask::Full) => flash(q, k, v),
            _ => by_scores(self, [q, k, v], mask),
        }
    }

    fn kv_store(&self, config: &KvConfig<'_>) -> Result<Box<dyn KvStore>> {
        // On the CPU `CpuPages` serves every precision: the sums of `CandlePages` depend on the addresses of pages.
        Ok(match config.device {
            Device::Cpu => Box::new(CpuPages::new(config)?),
            device => Box::new(CandlePages::new(config.geometry, config.as_activations()?, device)?),
        })
    }

    fn pack(&self, _: &Tensor, _: Option<&Tensor>) -> Result<Option<PackedLinear>> {
        Ok(None)
    }

    fn quantize(&self, weight: &Tensor, bias: Option<&Tensor>, format: QuantFormat) -> Result<Option<PackedLinear>> {
        let Some(format) = format.fitting(weight.dim(1)?).filter(|_| !weight.track_op()) else { return Ok(None) };
        Ok(Some(GgmlLinear::quantize(weight, bias, format)?.into()))
    }

    fn load_quantized(&self, stored: &StoredLinear<'_>) -> Result<PackedLinear> {
        Ok(GgmlLinear::load(stored)?.into())
    }

    fn threads(&self, _: OpWork) -> OpThreads {
        self.threads
    }
}

/// Applies an activation to each element.
pub(super) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::QuickGelu => x * candle_nn::ops::sigmoid(&(x * QUICK)?)?,
        Activation::GeluTanh => x.gelu(),
        Activation::Gelu => x.gelu_erf(),
    }
}

/// Computes a norm by candle's fused operations, which have no gradient.
pub(super) fn fused_norm(x: &Tensor, weights: &NormWeights) -> Result<Tensor> {
    let (x, eps) = (x.contiguous()?, weights.eps as f32);
    match &weights.bias {
        Some(bias) => candle_nn::ops::layer_norm(&x, &weights.weight, bias, eps),
        None => candle_nn::ops::rms_norm(&x, &weights.weight, eps),
    }
}

/// Computes `x / sqrt(mean(x^2) + eps)`.
fn rms_normalise(x: &Tensor, eps: f64) -> Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?)
}

/// Splits each row in two: `(..., 2 w)` to twice `(..., w)`.
pub(super) fn halves(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let width = x.dim(D::Minus1)?;
    if !width.is_multiple_of(2) {
        candle_core::bail!("swiglu: rows of odd width {width}");
    }
    Ok((x.narrow(D::Minus1, 0, width / 2)?, x.narrow(D::Minus1, width / 2, width / 2)?))
}

#[cfg(feature = "flash-attn")]
fn flash(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let scale = 1.0 / (q.dim(D::Minus1)? as f32).sqrt();
    let (q, k, v) = (q.transpose(1, 2)?, k.transpose(1, 2)?, v.transpose(1, 2)?); // (B, S, n_heads, d)
    candle_flash_attn::flash_attn(&q, &k, &v, scale, false)?.transpose(1, 2)
}
