//! Causal attention for inference in f32 on the CPU: many queries blockwise, few where keys and values are.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape};
use rayon::prelude::*;

use super::blockwise_attention::{Head, Rows, Scratch, Sees};
use super::decode_attention::over_head;
use super::gemm::kernel;
use super::memory::in_parts_with;

/// Queries from which on packing keys and values is worth it. Below it the sums are in another order.
const MANY: usize = 16;
/// Products below which other threads are not worth waking for few queries.
const PARALLEL: usize = 1 << 17;

/// The last query sees every key, the one before it all but the last, and so on. Key-value heads may be fewer than heads.
///
/// # Shapes
/// `q (B, n_heads, S, d)`, `k` and `v` `(B, n_kv_heads, K, d)` to `(B, n_heads, S, d)`, as `attention` has checked; rows are
/// contiguous, and whatever holds them may be larger.
pub(crate) struct CausalAttention;

impl CustomOp3 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, n_heads, s, d) = q_layout.shape().dims4()?;
        let (_, n_kv_heads, n_keys, _) = k_layout.shape().dims4()?;
        let (queries, keys, values) = (Heads::of(q, q_layout)?, Heads::of(k, k_layout)?, Heads::of(v, v_layout)?);
        let all = Causal { queries, keys, values, batch, n_heads, n_kv_heads, s, n_keys, d };
        let y = if s < MANY { all.few() } else { all.many() };
        Ok((CpuStorage::F32(y), (batch, n_heads, s, d).into()))
    }
}

/// Queries, keys and values of all heads.
struct Causal<'x> {
    queries: Heads<'x>,
    keys: Heads<'x>,
    values: Heads<'x>,
    batch: usize,
    n_heads: usize,
    n_kv_heads: usize,
    /// Queries of a head.
    s: usize,
    n_keys: usize,
    d: usize,
}

impl Causal<'_> {
    /// Head by head.
    fn many(&self) -> Vec<f32> {
        let &Self { batch, n_heads, n_kv_heads, s, n_keys, d, .. } = self;
        in_parts_with(batch * n_heads * s * d, s * d, Scratch::default, |scratch, i, y| {
            let (b, head) = (i / n_heads, i % n_heads);
            let of_keys = head / (n_heads / n_kv_heads);
            let (queries, keys) = (self.queries.head(b, head), self.keys.head(b, of_keys));
            let values = self.values.head(b, of_keys);
            Head { queries, keys, values, n_queries: s, n_keys, d, sees: Sees::Past, kernel: kernel() }.run(scratch, y);
        })
    }

    /// One head of keys and values after the other, for all queries that share it.
    fn few(&self) -> Vec<f32> {
        let &Self { batch, n_heads, n_kv_heads, s, n_keys, d, .. } = self;
        let group = n_heads / n_kv_heads;
        let mut y = vec![0.0; batch * n_heads * s * d];
        let run = |(i, y): (usize, &mut [f32])| {
            let (b, of_keys) = (i / n_kv_heads, i % n_kv_heads);
            let heads = (0..group).map(|j| self.queries.head(b, of_keys * group + j));
            let queries = heads.flat_map(|head| (0..s).map(move |i| (head.row(i, d), n_keys - s + i + 1)));
            over_head(queries, (self.keys.head(b, of_keys), self.values.head(b, of_keys)), y);
        };
        let of_group = (group * s * d).max(1);
        if batch * n_heads * s * n_keys * d < PARALLEL {
            y.chunks_mut(of_group).enumerate().for_each(run);
        } else {
            y.par_chunks_mut(of_group).enumerate().for_each(run);
        }
        y
    }
}

/// The heads of a tensor `(B, n, S, d)`.
struct Heads<'x> {
    numbers: &'x [f32],
    stride: [usize; 3],
}

impl<'x> Heads<'x> {
    fn of(x: &'x CpuStorage, layout: &Layout) -> Result<Self> {
        let &[of_batch, of_head, of_row, 1] = layout.stride() else {
            candle_core::bail!("attention wants contiguous rows, not strides {:?}", layout.stride());
        };
        Ok(Self { numbers: &x.as_slice::<f32>()?[layout.start_offset()..], stride: [of_batch, of_head, of_row] })
    }

    fn head(&self, b: usize, head: usize) -> Rows<'x> {
        let [of_batch, of_head, stride] = self.stride;
        Rows { numbers: &self.numbers[b * of_batch + head * of_head..], stride }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::attention::{Mask, attention, masked};
    use candle_core::{Device, Tensor};

    #[test]
    fn causal_attention_is_attention_over_what_a_query_may_see() {
        for (n_heads, n_kv_heads, s, n_keys, d) in [
            (1, 1, 1, 1, 1),
            (4, 2, 9, 12, 4),
            (6, 2, 1, 200, 72),
            (8, 1, 3, 700, 130),
            (2, 2, 15, 40, 64),
            (4, 2, 16, 16, 4),
            (6, 2, 70, 200, 72),
            (2, 2, 130, 130, 64),
        ] {
            let random = |n: usize, s: usize| Tensor::randn(0f32, 1.0, (1, n, s, d), &Device::Cpu).expect("small");
            let q = random(n_heads, s);
            // Keys and values are views into something larger, as in a cache.
            let view = |x: Tensor| x.narrow(2, 0, n_keys).expect("long enough");
            let (k, v) = (view(random(n_kv_heads, n_keys + 3)), view(random(n_kv_heads, n_keys + 3)));
            let found = attention(&q, &k, &v, Mask::Causal).expect("the shapes fit");
            let expected = masked(&q, &k, &v, Mask::Causal).expect("the shapes fit");
            let difference = (&found - &expected).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>());
            assert!(difference.expect("same shape") < 2e-6, "{n_heads} x {s} x {n_keys} x {d}");
            // The last queries alone come out the same to the bit, as long as they are as many or as few.
            let n = if s < MANY { 1 } else { MANY };
            let last = q.narrow(2, s - n, n).expect("there are so many");
            let alone = attention(&last, &k, &v, Mask::Causal).expect("the shapes fit");
            let numbers = |x: &Tensor| x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
            assert_eq!(numbers(&alone), numbers(&found.narrow(2, s - n, n).expect("there are so many")));
        }
        let x = Tensor::zeros((1, 2, 3, 4), candle_core::DType::F32, &Device::Cpu).expect("small");
        let turned = x.transpose(2, 3).expect("a matrix");
        assert!(attention(&turned, &turned, &turned, Mask::Causal).is_err());
    }
}
