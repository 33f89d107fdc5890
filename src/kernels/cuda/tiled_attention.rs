//! Tiled (flash) attention on tensor cores, in f16 and bf16: `tiled_attention.cu`.
//!
//! Head widths up to 128, multiples of 8, are supported on GPUs with tensor cores for bf16 (compute capability 8.0).
//! Otherwise, and in f32, attention runs as two GEMMs with a softmax between them. A self-test compares the kernel with
//! the CPU on each GPU before its first use; if they differ, one warning is logged and the GEMMs are used.
//! `VIDENSE_CUDA_ATTENTION=products` forces the GEMMs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};

use super::launch::{Executor, Launch, LaunchGeometry, address};
use super::softmax::KeyMask;
use crate::kernels::candle::CandleKernels;
use crate::kernels::{Kernels, Mask, VisibleKeys};

/// Number of queries of a block (`TILE_QUERIES` of `tiled_attention.cu`).
const TILE_QUERIES: usize = 128;
/// Number of keys of a tile (`TILE_KEYS`).
const TILE_KEYS: usize = 64;
/// Number of padding elements of a row in shared memory.
const PADDING: usize = 8;
/// Number of threads of a block.
const THREADS: usize = 128;
/// Elements of an access, which strides are multiples of.
const ACCESS: usize = 8;

/// Kernels in f16 and in bf16, by the width that heads are padded to.
const KERNELS: [(usize, [&str; 2]); 4] = [
    (64, ["tiled_attention_64_f16", "tiled_attention_64_bf16"]),
    (80, ["tiled_attention_80_f16", "tiled_attention_80_bf16"]),
    (96, ["tiled_attention_96_f16", "tiled_attention_96_bf16"]),
    (128, ["tiled_attention_128_f16", "tiled_attention_128_bf16"]),
];

/// Names of all kernels.
pub(super) const KERNEL_NAMES: [&str; 8] = {
    let mut names = [""; 8];
    let mut i = 0;
    while i < names.len() {
        names[i] = KERNELS[i / 2].1[i % 2];
        i += 1;
    }
    names
};

/// Heads in a tensor at any strides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StridedHeads<'a> {
    /// Tensor that begins with the first element of the first sequence's first head.
    pub(crate) tensor: &'a Tensor,
    /// Elements from one sequence, one head and one row to the next.
    pub(crate) strides: [usize; 3],
}

/// Attention of all heads of sequences of equal length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TiledAttention<'a> {
    /// Result, `n_queries` rows per head.
    pub(crate) y: StridedHeads<'a>,
    /// Queries, `n_queries` rows per head.
    pub(crate) queries: StridedHeads<'a>,
    /// Keys, `n_keys` rows per head.
    pub(crate) keys: StridedHeads<'a>,
    /// Values, at the strides of the keys.
    pub(crate) values: &'a Tensor,
    pub(crate) sizes: AttentionSizes,
    /// Visible keys of each query: all, or causal.
    pub(crate) mask: KeyMask<'a>,
    /// Factor of the scores, above 0.
    pub(crate) scale: f32,
}

/// Sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttentionSizes {
    pub(crate) batch: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) n_queries: usize,
    pub(crate) n_keys: usize,
    pub(crate) d_head: usize,
}

/// Returns the padded width and the name of the kernel for a head width in a precision, if it is supported.
fn kernel(dtype: DType, d_head: usize) -> Option<(usize, &'static str)> {
    let index = match dtype {
        DType::F16 => 0,
        DType::BF16 => 1,
        _ => return None,
    };
    let is_supported = d_head > 0 && d_head.is_multiple_of(ACCESS);
    KERNELS.iter().find(|(width, _)| is_supported && d_head <= *width).map(|(width, names)| (*width, names[index]))
}

/// Returns whether a head width in a precision has a kernel that passes its self-test on the executor's device. The
/// first call for a kernel runs the test.
pub(crate) fn is_available(executor: &'static dyn Executor, dtype: DType, d_head: usize) -> bool {
    static TESTED: Mutex<Option<HashMap<(usize, &str), bool>>> = Mutex::new(None);
    let Some((_, kernel)) =
        kernel(dtype, d_head).filter(|_| executor.has_tensor_cores() && !is_disabled_by_environment())
    else {
        return false;
    };
    let device = std::ptr::from_ref(executor).cast::<()>().addr();
    let mut tested = TESTED.lock().unwrap_or_else(PoisonError::into_inner);
    *tested.get_or_insert_default().entry((device, kernel)).or_insert_with(|| {
        match self_test(executor, dtype, d_head) {
            Ok(difference) if difference <= 2e-2 => true,
            outcome => {
                let found =
                    outcome.map_or_else(|error| error.to_string(), |difference| format!("difference {difference}"));
                tracing::warn!(
                    "{kernel} disagrees with the CPU on this GPU ({found}): attention runs as matrix products"
                );
                false
            }
        }
    })
}

/// Returns whether the environment forces the GEMMs.
fn is_disabled_by_environment() -> bool {
    std::env::var("VIDENSE_CUDA_ATTENTION").is_ok_and(|value| value == "products")
}

