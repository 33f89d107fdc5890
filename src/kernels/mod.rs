//! Operations of a device behind one trait: networks (`nn` and the modules above it) call [`Kernels`] and never ask on
//! which device or in which precision they run. [`of`] chooses the implementation once, when a module is loaded.
//!
//! `cpu` holds this crate's own kernels for f32 on the CPU, `cuda` those for NVIDIA GPUs; `candle` runs every other
//! device and precision on candle's operations, and is what a kernel of ours is compared with. A kernel of ours stands
//! where it beats candle's on that very processor.

mod activation;
pub(crate) mod argmax;
mod attention;
mod candle;
pub(crate) mod candle_pages;
pub(crate) mod cpu;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod cuda;
mod epilogue;
#[cfg(test)]
pub(crate) mod finite_difference;
pub(crate) mod frames;
mod ggml;
pub mod kv;
mod norm;
mod packed;
#[cfg(test)]
mod paged_sequences;
mod pool;
mod quant_format;
pub(crate) mod row_blocks;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt::Debug;

use candle_core::quantized::QTensor;
use candle_core::{D, DType, Device, Result, Tensor};

use kv::{KvConfig, KvStore};

pub use activation::Activation;
pub use attention::{Mask, VisibleKeys, join_heads, split_heads};
pub use cpu::norm::RowNorm;
pub use cpu::workers::on_workers;
pub use epilogue::LinearEpilogue;
pub use frames::DeviceFramePlan;
pub use ggml::quantize;
pub use norm::NormWeights;
pub use packed::{FeedForward, PackedLinear};
pub use pool::{GridPool, PoolMode};
pub use quant_format::QuantFormat;

/// Operations of a device in a precision. Each has its gradients where an input wants one, unless its documentation
/// says that it is for inference.
pub trait Kernels: Send + Sync + Debug {
    /// `a b`, over leading batch dimensions.
    ///
    /// # Shapes
    /// `(..., M, K)` and `(..., K, N)` to `(..., M, N)`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    fn matmul(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;

    /// `x + bias`, row by row.
    ///
    /// # Shapes
    /// `x (R, width)` and `bias (width)` to `(R, width)`.
    ///
    /// # Errors
    /// When the widths differ.
    fn add_bias(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor>;

    /// The activation of each element.
    ///
    /// # Errors
    /// When candle fails.
    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor>;

    /// A linear layer: `x W^T`, then an epilogue.
    ///
    /// # Shapes
    /// `x (R, d_in)` and `weight (d_out, d_in)` to `(R, d_out)`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    fn linear(&self, x: &Tensor, weight: &Tensor, epilogue: &LinearEpilogue<'_>) -> Result<Tensor> {
        self.epilogue(self.matmul(x, &weight.t()?)?, epilogue)
    }

    /// `activation(product + bias) + residual`, each part where there is one. The result may take the memory of
    /// `product`, which nothing else may hold.
    ///
    /// # Shapes
    /// `(R, width)` to the same.
    ///
    /// # Errors
    /// When the shapes do not fit.
    fn epilogue(&self, product: Tensor, epilogue: &LinearEpilogue<'_>) -> Result<Tensor> {
        epilogue::by_parts(self, product, epilogue)
    }

    /// `silu(gate) up` (arXiv 2002.05202), element by element.
    ///
    /// # Errors
    /// When the shapes differ.
    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor>;

    /// As [`Self::swiglu`], of gate and up side by side in each row.
    ///
    /// # Shapes
    /// `(..., 2 w)` to `(..., w)`.
    ///
    /// # Errors
    /// When the width is odd.
    fn swiglu_joined(&self, gate_and_up: &Tensor) -> Result<Tensor>;

    /// Rows of a table by their indices: embeddings.
    ///
    /// # Shapes
    /// `table (n, width)` and `ids (R)` in u32 to `(R, width)`.
    ///
    /// # Errors
    /// When the shapes do not fit. An index beyond the table is an error or, on a GPU, may give a row of NaN.
    fn gather(&self, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
        table.index_select(ids, 0)
    }

