//! Attention of so few queries that moving keys and values costs more than the sums: they are read where they are, once for all
//! queries that share them. For decoding in f32 on the CPU.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape};
use rayon::prelude::*;

use super::blockwise_attention::{Heads, Rows};
use super::elementwise::exp_from_largest;
use super::processor::for_each_processor;

/// Products below which other threads are not worth waking.
const PARALLEL: usize = 1 << 17;

/// The last query sees every key, the one before it all but the last, and so on. Key-value heads may be fewer than heads.
///
/// # Shapes
/// `q (B, n_heads, S, d)`, `k` and `v` `(B, n_kv_heads, K, d)` to `(B, n_heads, S, d)`; rows are contiguous, and whatever holds them
/// may be larger.
pub(super) struct DecodeAttention;

impl CustomOp3 for DecodeAttention {
    fn name(&self) -> &'static str {
        "decode-attention"
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
        let (q, k, v) = (Heads::of(q, q_layout)?, Heads::of(k, k_layout)?, Heads::of(v, v_layout)?);
        if n_keys < s || n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) || v_layout.dims() != k_layout.dims() {
            candle_core::bail!("decode-attention: {:?} over {:?}", q_layout.dims(), k_layout.dims());
        }
        let group = n_heads / n_kv_heads;
        let mut y = vec![0.0; batch * n_heads * s * d];
        let run = |(i, y): (usize, &mut [f32])| {
            let (b, kv_head) = (i / n_kv_heads, i % n_kv_heads);
            let queries = (0..group).map(|j| q.head(b, kv_head * group + j));
            let queries = queries.flat_map(|head| (0..s).map(move |i| (head.row(i, d), n_keys - s + i + 1)));
            over_head(queries, (k.head(b, kv_head), v.head(b, kv_head)), y);
        };
        let size = group * s * d;
        if batch * n_heads * s * n_keys * d < PARALLEL {
            y.chunks_mut(size).enumerate().for_each(run);
        } else {
            y.par_chunks_mut(size).enumerate().for_each(run);
        }
        Ok((CpuStorage::F32(y), (batch, n_heads, s, d).into()))
    }
}

/// Each query, with the number of keys that it sees, over one head's keys and values.
fn over_head<'q>(
    queries: impl Iterator<Item = (&'q [f32], usize)>,
    (keys, values): (Rows<'_>, Rows<'_>),
    y: &mut [f32],
) {
    let mut scores = Vec::new();
    let mut y = y;
    for (query, n_seen) in queries {
        let (out, rest) = y.split_at_mut(query.len());
        y = rest;
        scores.resize(n_seen, 0.0);
        score(query, keys.numbers, keys.stride, &mut scores);
        let sum = exp_from_largest(&mut scores, (query.len() as f32).powf(-0.5));
        weighted_sum(&scores, values.numbers, values.stride, out);
        out.iter_mut().for_each(|y| *y /= sum);
    }
}

for_each_processor! {
    /// The products of a query with as many keys, one every `stride` numbers, as there are scores.
    score, score_of, (query: &[f32], keys: &[f32], stride: usize, scores: &mut [f32])
}
for_each_processor! {
    /// The sum of values, one every `stride` numbers, each times its weight.
    weighted_sum, weighted_sum_of, (weights: &[f32], values: &[f32], stride: usize, y: &mut [f32])
}

#[inline(always)]
fn score_of(query: &[f32], keys: &[f32], stride: usize, scores: &mut [f32]) {
    const LANES: usize = 16;
    let (whole, rest) = query.as_chunks::<LANES>();
    for (score, key) in scores.iter_mut().zip(keys.chunks(stride)) {
        let (whole_key, rest_key) = key[..query.len()].as_chunks::<LANES>();
        let mut sums = [0.0f32; LANES];
        for (q, k) in whole.iter().zip(whole_key) {
            sums.iter_mut().zip(q.iter().zip(k)).for_each(|(sum, (q, k))| *sum += q * k);
        }
        // Halves onto each other, in registers.
        let eight: [f32; 8] = std::array::from_fn(|i| sums[i] + sums[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        let rest: f32 = rest.iter().zip(rest_key).map(|(q, k)| q * k).sum();
        *score = (four[0] + four[2]) + (four[1] + four[3]) + rest;
    }
}

#[inline(always)]
fn weighted_sum_of(weights: &[f32], values: &[f32], stride: usize, y: &mut [f32]) {
    /// Channels whose sums stay in registers.
    const CHANNELS: usize = 64;
    let n_whole = y.len() / CHANNELS * CHANNELS;
    let (whole, rest) = y.as_chunks_mut::<CHANNELS>();
    for (i, y) in whole.iter_mut().enumerate() {
        let mut sums = [0.0; CHANNELS];
        for (weight, value) in weights.iter().zip(values.chunks(stride)) {
            sums.iter_mut().zip(&value[i * CHANNELS..][..CHANNELS]).for_each(|(sum, value)| *sum += weight * value);
        }
        *y = sums;
    }
    rest.fill(0.0);
    for (weight, value) in weights.iter().zip(values.chunks(stride)) {
        rest.iter_mut().zip(&value[n_whole..]).for_each(|(sum, value)| *sum += weight * value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::attention::{Mask, masked};
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn decode_attention_is_attention_over_what_a_query_may_see() {
        for (n_heads, n_kv_heads, s, n_keys, d) in
            [(1, 1, 1, 1, 1), (4, 2, 9, 12, 4), (6, 2, 1, 200, 72), (8, 1, 3, 700, 130), (2, 2, 15, 40, 64)]
        {
            let random = |n: usize, s: usize| Tensor::randn(0f32, 1.0, (1, n, s, d), &Device::Cpu).expect("small");
            let q = random(n_heads, s);
            // Keys and values are views into something larger, as in a cache.
            let view = |x: Tensor| x.narrow(2, 0, n_keys).expect("long enough");
            let (k, v) = (view(random(n_kv_heads, n_keys + 3)), view(random(n_kv_heads, n_keys + 3)));
            let found = q.apply_op3_no_bwd(&k, &v, &DecodeAttention).expect("the shapes fit");
            let expected = masked(&q, &k, &v, Mask::Causal).expect("the shapes fit");
            let difference = (&found - &expected).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>());
            assert!(difference.expect("same shape") < 2e-6, "{n_heads} x {s} x {n_keys} x {d}");
            // The last query alone comes out the same to the bit.
            let last = q.narrow(2, s - 1, 1).expect("there is one");
            let alone = last.apply_op3_no_bwd(&k, &v, &DecodeAttention).expect("the shapes fit");
            let numbers = |x: &Tensor| x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
            assert_eq!(numbers(&alone), numbers(&found.narrow(2, s - 1, 1).expect("there is one")));
        }
        let x = Tensor::zeros((1, 2, 3, 4), DType::F32, &Device::Cpu).expect("small");
        let few = x.narrow(2, 0, 2).expect("two rows");
        assert!(x.apply_op3_no_bwd(&few, &few, &DecodeAttention).is_err());
    }
}