/// Returns the maximum difference of the kernel's results from the CPU's, relative to the largest element: causal
/// attention of 70 queries over 131 keys, two query heads for each of two key-value heads.
fn self_test(executor: &dyn Executor, dtype: DType, d_head: usize) -> Result<f32> {
    let sizes = AttentionSizes { batch: 1, n_heads: 4, n_kv_heads: 2, n_queries: 70, n_keys: 131, d_head };
    let elements = |n_heads, rows, seed: usize| {
        let n = n_heads * rows * d_head;
        let element = |i: usize| ((i * 7 + seed) as f32 * 0.618_034).fract() * 4.0 - 2.0;
        Tensor::from_vec((0..n).map(element).collect::<Vec<f32>>(), (1, n_heads, rows, d_head), &Device::Cpu)?
            .to_dtype(dtype)
    };
    let [q, k, v] = [elements(4, 70, 1)?, elements(2, 131, 2)?, elements(2, 131, 3)?];
    let start = sizes.n_keys - sizes.n_queries;
    let visible = VisibleKeys::new((0..sizes.n_queries).map(|i| [0..start + i + 1, 0..0]).collect(), sizes.n_keys);
    let [q32, k32, v32] = [&q, &k, &v].map(|x| x.to_dtype(DType::F32));
    let expected = CandleKernels::CPU.attention(&q32?, &k32?, &v32?, Mask::Visible(&visible))?;
    let y = executor.empty(q.shape().clone(), dtype)?;
    let [q, k, v] = [q.to_device(y.device())?, k.to_device(y.device())?, v.to_device(y.device())?];
    let rows = |tensor, n_rows| StridedHeads { tensor, strides: [0, n_rows * d_head, d_head] };
    let (queries, keys) = (rows(&q, sizes.n_queries), rows(&k, sizes.n_keys));
    let (mask, scale) = (KeyMask::Causal { start }, 1.0 / (d_head as f32).sqrt());
    TiledAttention { y: rows(&y, sizes.n_queries), queries, keys, values: &v, sizes, mask, scale }.run(executor)?;
    let found = y.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let difference = (found - &expected)?.abs()?.flatten_all()?.to_vec1::<f32>()?;
    let largest = expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    // Not `f32::max`, which ignores NaN.
    Ok(difference.into_iter().fold(0.0, |max, x| if x > max || x.is_nan() { x } else { max }) / largest)
}

impl TiledAttention<'_> {
    /// Computes the attention, and writes all rows of `y`.
    ///
    /// # Errors
    /// When the head width is not supported, strides or addresses are not multiples of an access, or the launch fails.
    pub(crate) fn run(&self, executor: &dyn Executor) -> Result<()> {
        let AttentionSizes { batch, n_heads, n_kv_heads, n_queries, n_keys, d_head } = self.sizes;
        let dtype = self.y.tensor.dtype();
        let Some((width, kernel)) = kernel(dtype, d_head).filter(|_| self.is_aligned()) else {
            candle_core::bail!(
                "tiled attention: unsupported heads of width {d_head} in {dtype:?}, or unaligned strides"
            );
        };
        if n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) || n_keys == 0 {
            candle_core::bail!("tiled attention: {n_heads} query heads, {n_kv_heads} key-value heads of {n_keys} keys");
        }
        let (first, step) = match self.mask {
            KeyMask::All => (n_keys, 0),
            KeyMask::Causal { start } => (start + 1, 1),
            KeyMask::Spans(_) => candle_core::bail!("tiled attention: unsupported mask of spans"),
        };
        let grid = [n_queries.div_ceil(TILE_QUERIES), n_heads, batch];
        let shared_bytes = (TILE_QUERIES + 2 * TILE_KEYS) * (width + PADDING) * dtype.size_in_bytes();
        let geometry = LaunchGeometry { grid, threads: THREADS, shared_bytes };
        let launch = Launch::new(kernel, dtype, geometry).rows(self.y.tensor)?.rows(self.queries.tensor)?;
        let launch = launch.rows(self.keys.tensor)?.rows(self.values)?;
        let sizes = [n_queries, n_keys, d_head, n_heads / n_kv_heads, first, step];
        let strides = [self.y, self.queries, self.keys].map(|heads| heads.strides);
        let all = sizes.into_iter().chain(strides.into_iter().flatten());
        all.into_iter().try_fold(launch, Launch::size)?.float(self.scale).run(executor)
    }

    /// Returns whether every row begins at a multiple of an access.
    pub(crate) fn is_aligned(&self) -> bool {
        let tensors = [self.y.tensor, self.queries.tensor, self.keys.tensor, self.values];
        let strides = [self.y, self.queries, self.keys].map(|heads| heads.strides);
        strides.as_flattened().iter().all(|distance| distance.is_multiple_of(ACCESS))
            && tensors.into_iter().all(|x| address(x).is_ok_and(|address| address.is_multiple_of(16)))
    }
}

#[cfg(test)]
#[path = "tiled_attention_tests.rs"]
mod tests;