    /// Cosine of each row of `a` and that of `b`, computed in f32, with PyTorch's epsilon of 1e-8 under both norms.
    ///
    /// # Shapes
    /// Twice `(R, width)` to `(R)`, f32.
    ///
    /// # Errors
    /// When the shapes differ.
    fn row_cosines(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
        let length = |x: &Tensor| x.sqr()?.sum(D::Minus1)?.sqrt()?.clamp(1e-8f32, f32::MAX);
        (&a * &b)?.sum(D::Minus1)? / (length(&a)? * length(&b)?)?
    }

    /// Pools the patch grid of each frame.
    ///
    /// # Shapes
    /// `(t, Hg Wg, d)` to `(t, h w, d)`.
    ///
    /// # Errors
    /// When the frames have not that grid.
    fn pool_grid(&self, frames: &Tensor, pool: &GridPool) -> Result<Tensor> {
        pool.check(frames)?;
        pool::by_axes(frames, pool)
    }

    /// A running sum in f32, plus one tensor more; of `x` alone where there is no sum yet. The result may take the
    /// memory of `sum`, which nothing else may hold.
    ///
    /// # Shapes
    /// Any, the same of both.
    ///
    /// # Errors
    /// When the shapes differ.
    fn accumulate(&self, sum: Option<Tensor>, x: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        match sum {
            Some(sum) => sum + x,
            None => Ok(x),
        }
    }

    /// A layer norm or an RMS norm over the last dimension.
    ///
    /// # Shapes
    /// `(..., width)` to the same.
    ///
    /// # Errors
    /// When the width does not fit.
    fn norm(&self, x: &Tensor, weights: &NormWeights) -> Result<Tensor>;

    /// The norm as packed layers apply it to their input, row by row; none where no layer is packed, or the weights
    /// want a gradient.
    ///
    /// # Errors
    /// When candle fails.
    fn row_norm(&self, weights: &NormWeights) -> Result<Option<RowNorm>>;

    /// Softmax over the last dimension, computed in f32. Minus infinity gives exactly 0.
    ///
    /// # Shapes
    /// `(..., K)` to the same, in the input's precision.
    ///
    /// # Errors
    /// When candle fails.
    fn softmax(&self, x: &Tensor) -> Result<Tensor>;

    /// Softmax over the keys that each query sees, computed in f32; the others get exactly 0.
    ///
    /// # Shapes
    /// `(B, n_heads, S, K)` to the same, in the input's precision.
    ///
    /// # Errors
    /// When the shape does not fit `visible`.
    fn softmax_visible(&self, x: &Tensor, visible: &VisibleKeys) -> Result<Tensor>;

