//! Attention on a GPU: tile by tile where there is a kernel for the heads (`tiled_attention`), else by products and one
//! masked softmax between them (`softmax.cu`, `attention.cu`).
//!
//! By products, scores are in the activations' precision, scaled, masked and normalised in place, without a mask or an
//! f32 copy in memory; key-value heads are never repeated. The scale `1 / sqrt(d)` is split: its power of two is a
//! factor of the queries, where it rounds nothing and keeps scores within f16; the softmax applies the rest in f32.

use candle_core::{DType, Result, Tensor};

use super::launch::{Executor, Launch, LaunchGeometry};
use super::softmax::{KeyMask, MaskedSoftmax};
use super::tiled_attention::{self, AttentionSizes, Heads, TiledAttention};
use crate::kernels::attention::{check, check_full};
use crate::kernels::{Kernels, Mask, VisibleKeys};

/// Keys are padded to a multiple of this: 16 bytes of 2-byte elements, which cuBLAS and the softmax access at once.
const KEYS_MULTIPLE: usize = 8;

/// The two factors of `1 / sqrt(d)`: a power of two, and the rest, in `1/2..1`.
pub(crate) fn scale_of(d_head: usize) -> (f32, f32) {
    let scale = 1.0 / (d_head.max(1) as f32).sqrt();
    let power = 2f32.powi(scale.log2().ceil() as i32);
    (power, scale / power)
}

/// Attention without gradients: see [`Kernels::attention`].
///
/// # Errors
/// When the shapes do not fit, or a launch fails.
pub(super) fn attention(
    (executor, kernels): (&dyn Executor, &dyn Kernels),
    [q, k, v]: [&Tensor; 3],
    mask: Mask<'_>,
) -> Result<Tensor> {
    check(q, k, v)?;
    let (b, n_heads, s, d) = q.dims4()?;
    let (_, n_kv_heads, n_keys, _) = k.dims4()?;
    let (power, scale) = scale_of(d);
    // The queries of one group are rows against the same keys.
    let q = (q.contiguous()? * f64::from(power))?.reshape((b, n_kv_heads, n_heads / n_kv_heads * s, d))?;
    let scores = kernels.matmul(&q, &k.transpose(2, 3)?)?.reshape((b, n_heads, s, n_keys))?;
    let spans = match mask {
        Mask::Full => None,
        Mask::Visible(visible) => Some(spans_of(visible, &scores)?),
    };
    let keys = spans.as_ref().map_or(KeyMask::All, KeyMask::Spans);
    MaskedSoftmax { n_keys, keys, scale }.run(executor, &scores)?;
    let weights = scores.reshape((b, n_kv_heads, n_heads / n_kv_heads * s, n_keys))?;
    kernels.matmul(&weights, v)?.reshape((b, n_heads, s, d))
}

/// The spans of a mask, `(B S, 4)` in u32.
fn spans_of(visible: &VisibleKeys, scores: &Tensor) -> Result<Tensor> {
    visible.check(scores)?;
    let n = scores.dim(0)? * scores.dim(2)?;
    let ends = |i: usize| visible.spans(i).iter().flat_map(|span| [span.start as u32, span.end as u32]);
    Tensor::from_vec((0..n).flat_map(ends).collect::<Vec<u32>>(), (n, 4), scores.device())
}

