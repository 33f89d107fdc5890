//! Attention on a GPU: tiled attention where the heads have a kernel (`tiled_attention`), else two GEMMs with a masked
//! softmax between them (`softmax.cu`, `attention.cu`).
//!
//! The GEMM path computes scores in the activations' precision and scales, masks and normalises them in place, without
//! a mask or an f32 copy in memory; key-value heads are not repeated. The scale `1 / sqrt(d)` is split in two: its
//! power of two multiplies the queries, which is exact and keeps scores in the range of f16; the softmax applies the
//! rest in f32.

use candle_core::{DType, Result, Tensor};

use super::CudaKernels;
use super::launch::{Executor, Launch, LaunchGeometry};
use super::softmax::{KeyMask, MaskedSoftmax};
use super::tiled_attention::{self, AttentionSizes, StridedHeads, TiledAttention};
use crate::kernels::attention::{check, check_full};
use crate::kernels::{Kernels, Mask, VisibleKeys};

/// Multiple that keys are padded to: 16 bytes of 2-byte elements, the access of cuBLAS and of the softmax.
const KEYS_MULTIPLE: usize = 8;

/// Returns two factors of `1 / sqrt(d_head)`: a power of two, and the rest, in `1/2..1`.
fn split_scale(d_head: usize) -> (f32, f32) {
    let scale = 1.0 / (d_head.max(1) as f32).sqrt();
    let power = 2f32.powi(scale.log2().ceil() as i32);
    (power, scale / power)
}

/// Computes [`Kernels::attention`] without gradients.
///
/// # Errors
/// When the shapes do not match, or a launch fails.
pub(super) fn attention(kernels: &CudaKernels, [q, k, v]: [&Tensor; 3], mask: Mask<'_>) -> Result<Tensor> {
    check(q, k, v)?;
    let (b, n_heads, s, d) = q.dims4()?;
    let (_, n_kv_heads, n_keys, _) = k.dims4()?;
    let (power, scale) = split_scale(d);
    // The queries of a group are rows of one product with the shared keys.
    let q = (q.contiguous()? * f64::from(power))?.reshape((b, n_kv_heads, n_heads / n_kv_heads * s, d))?;
    let scores = kernels.matmul(&q, &k.transpose(2, 3)?)?.reshape((b, n_heads, s, n_keys))?;
    let spans = match mask {
        Mask::Full => None,
        Mask::Visible(visible) => Some(spans_of(visible, &scores)?),
    };
    let keys = spans.as_ref().map_or(KeyMask::All, KeyMask::Spans);
    MaskedSoftmax { n_keys, keys, scale }.run(kernels.executor, &scores)?;
    let weights = scores.reshape((b, n_kv_heads, n_heads / n_kv_heads * s, n_keys))?;
    kernels.matmul(&weights, v)?.reshape((b, n_heads, s, d))
}

/// Copies the ranges of a mask to the device of `scores`: `(B S, 4)`, u32.
fn spans_of(visible: &VisibleKeys, scores: &Tensor) -> Result<Tensor> {
    visible.check(scores)?;
    let n = scores.dim(0)? * scores.dim(2)?;
    let bounds = |i: usize| visible.spans(i).iter().flat_map(|span| [span.start as u32, span.end as u32]);
    Tensor::from_vec((0..n).flat_map(bounds).collect::<Vec<u32>>(), (n, 4), scores.device())
}

/// Computes [`Kernels::full_attention`] without gradients.
///
/// # Errors
/// When the shapes do not match, or a launch fails.
pub(super) fn full_attention(kernels: &CudaKernels, qkv: &[Tensor; 3], n_heads: usize) -> Result<Tensor> {
    check_full(qkv, n_heads)?;
    let executor = kernels.executor;
    let d = qkv[0].dim(2)? / n_heads;
    if tiled_attention::is_available(executor, qkv[0].dtype(), d) {
        let rows = [UniformRows::new(&qkv[0])?, UniformRows::new(&qkv[1])?, UniformRows::new(&qkv[2])?];
        let y = executor.empty(qkv[0].shape().clone(), qkv[0].dtype())?;
        let attention = by_tiles(&y, &rows, n_heads)?;
        if attention.is_aligned() && rows[1].stride == rows[2].stride {
            attention.run(executor)?;
            return Ok(y);
        }
    }
    full_by_gemm(kernels, qkv, n_heads)
}

