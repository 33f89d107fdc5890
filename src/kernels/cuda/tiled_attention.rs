//! Attention tile by tile on tensor cores, in f16 and bf16: `tiled_attention.cu`.
//!
//! Supported are heads of at most 128 elements, a multiple of 8, on a GPU with tensor cores for bf16 (compute
//! capability 8.0). Elsewhere, and in f32, attention is products with a softmax in between. The kernel proves itself
//! on each GPU before its first use: small attention that the CPU computes as well. If they differ, a warning says so
//! once and products serve. `VIDENSE_CUDA_ATTENTION=products` asks for products.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};

use super::launch::{Executor, Launch, LaunchGeometry, address};
use super::softmax::KeyMask;
use crate::kernels::candle::CandleKernels;
use crate::kernels::{Kernels, Mask, VisibleKeys};

/// Queries of a block (`TILE_QUERIES` of `tiled_attention.cu`).
const TILE_QUERIES: usize = 128;
/// Keys of a block at a time (`TILE_KEYS`).
const TILE_KEYS: usize = 64;
/// Elements that a row in shared memory has beyond its width.
const PADDING: usize = 8;
/// Threads of a block.
const THREADS: usize = 128;
/// Elements of an access, which distances are multiples of.
const ACCESS: usize = 8;

/// Kernels by the width that heads are padded to, for f16 and for bf16.
const KERNELS: [(usize, [&str; 2]); 4] = [
    (64, ["tiled_attention_64_f16", "tiled_attention_64_bf16"]),
    (80, ["tiled_attention_80_f16", "tiled_attention_80_bf16"]),
    (96, ["tiled_attention_96_f16", "tiled_attention_96_bf16"]),
    (128, ["tiled_attention_128_f16", "tiled_attention_128_bf16"]),
];

/// Names of all kernels, for the list of sources.
pub(super) const NAMES: [&str; 8] = {
    let mut names = [""; 8];
    let mut i = 0;
    while i < names.len() {
        names[i] = KERNELS[i / 2].1[i % 2];
        i += 1;
    }
    names
};

/// Heads in a tensor, which need not follow each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads<'a> {
    /// Holds the first element of the first sequence's first head at its beginning.
    pub(crate) tensor: &'a Tensor,
    /// Elements from a sequence to the next, from a head to the next, and from a row to the next.
    pub(crate) distances: [usize; 3],
}

/// Attention of all heads of some sequences of equal length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TiledAttention<'a> {
    /// The result: rows of `n_queries`.
    pub(crate) y: Heads<'a>,
    /// Rows of `n_queries`.
    pub(crate) queries: Heads<'a>,
    /// Rows of `n_keys`.
    pub(crate) keys: Heads<'a>,
    /// Rows at the same distances as those of the keys.
    pub(crate) values: &'a Tensor,
    pub(crate) sizes: AttentionSizes,
    /// The keys that each query sees: all, or up to its own position.
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

/// The kernel for heads in a precision, if there is one, and the width that it pads them to.
fn kernel(dtype: DType, d_head: usize) -> Option<(usize, &'static str)> {
    let which = match dtype {
        DType::F16 => 0,
        DType::BF16 => 1,
        _ => return None,
    };
    let is_fit = d_head > 0 && d_head.is_multiple_of(ACCESS);
    KERNELS.iter().find(|(width, _)| is_fit && d_head <= *width).map(|(width, names)| (*width, names[which]))
}

/// Whether heads in a precision have a kernel that has proved itself on the executor's device. The first call for a
/// kernel runs the proof.
pub(crate) fn is_available(executor: &'static dyn Executor, dtype: DType, d_head: usize) -> bool {
    static PROVED: Mutex<Option<HashMap<(usize, &str), bool>>> = Mutex::new(None);
    let Some((_, kernel)) = kernel(dtype, d_head).filter(|_| executor.has_tensor_cores() && !products_are_asked_for())
    else {
        return false;
    };
    let device = std::ptr::from_ref(executor).cast::<()>().addr();
    let mut proved = PROVED.lock().unwrap_or_else(PoisonError::into_inner);
    *proved.get_or_insert_default().entry((device, kernel)).or_insert_with(|| match proof(executor, dtype, d_head) {
        Ok(difference) if difference <= 2e-2 => true,
        outcome => {
            let found = outcome.map_or_else(|error| error.to_string(), |difference| format!("{difference} off"));
            tracing::warn!("{kernel} does not agree with the CPU on this GPU ({found}): attention is by products");
            false
        }
    })
}

fn products_are_asked_for() -> bool {
    std::env::var("VIDENSE_CUDA_ATTENTION").is_ok_and(|value| value == "products")
}