/// Full attention without gradients: see [`Kernels::full_attention`].
///
/// # Errors
/// When the shapes do not fit, or a launch fails.
pub(super) fn full_attention(
    (executor, kernels): (&'static dyn Executor, &dyn Kernels),
    qkv: &[Tensor; 3],
    n_heads: usize,
) -> Result<Tensor> {
    check_full(qkv, n_heads)?;
    let d = qkv[0].dim(2)? / n_heads;
    if tiled_attention::is_available(executor, qkv[0].dtype(), d) {
        let rows = [spaced(&qkv[0])?, spaced(&qkv[1])?, spaced(&qkv[2])?];
        let y = executor.empty(qkv[0].shape().clone(), qkv[0].dtype())?;
        let attention = by_tiles(&y, &rows, n_heads)?;
        if attention.is_aligned() && rows[1].1 == rows[2].1 {
            attention.run(executor)?;
            return Ok(y);
        }
    }
    full_by_products((executor, kernels), qkv, n_heads)
}

/// Full attention of heads that are read where they lie, in rows of `(B, S, n d)` at some distances.
fn by_tiles<'a>(y: &'a Tensor, rows: &'a [(Tensor, usize); 3], n_heads: usize) -> Result<TiledAttention<'a>> {
    let (batch, n, width) = y.dims3()?;
    let d_head = width / n_heads;
    let heads = |tensor, distance| Heads { tensor, distances: [n * distance, d_head, distance] };
    let [(q, q_distance), (k, k_distance), (v, _)] = rows;
    Ok(TiledAttention {
        y: heads(y, width),
        queries: heads(q, *q_distance),
        keys: heads(k, *k_distance),
        values: v,
        sizes: AttentionSizes { batch, n_heads, n_kv_heads: n_heads, n_queries: n, n_keys: n, d_head },
        mask: KeyMask::All,
        scale: 1.0 / (d_head as f32).sqrt(),
    })
}

/// Full attention by products: see [`Kernels::full_attention`].
fn full_by_products(
    (executor, kernels): (&dyn Executor, &dyn Kernels),
    qkv: &[Tensor; 3],
    n_heads: usize,
) -> Result<Tensor> {
    let (b, s, width) = qkv[0].dims3()?;
    let (d, padded) = (width / n_heads, s.next_multiple_of(KEYS_MULTIPLE));
    let (power, scale) = scale_of(d);
    let [q, k, v] = split_heads(executor, qkv, SplitHeads { n_heads, padded, factor: power })?;
    let scores = kernels.matmul(&q, &k.t()?)?; // (B, n_heads, S, padded)
    MaskedSoftmax { n_keys: s, keys: KeyMask::All, scale }.run(executor, &scores)?;
    let heads = kernels.matmul(&scores, &v)?; // (B, n_heads, S, d)
    let rows = executor.empty((b, s, width).into(), heads.dtype())?;
    let geometry = by_position([s, b], width, heads.dtype());
    let launch = Launch::new("join_heads", heads.dtype(), geometry).tensor(&rows)?.tensor(&heads)?;
    launch.size(width)?.size(d)?.run(executor)?;
    Ok(rows)
}

/// How rows become heads.
#[derive(Debug, Clone, Copy)]
struct SplitHeads {
    n_heads: usize,
    /// Positions of keys and values, those beyond the rows filled with 0.
    padded: usize,
    /// Factor of the queries.
    factor: f32,
}

/// Three of `(B, S, n d)`, which may be views into one tensor, to `(B, n, S, d)` and twice `(B, n, padded, d)`.
fn split_heads(executor: &dyn Executor, qkv: &[Tensor; 3], split: SplitHeads) -> Result<[Tensor; 3]> {
    let (b, s, width) = qkv[0].dims3()?;
    let (d, dtype) = (width / split.n_heads, qkv[0].dtype());
    let ((q, q_distance), (k, k_distance), (v, v_distance)) = (spaced(&qkv[0])?, spaced(&qkv[1])?, spaced(&qkv[2])?);
    let heads = |positions| executor.empty((b, split.n_heads, positions, d).into(), dtype);
    let [queries, keys, values] = [heads(s)?, heads(split.padded)?, heads(split.padded)?];
    let launch = Launch::new("split_heads", dtype, by_position([split.padded, b], width, dtype));
    let launch = launch.tensor(&queries)?.tensor(&keys)?.tensor(&values)?.rows(&q)?.rows(&k)?.rows(&v)?;
    let launch = launch.size(s)?.size(width)?.size(d)?.size(q_distance)?.size(k_distance)?.size(v_distance)?;
    launch.float(split.factor).run(executor)?;
    Ok([queries, keys, values])
}

/// Rows at an even distance over batch and positions, with that distance in elements: `(B, S, n d)` as it is, or
/// copied.
fn spaced(x: &Tensor) -> Result<(Tensor, usize)> {
    let (b, s, width) = x.dims3()?;
    match *x.stride() {
        [batch, distance, 1] if b == 1 || batch == s * distance => Ok((x.clone(), distance)),
        _ => Ok((x.contiguous()?, width)),
    }
}

/// A block for each position of each sequence.
fn by_position([positions, batch]: [usize; 2], width: usize, dtype: DType) -> LaunchGeometry {
    LaunchGeometry { grid: [positions, batch, 1], ..LaunchGeometry::of_rows(1, width, dtype) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::tests::{reference, tested};
    use crate::kernels::finite_difference::random;

    #[test]
    fn the_scale_is_a_power_of_two_and_a_rest_near_one() {
        // 1 / sqrt(64) = 1/8; 1 / sqrt(128) = 1/8 x 0.7071; 1 / sqrt(72) = 1/8 x 0.9428.
        assert_eq!(scale_of(64), (0.125, 1.0));
        for d in [1, 2, 72, 80, 128, 256] {
            let (power, rest) = scale_of(d);
            assert_eq!(power.log2().fract(), 0.0);
            assert!(rest > 0.5 && rest <= 1.0 && (power * rest * (d as f32).sqrt() - 1.0).abs() < 1e-6, "{d}: {rest}");
        }
    }

    #[test]
    fn towers_attend_as_on_the_cpu() {
        for tested in tested() {
            // Heads of released towers, positions that fill accesses and that do not.
            for (b, s, n_heads, d) in [(2, 9, 2, 64), (1, 17, 2, 72), (3, 8, 1, 80), (2, 1, 2, 128), (2, 5, 3, 6)] {
                // Side by side in one tensor, as joined layers give them.
                let width = n_heads * d;
                let all = random((b, s, 3 * width), 5);
                let parts = |all: &Tensor| [0, 1, 2].map(|i| all.narrow(2, i * width, width).expect("a third"));
                let found = tested.kernels.full_attention(&parts(&tested.given(&all)), n_heads).expect("it fits");
                let apart = parts(&tested.given(&all)).map(|x| x.contiguous().expect("memory"));
                let of_apart = tested.kernels.full_attention(&apart, n_heads).expect("it fits");
                let expected = reference().full_attention(&parts(&tested.rounded(&all)), n_heads).expect("it fits");
                tested.assert_close(&format!("full attention of {b} x {s}, {n_heads} x {d}"), &found, &expected);
                tested.assert_close("full attention of tensors apart", &of_apart, &expected);
                // The other way to compute the same, whichever was taken.
                let both = (tested.kernels.executor, tested.kernels as &dyn Kernels);
                let found = full_by_products(both, &parts(&tested.given(&all)), n_heads).expect("it fits");
                tested.assert_close("full attention by products", &found, &expected);
            }
        }
    }

    #[test]
    fn grouped_heads_attend_over_spans_as_on_the_cpu() {
        for tested in tested() {
            let (q, k, v) = (random((2, 4, 3, 64), 1), random((2, 2, 5, 64), 2), random((2, 2, 5, 64), 3));
            let spans = [[0..1, 0..0], [0..2, 3..4], [0..5, 0..0], [0..0, 1..3], [2..4, 4..5], [0..3, 0..0]];
            let visible = VisibleKeys::new(spans.to_vec(), 5);
            for mask in [Mask::Full, Mask::Visible(&visible)] {
                let run = |kernels: &dyn Kernels, of: &dyn Fn(&Tensor) -> Tensor| {
                    kernels.attention(&of(&q), &of(&k), &of(&v), mask).expect("it fits")
                };
                let found = run(tested.kernels, &|x| tested.given(x));
                tested.assert_close("attention", &found, &run(reference(), &|x| tested.rounded(x)));
            }
        }
    }
}
