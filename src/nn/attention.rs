//! Scaled dot-product attention with grouped key-value heads, without copying keys or values.

use candle_core::{D, DType, Result, Tensor};

use super::matmul;
use super::softmax::{Visible, softmax, softmax_visible};
use crate::kernels::cpu::blockwise_attention::FullAttention;

/// What a query may see.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// Every key.
    Full,
    /// The last query sees every key, the one before it all but the last, and so on.
    Causal,
    /// The keys that are named for it.
    Visible(&'a Visible),
}

/// Attention of queries over keys and values. Key-value head `j` serves the query heads
/// `j n_heads / n_kv_heads ..`, as in grouped-query attention (arXiv 2305.13245).
///
/// # Shapes
/// `q (B, n_heads, S, d)`, `k` and `v` `(B, n_kv_heads, K, d)` to `(B, n_heads, S, d)`. `k` and `v` may be views into
/// a larger cache when `B = 1`.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask<'_>) -> Result<Tensor> {
    let (_, n_heads, s, _) = q.dims4()?;
    let (_, n_kv_heads, _, _) = k.dims4()?;
    if n_kv_heads == 0 || n_heads % n_kv_heads != 0 {
        candle_core::bail!("attention: {n_heads} heads do not share {n_kv_heads} key-value heads evenly");
    }
    #[cfg(feature = "flash-attn")]
    if q.device().is_cuda() && matches!(q.dtype(), DType::F16 | DType::BF16) && !matches!(mask, Mask::Visible(_)) {
        return flash(q, k, v, mask);
    }
    if k.dims() != v.dims()
        || k.dim(0)? != q.dim(0)?
        || k.dim(3)? != q.dim(3)?
        || k.dim(2)? < s && matches!(mask, Mask::Causal)
    {
        candle_core::bail!("attention: {:?} over keys {:?} and values {:?}", q.dims(), k.dims(), v.dims());
    }
    masked(q, k, v, mask)
}

/// Attention on candle's own operations, with gradients, on any device.
pub(crate) fn masked(q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask<'_>) -> Result<Tensor> {
    let (b, n_heads, s, d) = q.dims4()?;
    let (_, n_kv_heads, n_keys, _) = k.dims4()?;
    let group = n_heads / n_kv_heads;
    let scale = 1.0 / (d as f64).sqrt();
    // The queries of one group are rows against the same keys.
    let q = (q.contiguous()? * scale)?.reshape((b, n_kv_heads, group * s, d))?;
    let scores = matmul(&q, &k.transpose(2, 3)?)?; // (B, n_kv_heads, group S, K)
    let by_head = |scores: &Tensor| scores.reshape((b, n_heads, s, n_keys));
    let weights = match mask {
        Mask::Visible(visible) => softmax_visible(&by_head(&scores)?, visible)?,
        Mask::Causal if s > 1 => softmax(&by_head(&scores)?.broadcast_add(&causal_bias(s, n_keys, &scores)?)?)?,
        Mask::Causal | Mask::Full => softmax(&scores)?,
    };
    let weights = weights.reshape((b, n_kv_heads, group * s, n_keys))?;
    matmul(&weights, v)?.reshape((b, n_heads, s, d))
}

/// Attention in which every query sees every key, of queries, keys and values as linear layers make them.
///
/// # Shapes
/// `(B, S, n d)` each, which may be views into one tensor, to `(B, S, n d)`.
///
/// # Errors
/// When the shapes do not fit.
pub fn full_attention(qkv: &[Tensor; 3], n_heads: usize) -> Result<Tensor> {
    let [q, k, v] = qkv;
    let is_tracked = qkv.iter().any(Tensor::track_op);
    if q.device().is_cpu() && q.dtype() == DType::F32 && !is_tracked {
        return q.apply_op3_no_bwd(k, v, &FullAttention { n_heads });
    }
    let heads = |x: &Tensor| split_heads(x, n_heads);
    join_heads(&attention(&heads(q)?, &heads(k)?, &heads(v)?, Mask::Full)?)
}