/// Returns the tiled attention over heads in strided rows `(B, S, n d)`, without copies.
fn by_tiles<'a>(y: &'a Tensor, rows: &'a [UniformRows; 3], n_heads: usize) -> Result<TiledAttention<'a>> {
    let (batch, n, width) = y.dims3()?;
    let d_head = width / n_heads;
    let heads = |tensor, stride| StridedHeads { tensor, strides: [n * stride, d_head, stride] };
    let [q, k, v] = rows;
    Ok(TiledAttention {
        y: heads(y, width),
        queries: heads(&q.tensor, q.stride),
        keys: heads(&k.tensor, k.stride),
        values: &v.tensor,
        sizes: AttentionSizes { batch, n_heads, n_kv_heads: n_heads, n_queries: n, n_keys: n, d_head },
        mask: KeyMask::All,
        scale: 1.0 / (d_head as f32).sqrt(),
    })
}

/// Computes [`Kernels::full_attention`] by two GEMMs and a softmax.
fn full_by_gemm(kernels: &CudaKernels, qkv: &[Tensor; 3], n_heads: usize) -> Result<Tensor> {
    let executor = kernels.executor;
    let (b, s, width) = qkv[0].dims3()?;
    let (d, padded) = (width / n_heads, s.next_multiple_of(KEYS_MULTIPLE));
    let (power, scale) = split_scale(d);
    let [q, k, v] = split_heads(executor, qkv, SplitHeads { n_heads, padded, factor: power })?;
    let scores = kernels.matmul(&q, &k.t()?)?; // (B, n_heads, S, padded)
    MaskedSoftmax { n_keys: s, keys: KeyMask::All, scale }.run(executor, &scores)?;
    let heads = kernels.matmul(&scores, &v)?; // (B, n_heads, S, d)
    let rows = executor.empty((b, s, width).into(), heads.dtype())?;
    let geometry = block_per_position([s, b], width, heads.dtype());
    let launch = Launch::new("join_heads", heads.dtype(), geometry).tensor(&rows)?.tensor(&heads)?;
    launch.size(width)?.size(d)?.run(executor)?;
    Ok(rows)
}

/// Parameters of [`split_heads`].
#[derive(Debug, Clone, Copy)]
struct SplitHeads {
    n_heads: usize,
    /// Number of positions of keys and values; those beyond the rows are filled with 0.
    padded: usize,
    /// Factor of the queries.
    factor: f32,
}

/// Splits queries, keys and values into heads.
///
/// # Shapes
/// Three of `(B, S, n d)`, which may be views into one tensor, to `(B, n, S, d)` and twice `(B, n, padded, d)`.
fn split_heads(executor: &dyn Executor, qkv: &[Tensor; 3], split: SplitHeads) -> Result<[Tensor; 3]> {
    let (b, s, width) = qkv[0].dims3()?;
    let (d, dtype) = (width / split.n_heads, qkv[0].dtype());
    let [q, k, v] = [UniformRows::new(&qkv[0])?, UniformRows::new(&qkv[1])?, UniformRows::new(&qkv[2])?];
    let heads = |positions| executor.empty((b, split.n_heads, positions, d).into(), dtype);
    let [queries, keys, values] = [heads(s)?, heads(split.padded)?, heads(split.padded)?];
    let launch = Launch::new("split_heads", dtype, block_per_position([split.padded, b], width, dtype));
    let launch =
        launch.tensor(&queries)?.tensor(&keys)?.tensor(&values)?.rows(&q.tensor)?.rows(&k.tensor)?.rows(&v.tensor)?;
    let launch = launch.size(s)?.size(width)?.size(d)?.size(q.stride)?.size(k.stride)?.size(v.stride)?;
    launch.float(split.factor).run(executor)?;
    Ok([queries, keys, values])
}