/// The largest difference of the kernel's results from the CPU's, relative to the largest element: causal attention of
/// 70 queries over 131 keys, two query heads for each of two key-value heads.
fn proof(executor: &dyn Executor, dtype: DType, d_head: usize) -> Result<f32> {
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
    let full = [&q, &k, &v].map(|x| x.to_dtype(DType::F32));
    let [full_q, full_k, full_v] = full;
    let expected = CandleKernels::CPU.attention(&full_q?, &full_k?, &full_v?, Mask::Visible(&visible))?;
    let y = executor.empty(q.shape().clone(), dtype)?;
    let [q, k, v] = [q.to_device(y.device())?, k.to_device(y.device())?, v.to_device(y.device())?];
    let rows = |tensor, n_rows| Heads { tensor, distances: [0, n_rows * d_head, d_head] };
    let (queries, keys) = (rows(&q, sizes.n_queries), rows(&k, sizes.n_keys));
    let (mask, scale) = (KeyMask::Causal { start }, 1.0 / (d_head as f32).sqrt());
    TiledAttention { y: rows(&y, sizes.n_queries), queries, keys, values: &v, sizes, mask, scale }.run(executor)?;
    let found = y.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let difference = (found - &expected)?.abs()?.flatten_all()?.to_vec1::<f32>()?;
    let largest = expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    // Not `max`, which leaves NaN out.
    Ok(difference.into_iter().fold(0.0, |most, x| if x > most || x.is_nan() { x } else { most }) / largest)
}