    /// Scaled dot-product attention. Key-value head `j` serves the query heads `j n_heads / n_kv_heads ..`, as in
    /// grouped-query attention (arXiv 2305.13245).
    ///
    /// # Shapes
    /// `q (B, n_heads, S, d)`, `k` and `v` `(B, n_kv_heads, K, d)` to `(B, n_heads, S, d)`. `k` and `v` may be views
    /// into a larger cache when `B = 1`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask<'_>) -> Result<Tensor> {
        attention::check(q, k, v)?;
        attention::by_scores(self, [q, k, v], mask)
    }

    /// Attention in which every query sees every key, of queries, keys and values as linear layers make them.
    ///
    /// # Shapes
    /// `(B, S, n d)` each, which may be views into one tensor, to `(B, S, n d)`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    fn full_attention(&self, qkv: &[Tensor; 3], n_heads: usize) -> Result<Tensor> {
        attention::check_full(qkv, n_heads)?;
        attention::full_by_heads(self, qkv, n_heads)
    }

    /// An empty key-value store for a language model on the device of these kernels: for inference.
    ///
    /// # Errors
    /// When the geometry's heads are not shared evenly, or the precision has no kernel.
    fn kv_store(&self, config: &KvConfig<'_>) -> Result<Box<dyn KvStore>>;

    /// The weight `(d_out, d_in)` and bias `(d_out)` of a linear layer in the order in which a kernel reads them, for
    /// inference; none where the device multiplies best by the weight as it is.
    ///
    /// # Errors
    /// When candle fails.
    fn pack(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<PackedLinear>>;

    /// As [`Self::pack`], quantized to `format`, or to the next one that fits rows of this length; none where no format
    /// fits.
    ///
    /// # Errors
    /// When candle fails.
    fn quantize(&self, weight: &Tensor, bias: Option<&Tensor>, format: QuantFormat) -> Result<Option<PackedLinear>>;

    /// A layer of a weight that is stored quantized, for inference.
    ///
    /// # Errors
    /// When the weight has another format, or the device has no room for it.
    fn load_quantized(&self, stored: &StoredLinear<'_>) -> Result<PackedLinear>;

    /// The index of the largest element of each row, the first of equal ones; none of a row in which an element is NaN,
    /// or whose largest is infinite. Nothing but these leaves the device.
    ///
    /// # Shapes
    /// `(R, width)`, f32, to `R`.
    ///
    /// # Errors
    /// When candle fails.
    fn argmax_rows(&self, x: &Tensor) -> Result<Vec<Option<u32>>> {
        let ids = x.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let (largest, sums) = (x.max(D::Minus1)?.to_vec1::<f32>()?, x.sum(D::Minus1)?.to_vec1::<f32>()?);
        let is_good = |(largest, sum): (f32, f32)| !largest.is_infinite() && !largest.is_nan() && !sum.is_nan();
        Ok(ids.into_iter().zip(largest.into_iter().zip(sums)).map(|(id, of)| is_good(of).then_some(id)).collect())
    }

    /// Whether frames are prepared on the device, by [`Self::prepare_frame`].
    fn prepares_frames(&self) -> bool {
        false
    }

    /// Pads, resizes, crops and normalises a frame on the device, with the levels of the CPU; none where the CPU
    /// prepares frames.
    ///
    /// # Shapes
    /// Levels `(height, width, 3)` to `(1, 3, height', width')`, in these kernels' precision.
    ///
    /// # Errors
    /// When the frame has another size than the tables are for, or the device has no room.
    fn prepare_frame(&self, _: &[u8], _: &DeviceFramePlan) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The threads that issue operations.
    fn threads(&self) -> OpThreads;
}

/// A linear layer whose weight is stored quantized.
pub struct StoredLinear<'a> {
    /// The weight, `(d_out, d_in)`, in the host's memory.
    pub weight: &'a QTensor,
    /// The device that is to hold it.
    pub device: &'a Device,
    /// Format of the weight.
    pub format: QuantFormat,
    /// Row of the weight that makes each output.
    pub row: &'a (dyn Fn(usize) -> usize + Sync),
    /// `(d_out)` in f32, in the order of the outputs.
    pub bias: Option<Tensor>,
}

/// The threads that issue a device's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpThreads {
    /// The pool that computes, whose other threads stay awake meanwhile.
    Pool,
    /// The caller's: a device with a queue of its own.
    Caller,
}

impl dyn Kernels {
    /// Runs many small operations in a row on the threads that suit them: see [`OpThreads`].
    pub fn run<T: Send>(&self, operations: impl FnOnce() -> T + Send) -> T {
        match self.threads() {
            OpThreads::Pool => on_workers(operations),
            OpThreads::Caller => operations(),
        }
    }
}

/// Chooses the kernels of a device in a precision: once for a module, when it is loaded.
pub fn of(device: &Device, dtype: DType) -> &'static dyn Kernels {
    #[cfg(test)]
    if let Some(kernels) = tests::chosen() {
        return kernels;
    }
    match (device, dtype) {
        (Device::Cpu, DType::F32) => cpu::Cpu::best(),
        #[cfg(feature = "cuda")]
        (Device::Cuda(gpu), _) => match cuda::CudaKernels::of(gpu, dtype) {
            Some(kernels) => kernels,
            None => candle::CandleKernels::of(device, dtype),
        },
        _ => candle::CandleKernels::of(device, dtype),
    }
}
