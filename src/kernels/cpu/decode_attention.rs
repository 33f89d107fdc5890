//! Attention of so few queries that moving keys and values costs more than the sums: they are read where they are, once for all
//! queries that share them. For decoding in f32 on the CPU.

use super::blockwise_attention::Rows;
use super::elementwise::exp_from_largest;
use super::processor::for_each_processor;

/// Each query, with the number of keys that it sees, over one head's keys and values.
pub(crate) fn over_head<'q>(
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