/// 0 where query `i` of `s` may see key `j` of `n_keys`, minus infinity elsewhere: `(S, K)`.
fn causal_bias(s: usize, n_keys: usize, like: &Tensor) -> Result<Tensor> {
    let past = n_keys - s;
    let bias: Vec<f32> =
        (0..s).flat_map(|i| (0..n_keys).map(move |j| if j <= past + i { 0.0 } else { f32::NEG_INFINITY })).collect();
    Tensor::from_vec(bias, (s, n_keys), like.device())?.to_dtype(like.dtype())
}

#[cfg(feature = "flash-attn")]
fn flash(q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask<'_>) -> Result<Tensor> {
    let scale = 1.0 / (q.dim(D::Minus1)? as f32).sqrt();
    let (q, k, v) = (q.transpose(1, 2)?, k.transpose(1, 2)?, v.transpose(1, 2)?); // (B, S, n_heads, d)
    candle_flash_attn::flash_attn(&q, &k, &v, scale, matches!(mask, Mask::Causal))?.transpose(1, 2)
}

/// `(B, S, n d)` to `(B, n, S, d)`.
///
/// # Errors
/// When the last dimension is not `n_heads * d_head`.
pub fn split_heads(x: &Tensor, n_heads: usize) -> Result<Tensor> {
    let (b, s, width) = x.dims3()?;
    x.reshape((b, s, n_heads, width / n_heads))?.transpose(1, 2)?.contiguous()
}

/// `(B, n, S, d)` to `(B, S, n d)`.
///
/// # Errors
/// When `x` has not four dimensions.
pub fn join_heads(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.flatten_from(D::Minus2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_causal_query_sees_its_past_and_itself() {
        // Equal scores (q = 0): each query takes the mean of the values that it sees.
        let q = Tensor::zeros((1, 1, 2, 2), DType::F32, &Device::Cpu).expect("small");
        let v = Tensor::new(&[[[[1f32, 0.0], [3.0, 6.0], [8.0, 3.0]]]], &Device::Cpu).expect("small");
        let out = attention(&q, &v, &v, Mask::Causal)
            .and_then(|out| out.flatten_all()?.to_vec1::<f32>())
            .expect("shapes fit");
        // One key is in the past: query 0 sees two, query 1 all three.
        assert_eq!(out, [2.0, 3.0, 4.0, 3.0]);
    }

    #[test]
    fn grouped_heads_equal_repeated_ones() {
        let random =
            |shape: (usize, usize, usize, usize)| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("small");
        let (q, k, v) = (random((1, 4, 3, 8)), random((1, 2, 5, 8)), random((1, 2, 5, 8)));
        let repeated = |x: &Tensor| x.unsqueeze(2)?.expand((1, 2, 2, 5, 8))?.reshape((1, 4, 5, 8));
        let grouped = attention(&q, &k, &v, Mask::Causal).expect("shapes fit");
        let full =
            attention(&q, &repeated(&k).expect("small"), &repeated(&v).expect("small"), Mask::Causal).expect("fit");
        let difference = (grouped - full).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>()).expect("same shape");
        assert!(difference < 1e-6, "{difference}");
    }

    #[test]
    fn attention_has_its_gradients() {
        use crate::nn::finite_difference::{assert_gradients, random};
        for mask in [Mask::Full, Mask::Causal] {
            let (q, k, v) = (random((2, 4, 3, 2), 1), random((2, 2, 3, 2), 2), random((2, 2, 3, 2), 3));
            assert_gradients(&[q, k, v], |t| attention(&t[0], &t[1], &t[2], mask));
        }
    }

    #[test]
    fn heads_that_cannot_be_shared_are_refused() {
        let of = |shape: (usize, usize, usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("small");
        for (k, v) in [((1, 1, 3, 8), (1, 1, 3, 8)), ((2, 1, 3, 4), (2, 1, 3, 4)), ((1, 1, 3, 4), (1, 1, 2, 4))] {
            assert!(attention(&of((1, 1, 1, 4)), &of(k), &of(v), Mask::Causal).is_err());
        }
        assert!(attention(&of((1, 1, 3, 4)), &of((1, 1, 2, 4)), &of((1, 1, 2, 4)), Mask::Causal).is_err());
        let zeros = |heads| Tensor::zeros((1, heads, 1, 2), DType::F32, &Device::Cpu).expect("small");
        assert!(attention(&zeros(3), &zeros(2), &zeros(2), Mask::Full).is_err());
    }
}