/// Rows `(B, S, n d)` at a uniform stride over batch and positions.
struct UniformRows {
    tensor: Tensor,
    /// Elements from one row to the next.
    stride: usize,
}

impl UniformRows {
    /// Takes a tensor with a uniform stride as it is, and copies any other.
    fn new(x: &Tensor) -> Result<Self> {
        let (b, s, width) = x.dims3()?;
        match *x.stride() {
            [batch, stride, 1] if b == 1 || batch == s * stride => Ok(Self { tensor: x.clone(), stride }),
            _ => Ok(Self { tensor: x.contiguous()?, stride: width }),
        }
    }
}

/// Returns one block for each position of each sequence.
fn block_per_position([positions, batch]: [usize; 2], width: usize, dtype: DType) -> LaunchGeometry {
    LaunchGeometry { grid: [positions, batch, 1], ..LaunchGeometry::of_rows(1, width, dtype) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::tests::{reference, tested};
    use crate::kernels::finite_difference::random;

    #[test]
    fn the_scale_is_split_into_a_power_of_two_and_a_rest_near_one() {
        // 1 / sqrt(64) = 1/8; 1 / sqrt(128) = 1/8 x 0.7071; 1 / sqrt(72) = 1/8 x 0.9428.
        assert_eq!(split_scale(64), (0.125, 1.0));
        for d in [1, 2, 72, 80, 128, 256] {
            let (power, rest) = split_scale(d);
            assert_eq!(power.log2().fract(), 0.0);
            assert!(rest > 0.5 && rest <= 1.0 && (power * rest * (d as f32).sqrt() - 1.0).abs() < 1e-6, "{d}: {rest}");
        }
    }

    #[test]
    fn full_attention_agrees_with_the_cpu() {
        for tested in tested() {
            // Head widths of released towers; numbers of positions that are multiples of an access, and others.
            for (b, s, n_heads, d) in [(2, 9, 2, 64), (1, 17, 2, 72), (3, 8, 1, 80), (2, 1, 2, 128), (2, 5, 3, 6)] {
                // Views into one tensor, like the outputs of joined layers.
                let width = n_heads * d;
                let all = random((b, s, 3 * width), 5);
                let parts = |all: &Tensor| [0, 1, 2].map(|i| all.narrow(2, i * width, width).expect("a third"));
                let found =
                    tested.kernels.full_attention(&parts(&tested.given(&all)), n_heads).expect("the shapes match");
                let separate = parts(&tested.given(&all)).map(|x| x.contiguous().expect("memory"));
                let of_separate = tested.kernels.full_attention(&separate, n_heads).expect("the shapes match");
                let expected =
                    reference().full_attention(&parts(&tested.rounded(&all)), n_heads).expect("the shapes match");
                tested.assert_close(&format!("full attention of {b} x {s}, {n_heads} x {d}"), &found, &expected);
                tested.assert_close("full attention of separate tensors", &of_separate, &expected);
                // The GEMM path, whichever path was taken above.
                let found =
                    full_by_gemm(tested.kernels, &parts(&tested.given(&all)), n_heads).expect("the shapes match");
                tested.assert_close("full attention by GEMM", &found, &expected);
            }
        }
    }

    #[test]
    fn grouped_attention_over_spans_agrees_with_the_cpu() {
        for tested in tested() {
            let (q, k, v) = (random((2, 4, 3, 64), 1), random((2, 2, 5, 64), 2), random((2, 2, 5, 64), 3));
            let spans = [[0..1, 0..0], [0..2, 3..4], [0..5, 0..0], [0..0, 1..3], [2..4, 4..5], [0..3, 0..0]];
            let visible = VisibleKeys::new(spans.to_vec(), 5);
            for mask in [Mask::Full, Mask::Visible(&visible)] {
                let run = |kernels: &dyn Kernels, of: &dyn Fn(&Tensor) -> Tensor| {
                    kernels.attention(&of(&q), &of(&k), &of(&v), mask).expect("the shapes match")
                };
                let found = run(tested.kernels, &|x| tested.given(x));
                tested.assert_close("attention", &found, &run(reference(), &|x| tested.rounded(x)));
            }
        }
    }
}