impl TiledAttention<'_> {
    /// Computes the attention; all of `y`'s rows are written.
    ///
    /// # Errors
    /// When there is no kernel for such heads, or distances and addresses are no multiples of an access, or as
    /// [`Launch::run`].
    pub(crate) fn run(&self, executor: &dyn Executor) -> Result<()> {
        let AttentionSizes { batch, n_heads, n_kv_heads, n_queries, n_keys, d_head } = self.sizes;
        let dtype = self.y.tensor.dtype();
        let Some((width, kernel)) = kernel(dtype, d_head).filter(|_| self.is_aligned()) else {
            candle_core::bail!("tiled attention: no kernel for heads of {d_head} in {dtype:?} at such distances");
        };
        if n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) || n_keys == 0 {
            candle_core::bail!("tiled attention: {n_heads} heads over {n_kv_heads} of {n_keys} keys");
        }
        let (first, step) = match self.mask {
            KeyMask::All => (n_keys, 0),
            KeyMask::Causal { start } => (start + 1, 1),
            KeyMask::Spans(_) => candle_core::bail!("tiled attention: spans are for attention by products"),
        };
        let grid = [n_queries.div_ceil(TILE_QUERIES), n_heads, batch];
        let shared_bytes = (TILE_QUERIES + 2 * TILE_KEYS) * (width + PADDING) * dtype.size_in_bytes();
        let geometry = LaunchGeometry { grid, threads: THREADS, shared_bytes };
        let launch = Launch::new(kernel, dtype, geometry).rows(self.y.tensor)?.rows(self.queries.tensor)?;
        let launch = launch.rows(self.keys.tensor)?.rows(self.values)?;
        let sizes = [n_queries, n_keys, d_head, n_heads / n_kv_heads, first, step];
        let distances = [self.y, self.queries, self.keys].map(|heads| heads.distances);
        let all = sizes.into_iter().chain(distances.into_iter().flatten());
        all.into_iter().try_fold(launch, Launch::size)?.float(self.scale).run(executor)
    }

    /// Whether every row begins at an access.
    pub(crate) fn is_aligned(&self) -> bool {
        let tensors = [self.y.tensor, self.queries.tensor, self.keys.tensor, self.values];
        let distances = [self.y, self.queries, self.keys].map(|heads| heads.distances);
        distances.as_flattened().iter().all(|distance| distance.is_multiple_of(ACCESS))
            && tensors.into_iter().all(|x| address(x).is_ok_and(|address| address.is_multiple_of(16)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::tests::{Tested, reference, tested};
    use crate::kernels::finite_difference::random;

    /// Kernels in the precisions that have tiles.
    fn with_tiles() -> impl Iterator<Item = Tested> {
        tested().into_iter().filter(|tested| tested.dtype != DType::F32)
    }

    fn assert_tiled(tested: &Tested, sizes: AttentionSizes, start: Option<usize>) {
        let AttentionSizes { batch, n_heads, n_kv_heads, n_queries, n_keys, d_head } = sizes;
        let q = random((batch, n_heads, n_queries, d_head), 1);
        let [k, v] = [2, 3].map(|seed| random((batch, n_kv_heads, n_keys, d_head), seed));
        let end = |query: usize| start.map_or(n_keys, |start| (start + query + 1).min(n_keys));
        let spans = (0..batch * n_queries).map(|i| [0..end(i % n_queries), 0..0]).collect();
        let visible = VisibleKeys::new(spans, n_keys);
        let [full_q, full_k, full_v] = [&q, &k, &v].map(|x| tested.rounded(x));
        let expected = reference().attention(&full_q, &full_k, &full_v, Mask::Visible(&visible)).expect("it fits");
        // Rows of heads side by side, as towers lay them out: (B, S, n d).
        let y =
            tested.kernels.executor.empty((batch, n_queries, n_heads, d_head).into(), tested.dtype).expect("memory");
        let [q, k, v] = [&q, &k, &v].map(|x| tested.given(x));
        let packed =
            |tensor, n_heads, rows| Heads { tensor, distances: [n_heads * rows * d_head, rows * d_head, d_head] };
        let side_by_side = Heads { tensor: &y, distances: [n_queries * n_heads * d_head, d_head, n_heads * d_head] };
        let attention = TiledAttention {
            y: side_by_side,
            queries: packed(&q, n_heads, n_queries),
            keys: packed(&k, n_kv_heads, n_keys),
            values: &v,
            sizes,
            mask: start.map_or(KeyMask::All, |start| KeyMask::Causal { start }),
            scale: 1.0 / (d_head as f32).sqrt(),
        };
        attention.run(tested.kernels.executor).expect("it fits");
        let found = y.transpose(1, 2).and_then(|y| y.contiguous()).expect("rank 4");
        tested.assert_close(&format!("{sizes:?} from {start:?}"), &found, &expected);
    }

    #[test]
    fn tiles_attend_as_on_the_cpu() {
        let sizes = |[n_heads, n_kv_heads, n_queries, n_keys]: [usize; 4], d_head| AttentionSizes {
            batch: 2,
            n_heads,
            n_kv_heads,
            n_queries,
            n_keys,
            d_head,
        };
        for tested in with_tiles() {
            // Heads of released models; whole tiles, a rest of one row, less than a warp's rows, grouped heads.
            for (of, d_head) in [
                ([2, 2, 64, 64], 64),
                ([2, 2, 65, 129], 72),
                ([1, 1, 7, 3], 80),
                ([4, 2, 66, 66], 96),
                ([3, 1, 1, 200], 128),
                ([1, 1, 3, 5], 8),
            ] {
                assert_tiled(&tested, sizes(of, d_head), None);
                let [_, _, n_queries, n_keys] = of;
                assert_tiled(&tested, sizes(of, d_head), Some(n_keys.saturating_sub(n_queries)));
            }
            // A prompt's first positions: whole tiles of keys that no query sees.
            assert_tiled(&tested, sizes([1, 1, 130, 130], 64), Some(0));
        }
    }

    #[test]
    fn a_query_of_nan_gives_nan_and_an_unseen_key_of_nan_gives_none() {
        let sizes = AttentionSizes { batch: 1, n_heads: 1, n_kv_heads: 1, n_queries: 3, n_keys: 70, d_head: 64 };
        for tested in with_tiles() {
            let with_nan = |rows: usize, row: usize| {
                let mut elements = vec![0.5f32; rows * 64];
                elements[row * 64] = f32::NAN;
                tested.given(&Tensor::from_vec(elements, (1, 1, rows, 64), &Device::Cpu).expect("small"))
            };
            let (q, k, v) = (with_nan(3, 1), with_nan(70, 68), tested.given(&random((1, 1, 70, 64), 3)));
            let y = tested.kernels.executor.empty(q.shape().clone(), tested.dtype).expect("memory");
            let heads = |tensor| Heads { tensor, distances: [0, 0, 64] };
            let (mask, scale) = (KeyMask::Causal { start: 65 }, 0.125);
            let attention =
                TiledAttention { y: heads(&y), queries: heads(&q), keys: heads(&k), values: &v, sizes, mask, scale };
            attention.run(tested.kernels.executor).expect("it fits");
            let rows = y.to_dtype(DType::F32).and_then(|y| y.reshape((3, 64))?.to_vec2::<f32>()).expect("f32");
            assert!(rows[1].iter().all(|x| x.is_nan()));
            assert!(rows[0].iter().chain(&rows[2]).all(|x| x.is_finite()));
        }
    }

    #[test]
    fn the_kernels_prove_themselves_and_only_where_they_stand() {
        for tested in with_tiles() {
            for d_head in [8, 64, 72, 80, 96, 128] {
                let difference = proof(tested.kernels.executor, tested.dtype, d_head).expect("it runs");
                assert!(difference < 1e-2, "{difference}");
                assert!(is_available(tested.kernels.executor, tested.dtype, d_head));
            }
            assert!(!is_available(tested.kernels.executor, tested.dtype, 68));
            assert!(!is_available(tested.kernels.executor, tested.dtype, 136));
            assert!(!is_available(tested.kernels.executor, DType::F32, 64));
        }
    }
}
