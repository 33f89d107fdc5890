//! Operations of a device behind one trait: networks (`nn` and the modules above it) call [`Kernels`] and never ask for
//! their device or precision. [`of`] selects the implementation once, when a module is loaded.
//!
//! `cpu` contains this crate's kernels for f32 on the CPU, `cuda` those for NVIDIA GPUs; `candle` runs every other
//! device and precision on candle's operations, and is the reference of the tests. A kernel of this crate is used only
//! where it is faster than candle's on the same processor.

mod activation;
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
pub(crate) mod top_k;

use std::fmt::Debug;

use candle_core::{D, DType, Device, Result, Tensor};

use kv::{KvConfig, KvStore};

pub use activation::Activation;
pub use attention::{Mask, VisibleKeys};
pub(crate) use attention::{join_heads, split_heads};
pub use cpu::norm::RowNorm;
pub use cpu::workers::on_workers;
pub use epilogue::LinearEpilogue;
pub use frames::DeviceFramePlan;
pub use ggml::quantize;
pub use norm::NormWeights;
pub use packed::{FeedForwardLayers, PackedLinear, StoredLinear};
pub use pool::{GridPool, PoolMode};
pub use quant_format::QuantFormat;
pub use top_k::TopK;

/// Operations of a device in a precision. An operation propagates gradients for tracked inputs, unless its
/// documentation restricts it to inference.
pub trait Kernels: Send + Sync + Debug {
    /// Computes the matrix product `a b`, over leading batch dimensions.
    ///
    /// # Shapes
    /// `(..., M, K)` and `(..., K, N)` to `(..., M, N)`.
    ///
    /// # Errors
    /// When the shapes do not match.
    fn matmul(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;

    /// Computes `x + bias`, row by row.
    ///
    /// # Shapes
    /// `x (R, width)` and `bias (width)` to `(R, width)`.
    ///
    /// # Errors
    /// When the widths differ.
    fn add_bias(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor>;

    /// Applies an activation to each element.
    ///
    /// # Errors
    /// When candle fails.
    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor>;

    /// Computes a linear layer: `x W^T`, then the epilogue.
    ///
    /// # Shapes
    /// `x (R, d_in)` and `weight (d_out, d_in)` to `(R, d_out)`.
    ///
    /// # Errors
    /// When the shapes do not match.
    fn linear(&self, x: &Tensor, weight: &Tensor, epilogue: &LinearEpilogue<'_>) -> Result<Tensor> {
        self.epilogue(self.matmul(x, &weight.t()?)?, epilogue)
    }

    /// Computes `activation(product + bias) + residual`; each of the three parts is optional. The result may reuse the
    /// memory of `product`, which must have no other owner.
    ///
    /// # Shapes
    /// `(R, width)` to the same.
    ///
    /// # Errors
    /// When the shapes do not match.
    fn epilogue(&self, product: Tensor, epilogue: &LinearEpilogue<'_>) -> Result<Tensor> {
        epilogue::by_parts(self, product, epilogue)
    }

    /// Computes `silu(gate) up` (arXiv 2002.05202), element by element.
    ///
    /// # Errors
    /// When the shapes differ.
    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor>;

    /// Computes [`Self::swiglu`] of gate and up side by side in each row.
    ///
    /// # Shapes
    /// `(..., 2 w)` to `(..., w)`.
    ///
    /// # Errors
    /// When the width is odd.
    fn swiglu_joined(&self, gate_and_up: &Tensor) -> Result<Tensor>;

    /// Gathers rows of a table by index: embeddings.
    ///
    /// # Shapes
    /// `table (n, width)` and `ids (R)` in u32 to `(R, width)`.
    ///
    /// # Errors
    /// When the shapes do not match. An index out of range is an error or, on a GPU, may give a row of NaN.
    fn gather(&self, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
        table.index_select(ids, 0)
    }

    /// Computes the cosine similarity of each row of `a` with the same row of `b` in f32; both norms are at least 1e-8,
    /// PyTorch's epsilon.
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
    /// When the frames have another grid.
    fn pool_grid(&self, frames: &Tensor, pool: &GridPool) -> Result<Tensor> {
        pool.check(frames)?;
        pool::by_axes(frames, pool)
    }

    /// Accumulates `x` into a running sum in f32; starts the sum at `x` for `None`. The result may reuse the memory of
    /// `sum`, which must have no other owner.
    ///
    /// # Shapes
    /// Any, equal for both.
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

    /// Computes a layer norm or an RMS norm over the last dimension.
    ///
    /// # Shapes
    /// `(..., width)` to the same.
    ///
    /// # Errors
    /// When the width does not fit.
    fn norm(&self, x: &Tensor, weights: &NormWeights) -> Result<Tensor>;

    /// Returns the norm in the form that packed layers apply to their input rows; `None` where no layer is packed, or
    /// the weights are tracked.
    ///
    /// # Errors
    /// When candle fails.
    fn row_norm(&self, weights: &NormWeights) -> Result<Option<RowNorm>>;

    /// Computes the softmax over the last dimension in f32. Minus infinity gives exactly 0.
    ///
    /// # Shapes
    /// `(..., K)` to the same, in the input's precision.
    ///
    /// # Errors
    /// When candle fails.
    fn softmax(&self, x: &Tensor) -> Result<Tensor>;

    /// Computes the softmax over the visible keys of each query in f32; all other keys get exactly 0.
    ///
    /// # Shapes
    /// `(B, n_heads, S, K)` to the same, in the input's precision.
    ///
    /// # Errors
    /// When the shape differs from that of `visible`.
    fn softmax_visible(&self, x: &Tensor, visible: &VisibleKeys) -> Result<Tensor>;

    /// Computes scaled dot-product attention. Key-value head `j` serves the query heads from `j n_heads / n_kv_heads`
    /// on, as in grouped-query attention (arXiv 2305.13245).
    ///
    /// # Shapes
    /// `q (B, n_heads, S, d)`, `k` and `v` `(B, n_kv_heads, K, d)` to `(B, n_heads, S, d)`. `k` and `v` may be views
    /// into a larger cache when `B = 1`.
    ///
    /// # Errors
    /// When the shapes do not match.
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask<'_>) -> Result<Tensor> {
        attention::check(q, k, v)?;
        attention::by_scores(self, [q, k, v], mask)
    }

    /// Computes unmasked self-attention of queries, keys and values in the layout of linear layers.
    ///
    /// # Shapes
    /// `(B, S, n d)` each, which may be views into one tensor, to `(B, S, n d)`.
    ///
    /// # Errors
    /// When the shapes do not match.
    fn full_attention(&self, qkv: &[Tensor; 3], n_heads: usize) -> Result<Tensor> {
        attention::check_full(qkv, n_heads)?;
        attention::full_by_heads(self, qkv, n_heads)
    }

    /// Creates an empty key-value store for a language model on the device of these kernels. Inference only.
    ///
    /// # Errors
    /// When the number of query heads is not a multiple of that of key-value heads, or the precision has no kernel.
    fn kv_store(&self, config: &KvConfig<'_>) -> Result<Box<dyn KvStore>>;

    /// Packs the weight `(d_out, d_in)` and bias `(d_out)` of a linear layer in the order in which a kernel reads them;
    /// `None` where the device has no faster layout than the row-major one. Inference only.
    ///
    /// # Errors
    /// When candle fails.
    fn pack(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<PackedLinear>>;

    /// Quantizes and packs a linear layer, to `format` or to the next one that fits rows of this length; `None` where
    /// no format fits, or a weight is tracked. Inference only.
    ///
    /// # Errors
    /// When candle fails.
    fn quantize(&self, weight: &Tensor, bias: Option<&Tensor>, format: QuantFormat) -> Result<Option<PackedLinear>>;

    /// Loads a layer whose weight is stored quantized. Inference only.
    ///
    /// # Errors
    /// When the weight has another format, or the device is out of memory.
    fn load_quantized(&self, stored: &StoredLinear<'_>) -> Result<PackedLinear>;

    /// Returns the index of the largest element of each row, the first of equal elements; `None` for a row with a NaN
    /// or with an infinite maximum. Only the indices are copied from the device.
    ///
    /// # Shapes
    /// `(R, width)`, in these kernels' precision or f32, to `R`.
    ///
    /// # Errors
    /// When candle fails.
    fn argmax_rows(&self, x: &Tensor) -> Result<Vec<Option<u32>>> {
        let x = x.to_dtype(DType::F32)?;
        let ids = x.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let (largest, sums) = (x.max(D::Minus1)?.to_vec1::<f32>()?, x.sum(D::Minus1)?.to_vec1::<f32>()?);
        let is_valid = |(largest, sum): (f32, f32)| largest.is_finite() && !sum.is_nan();
        Ok(ids.into_iter().zip(largest.into_iter().zip(sums)).map(|(id, row)| is_valid(row).then_some(id)).collect())
    }

    /// Returns the `k` largest elements of each row, at least one, in descending order, the first of equal elements
    /// before the others; all elements of shorter rows. `None` for a row with a NaN or with an infinite maximum. From a
    /// GPU only these elements are copied, up to 1,024 of a row; else the whole matrix is.
    ///
    /// # Shapes
    /// `(R, width)` to `R` times `min(k, width)` elements in f32.
    ///
    /// # Errors
    /// When `x` is not a matrix, or candle fails.
    fn top_k_rows(&self, x: &Tensor, k: usize) -> Result<Vec<Option<TopK>>> {
        top_k::of_rows(x, k)
    }

    /// Returns the indices of the `k` largest elements of a vector in ascending order of the indices, on the device;
    /// all indices of a shorter vector. Elements are in their total order (IEEE 754, section 5.10); of equal elements
    /// the first are taken.
    ///
    /// # Shapes
    /// `(n)` in f32 to `(min(k, n))` in u32.
    ///
    /// # Errors
    /// When `x` is not a vector in f32, or the device fails.
    fn largest_indices(&self, x: &Tensor, k: usize) -> Result<Tensor> {
        top_k::largest_indices(x, k)
    }

    /// Returns whether [`Self::prepare_frame`] preprocesses frames on the device.
    fn prepares_frames(&self) -> bool {
        false
    }

    /// Pads, resizes, crops and normalises a frame on the device, bit-identical to the CPU; `None` where frames are
    /// preprocessed on the CPU.
    ///
    /// # Shapes
    /// RGB levels `(height, width, 3)` to `(1, 3, height', width')`, in these kernels' precision.
    ///
    /// # Errors
    /// When the frame has another size than the plan, or the device is out of memory.
    fn prepare_frame(&self, _: &[u8], _: &DeviceFramePlan) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// Returns the threads that issue a sequence of operations of so much work.
    fn threads(&self, work: OpWork) -> OpThreads;
}

/// Work of a sequence of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpWork {
    /// Multiply-adds of the largest matrix product.
    pub product: usize,
    /// Multiply-adds of the scores of the largest attention.
    pub attention: usize,
}

/// Threads that issue a device's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpThreads {
    /// The compute thread pool, whose workers spin while operations are issued.
    Pool,
    /// The calling thread: for a device with a queue of its own, and for operations that one thread runs sooner than
    /// others are woken.
    Caller,
}

impl dyn Kernels {
    /// Runs a sequence of small operations on the threads of [`Kernels::threads`].
    pub fn run<T: Send>(&self, work: OpWork, operations: impl FnOnce() -> T + Send) -> T {
        match self.threads(work) {
            OpThreads::Pool => on_workers(operations),
            OpThreads::Caller => operations(),
        }
    }
}

/// Returns the kernels of a device in a precision. A module calls this once, when it is loaded.
pub fn of(device: &Device, dtype: DType) -> &'static dyn Kernels {
    #[cfg(test)]
    if let Some(kernels) = tests::kernels_override() {
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
