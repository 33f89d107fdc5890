//! Kernels for NVIDIA GPUs in f32, f16 and bf16, for inference. Operations without a kernel of this crate, and
//! operations on tracked tensors, run on candle's kernels.
//!
//! A family of kernels is a `.cu` file and a Rust file of the same name: the Rust side checks shapes and computes the
//! geometry of a [`launch::Launch`], which `device` executes on the GPU's stream and `emulation` on the CPU. Tests of
//! arithmetic and geometry need neither a GPU nor nvcc.

mod argmax;
mod attention;
mod decode_graph;
#[cfg(feature = "cuda")]
mod device;
mod elementwise;
#[cfg(test)]
pub(crate) mod emulation;
mod gemv;
#[cfg(feature = "cuda")]
mod graph;
mod kernel_list;
pub(crate) mod launch;
mod norm;
mod paged_decode;
mod paged_prefill;
mod pages;
#[cfg(test)]
mod pages_tests;
pub(crate) mod recording;
mod resize;
mod rows;
mod selection;
pub(crate) mod softmax;
mod step_capacity;
mod step_plan;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tiled_attention;
mod top_k;

use candle_core::{DType, Device, Result, Tensor};

use super::candle::{self, CandleKernels};
use super::frames::DeviceFramePlan;
use super::kv::{KvConfig, KvStore};
use super::{
    Activation, GridPool, Kernels, LinearEpilogue, Mask, NormWeights, OpThreads, OpWork, PackedLinear, QuantFormat,
    RowNorm, StoredLinear, TopK, VisibleKeys,
};
use kernel_list::ELEMENTS;
use launch::Executor;
use pages::CudaPages;

/// Kernels of a GPU in a precision.
#[derive(Debug)]
pub(crate) struct CudaKernels {
    executor: &'static dyn Executor,
    dtype: DType,
    /// Fallback for operations without a kernel and for tracked tensors.
    candle: &'static CandleKernels,
}

impl CudaKernels {
    /// Returns the kernels of a GPU, created once per GPU and precision; `None` for a precision without kernels.
    #[cfg(feature = "cuda")]
    pub(super) fn of(device: &candle_core::CudaDevice, dtype: DType) -> Option<&'static Self> {
        use std::collections::HashMap;
        use std::sync::{Mutex, PoisonError};

        use candle_core::cuda_backend::DeviceId;

        type Created = HashMap<DeviceId, (&'static device::GpuExecutor, HashMap<DType, &'static CudaKernels>)>;
        static CREATED: Mutex<Option<Created>> = Mutex::new(None);
        if ELEMENTS.iter().all(|(element, _)| *element != dtype) {
            return None;
        }
        let mut created = CREATED.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || (&*Box::leak(Box::new(device::GpuExecutor::new(device))), HashMap::new());
        let (executor, kernels) = created.get_or_insert_default().entry(device.id()).or_insert_with(new);
        let executor: &'static device::GpuExecutor = executor;
        let new = || {
            let candle = CandleKernels::of(&Device::Cuda(device.clone()), dtype);
            &*Box::leak(Box::new(Self { executor, dtype, candle }))
        };
        Some(kernels.entry(dtype).or_insert_with(new))
    }

    /// Returns the emulated kernels; `None` where they cannot be compiled, or for a precision without kernels.
    #[cfg(test)]
    pub(super) fn emulated(dtype: DType) -> Option<&'static Self> {
        use std::sync::OnceLock;

        static EMULATED: OnceLock<Option<[CudaKernels; 3]>> = OnceLock::new();
        let create = || {
            let executor = emulation::emulator()?;
            Some(ELEMENTS.map(|(dtype, _)| Self { executor, dtype, candle: CandleKernels::of(&Device::Cpu, dtype) }))
        };
        let index = ELEMENTS.iter().position(|(element, _)| *element == dtype)?;
        EMULATED.get_or_init(create).as_ref().map(|kernels| &kernels[index])
    }
}

impl Kernels for CudaKernels {
    fn matmul(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        if recording::is_recording() {
            return recording::gemm(self.executor, a, b);
        }
        self.candle.matmul(a, b)
    }

    fn linear(&self, x: &Tensor, weight: &Tensor, epilogue: &LinearEpilogue<'_>) -> Result<Tensor> {
        if gemv::is_supported(x, weight, epilogue) {
            return gemv::linear(self.executor, x, weight, epilogue);
        }
        self.epilogue(self.matmul(x, &weight.t()?)?, epilogue)
    }

