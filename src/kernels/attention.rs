//! Attention masks, shape checks, and the reference attention: matrix products and a softmax of any [`Kernels`], with
//! gradients. Fused and paged attention are elsewhere (`cpu`, `cuda`, `candle_pages`).

use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, Device, Result, Tensor};

use super::Kernels;

/// Attention mask: the keys that are visible to each query.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// Every key is visible.
    Full,
    /// Two ranges of keys for each query.
    Visible(&'a VisibleKeys),
}

/// Visible keys of each query of a packed batch: a shared prefix and a range of its own sequence.
#[derive(Debug, Clone)]
pub struct VisibleKeys {
    /// Pairs of ranges of the `B S` queries, row by row.
    spans: Arc<Vec<[Range<usize>; 2]>>,
    n_keys: usize,
}

impl VisibleKeys {
    /// Creates a mask of `B S` pairs of disjoint ranges over `n_keys` keys; at most one range of a pair may be empty.
    pub fn new(spans: Vec<[Range<usize>; 2]>, n_keys: usize) -> Self {
        Self { spans: Arc::new(spans), n_keys }
    }

    /// Returns the visible ranges of query `i` of `B S`.
    pub(super) fn spans(&self, i: usize) -> &[Range<usize>; 2] {
        &self.spans[i]
    }

    /// Checks that the mask has the size of `scores (B, n_heads, S, K)`.
    ///
    /// # Errors
    /// When another number of queries or keys is masked.
    pub(super) fn check(&self, scores: &Tensor) -> Result<()> {
        let (batch, _, s, n_keys) = scores.dims4()?;
        if (batch * s, n_keys) != (self.spans.len(), self.n_keys) {
            candle_core::bail!(
                "attention: {batch} x {s} queries of {n_keys} keys, but the mask is of {} queries of {} keys",
                self.spans.len(),
                self.n_keys
            );
        }
        Ok(())
    }

    /// Returns the additive mask: 0 for visible keys, minus infinity elsewhere.
    ///
    /// # Shapes
    /// `(B, 1, S, K)` with `B = batch`.
    ///
    /// # Errors
    /// When the number of queries is not a multiple of `batch`.
    pub(super) fn bias(&self, batch: usize, device: &Device) -> Result<Tensor> {
        let mut bias = vec![f32::NEG_INFINITY; self.spans.len() * self.n_keys];
        for (row, spans) in bias.chunks_exact_mut(self.n_keys).zip(self.spans.iter()) {
            spans.iter().for_each(|span| row[span.clone()].fill(0.0));
        }
        Tensor::from_vec(bias, (batch, 1, self.spans.len() / batch, self.n_keys), device)
    }
}

/// Splits rows `(B, S, n d)` into heads `(B, n, S, d)`.
///
/// # Errors
/// When the last dimension is not `n_heads * d_head`.
pub(crate) fn split_heads(x: &Tensor, n_heads: usize) -> Result<Tensor> {
    let (b, s, width) = x.dims3()?;
    x.reshape((b, s, n_heads, width / n_heads.max(1)))?.transpose(1, 2)?.contiguous()
}

/// Joins heads `(B, n, S, d)` into rows `(B, S, n d)`.
///
/// # Errors
/// When `x` is not of rank 4.
pub(crate) fn join_heads(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.flatten_from(D::Minus2)
}

/// Checks the shapes of [`Kernels::attention`].
///
/// # Errors
/// When the shapes do not match.
pub(super) fn check(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
    let (batch, n_heads, _, d) = q.dims4()?;
    let (_, n_kv_heads, _, _) = k.dims4()?;
    if n_kv_heads == 0 || n_heads % n_kv_heads != 0 {
        candle_core::bail!("attention: {n_heads} query heads, not a multiple of {n_kv_heads} key-value heads");
    }
    if k.dims() != v.dims() || (k.dim(0)?, k.dim(3)?) != (batch, d) {
        candle_core::bail!("attention: {:?} over keys {:?} and values {:?}", q.dims(), k.dims(), v.dims());
    }
    Ok(())
}

/// Checks the shapes of [`Kernels::full_attention`].
///
/// # Errors
/// When the shapes do not match.
pub(super) fn check_full(qkv: &[Tensor; 3], n_heads: usize) -> Result<()> {
    let [q, k, v] = [&qkv[0], &qkv[1], &qkv[2]];
    let (_, _, width) = q.dims3()?;
    if n_heads == 0 || !width.is_multiple_of(n_heads) || k.dims() != q.dims() || v.dims() != q.dims() {
        let dims = [q.dims(), k.dims(), v.dims()];
        candle_core::bail!("full attention: queries, keys and values {dims:?} for {n_heads} heads");
    }
    Ok(())
}