    fn add_bias(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        self.candle.add_bias(x, bias)
    }

    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.candle.activate(x, activation)
    }

    fn epilogue(&self, product: Tensor, epilogue: &LinearEpilogue<'_>) -> Result<Tensor> {
        if product.track_op() || epilogue.is_tracked() {
            recording::reject("an operation with gradients")?;
            return self.candle.epilogue(product, epilogue);
        }
        if epilogue.is_empty() { Ok(product) } else { elementwise::epilogue(self.executor, product, epilogue) }
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        if gate.track_op() || up.track_op() {
            recording::reject("an operation with gradients")?;
            return self.candle.swiglu(gate, up);
        }
        elementwise::swiglu(self.executor, gate, up)
    }

    fn swiglu_joined(&self, gate_and_up: &Tensor) -> Result<Tensor> {
        let (gate, up) = candle::halves(gate_and_up)?;
        self.swiglu(&gate, &up)
    }

    fn accumulate(&self, sum: Option<Tensor>, x: &Tensor) -> Result<Tensor> {
        match sum {
            Some(sum) if !sum.track_op() && !x.track_op() => elementwise::accumulate(self.executor, sum, x),
            // A copy: in f32 the conversion would return `x` itself, and later sums would overwrite it.
            None if !x.track_op() && x.dtype() == DType::F32 => x.copy(),
            sum => self.candle.accumulate(sum, x),
        }
    }

    fn gather(&self, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
        if table.track_op() {
            recording::reject("an operation with gradients")?;
            return self.candle.gather(table, ids);
        }
        rows::gather(self.executor, table, ids)
    }

    fn row_cosines(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        if a.track_op() || b.track_op() {
            return self.candle.row_cosines(a, b);
        }
        rows::row_cosines(self.executor, a, b)
    }

    fn pool_grid(&self, frames: &Tensor, pool: &GridPool) -> Result<Tensor> {
        if frames.track_op() {
            return self.candle.pool_grid(frames, pool);
        }
        pool.check(frames)?;
        rows::pool_grid(self.executor, frames, pool)
    }

    fn norm(&self, x: &Tensor, weights: &NormWeights) -> Result<Tensor> {
        if x.track_op() || weights.is_tracked() {
            recording::reject("an operation with gradients")?;
            return self.candle.norm(x, weights);
        }
        norm::norm(self.executor, x, weights)
    }

    fn row_norm(&self, weights: &NormWeights) -> Result<Option<RowNorm>> {
        self.candle.row_norm(weights)
    }

    fn softmax(&self, x: &Tensor) -> Result<Tensor> {
        self.candle.softmax(x)
    }

    fn softmax_visible(&self, x: &Tensor, visible: &VisibleKeys) -> Result<Tensor> {
        self.candle.softmax_visible(x, visible)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask<'_>) -> Result<Tensor> {
        if [q, k, v].into_iter().any(Tensor::track_op) {
            return self.candle.attention(q, k, v, mask);
        }
        attention::attention(self, [q, k, v], mask)
    }

    fn full_attention(&self, qkv: &[Tensor; 3], n_heads: usize) -> Result<Tensor> {
        if qkv.iter().any(Tensor::track_op) || self.candle.has_flash() {
            return self.candle.full_attention(qkv, n_heads);
        }
        attention::full_attention(self, qkv, n_heads)
    }

    fn kv_store(&self, config: &KvConfig<'_>) -> Result<Box<dyn KvStore>> {
        if !CudaPages::is_supported(&config.geometry) {
            return self.candle.kv_store(config);
        }
        Ok(Box::new(CudaPages::new(config, self.executor, self.candle)?))
    }

    fn pack(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<PackedLinear>> {
        self.candle.pack(weight, bias)
    }

    fn quantize(&self, weight: &Tensor, bias: Option<&Tensor>, format: QuantFormat) -> Result<Option<PackedLinear>> {
        self.candle.quantize(weight, bias, format)
    }

    fn load_quantized(&self, stored: &StoredLinear<'_>) -> Result<PackedLinear> {
        self.candle.load_quantized(stored)
    }

    fn argmax_rows(&self, x: &Tensor) -> Result<Vec<Option<u32>>> {
        argmax::argmax_rows(self.executor, x)
    }

    fn top_k_rows(&self, x: &Tensor, k: usize) -> Result<Vec<Option<TopK>>> {
        top_k::top_k_rows(self.executor, x, k)
    }

    fn largest_indices(&self, x: &Tensor, k: usize) -> Result<Tensor> {
        selection::largest_indices(self.executor, x, k)
    }

    fn prepares_frames(&self) -> bool {
        true
    }

    fn prepare_frame(&self, frame: &[u8], plan: &DeviceFramePlan) -> Result<Option<Tensor>> {
        resize::prepare(self.executor, frame, plan, self.dtype).map(Some)
    }

    fn threads(&self, work: OpWork) -> OpThreads {
        self.candle.threads(work)
    }
}