/// Computes [`Kernels::attention`] by matrix products and a softmax over all scores, with gradients. The shapes must
/// have passed [`check`].
pub(super) fn by_scores<K: Kernels + ?Sized>(kernels: &K, [q, k, v]: [&Tensor; 3], mask: Mask<'_>) -> Result<Tensor> {
    let (b, n_heads, s, d) = q.dims4()?;
    let (_, n_kv_heads, n_keys, _) = k.dims4()?;
    let group = n_heads / n_kv_heads;
    let scale = 1.0 / (d as f64).sqrt();
    // The queries of a group are rows of one product with the shared keys.
    let q = (q.contiguous()? * scale)?.reshape((b, n_kv_heads, group * s, d))?;
    let scores = kernels.matmul(&q, &k.transpose(2, 3)?)?; // (B, n_kv_heads, group S, K)
    let by_head = |scores: &Tensor| scores.reshape((b, n_heads, s, n_keys));
    let weights = match mask {
        Mask::Visible(visible) => kernels.softmax_visible(&by_head(&scores)?, visible)?,
        Mask::Full => kernels.softmax(&scores)?,
    };
    let weights = weights.reshape((b, n_kv_heads, group * s, n_keys))?;
    kernels.matmul(&weights, v)?.reshape((b, n_heads, s, d))
}

/// Computes [`Kernels::full_attention`] by [`Kernels::attention`], with gradients.
pub(super) fn full_by_heads<K: Kernels + ?Sized>(kernels: &K, qkv: &[Tensor; 3], n_heads: usize) -> Result<Tensor> {
    let [q, k, v] = [&qkv[0], &qkv[1], &qkv[2]].map(|x| split_heads(x, n_heads));
    join_heads(&kernels.attention(&q?, &k?, &v?, Mask::Full)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::finite_difference::{assert_gradients, random};
    use crate::kernels::tests::implementations;
    use candle_core::DType;

    fn elements(x: &Tensor) -> Vec<f32> {
        x.flatten_all().and_then(|x| x.to_vec1()).expect("f32")
    }

    #[test]
    fn a_query_attends_to_its_visible_keys_only() {
        // Equal scores (q = 0): the output of a query is the mean of its visible values.
        let q = Tensor::zeros((1, 1, 2, 2), DType::F32, &Device::Cpu).expect("small");
        let v = Tensor::new(&[[[[1f32, 0.0], [3.0, 6.0], [8.0, 3.0]]]], &Device::Cpu).expect("small");
        let visible = VisibleKeys::new(vec![[0..2, 0..0], [0..1, 1..3]], 3);
        for kernels in implementations() {
            let out = kernels.attention(&q, &v, &v, Mask::Visible(&visible)).expect("shapes fit");
            assert_eq!(elements(&out), [2.0, 3.0, 4.0, 3.0]);
        }
    }

    #[test]
    fn grouped_heads_equal_repeated_ones() {
        let (q, k, v) = (random((1, 4, 3, 8), 1), random((1, 2, 5, 8), 2), random((1, 2, 5, 8), 3));
        let repeated = |x: &Tensor| x.unsqueeze(2)?.expand((1, 2, 2, 5, 8))?.reshape((1, 4, 5, 8));
        let (all_k, all_v) = (repeated(&k).expect("small"), repeated(&v).expect("small"));
        for kernels in implementations() {
            let grouped = kernels.attention(&q, &k, &v, Mask::Full).expect("shapes fit");
            let full = kernels.attention(&q, &all_k, &all_v, Mask::Full).expect("shapes fit");
            assert!(elements(&grouped).iter().zip(elements(&full)).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }

    #[test]
    fn attention_has_its_gradients() {
        for kernels in implementations() {
            let (q, k, v) = (random((2, 4, 3, 2), 1), random((2, 2, 3, 2), 2), random((2, 2, 3, 2), 3));
            assert_gradients(&[q, k, v], |t| kernels.attention(&t[0], &t[1], &t[2], Mask::Full));
        }
    }

    #[test]
    fn full_attention_has_its_gradients() {
        for kernels in implementations() {
            let qkv = [random((2, 3, 4), 1), random((2, 3, 4), 2), random((2, 3, 4), 3)];
            assert_gradients(&qkv, |t| kernels.full_attention(&[t[0].clone(), t[1].clone(), t[2].clone()], 2));
        }
    }

    #[test]
    fn mismatched_heads_and_widths_are_rejected() {
        let of = |shape: (usize, usize, usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("small");
        for kernels in implementations() {
            for (k, v) in [((1, 1, 3, 8), (1, 1, 3, 8)), ((2, 1, 3, 4), (2, 1, 3, 4)), ((1, 1, 3, 4), (1, 1, 2, 4))] {
                assert!(kernels.attention(&of((1, 1, 1, 4)), &of(k), &of(v), Mask::Full).is_err());
            }
            assert!(kernels.attention(&of((1, 3, 1, 2)), &of((1, 2, 1, 2)), &of((1, 2, 1, 2)), Mask::Full).is_err());
        }
    }
}
