//! Attention whose scores never stand in memory as a whole: for inference in f32 on the CPU.
//!
//! A head's scores are made for a few queries at a time, become weights where they are, and are gone when the queries' sums are made.
//! A head's keys and values are packed for the kernel, and its queries lie together while their scores are made. What comes out for a
//! query depends, to the bit, on that query and the keys that it sees, not on the queries that are run beside it here; fewer than sixteen
//! queries are for `decode_attention`, whose sums are in another order.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape};
use rayon::prelude::*;

use super::elementwise::exp_from_largest;
use super::gemm::{Kernel, Left, Target, Tile, kernel, pack_transpose};
use super::memory::{Lines, in_parts};
use super::rows::contiguous;

/// Tiles of queries whose scores are made together.
const TILES: usize = 4;

/// Every query sees every key, and queries, keys and values stand side by side.
///
/// # Shapes
/// `(B, S, 3 n d)`, queries before keys before values, to `(B, S, n d)`.
pub(super) struct FullAttention {
    pub(super) n_heads: usize,
}

impl CustomOp1 for FullAttention {
    fn name(&self) -> &'static str {
        "full-attention"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, s, width) = layout.shape().dims3()?;
        if self.n_heads == 0 || !width.is_multiple_of(3 * self.n_heads) {
            candle_core::bail!("full-attention: {width} numbers are not three times {} heads", self.n_heads);
        }
        let (x, d_all) = (contiguous(x, layout)?, width / 3);
        let d = d_all / self.n_heads;
        let heads: Vec<Vec<f32>> = (0..batch * self.n_heads)
            .into_par_iter()
            .map_init(Scratch::default, |scratch, i| {
                let (b, head) = (i / self.n_heads, i % self.n_heads);
                let sequence = &x[b * s * width..][..s * width];
                let [queries, keys, values] =
                    [0, 1, 2].map(|part| Rows { numbers: &sequence[part * d_all + head * d..], stride: width });
                let past = s - 1;
                let mut y = vec![0.0; s * d];
                Head { queries, keys, values, n_queries: s, n_keys: s, d, sees: Sees::All, past, kernel: kernel() }
                    .run(scratch, &mut y);
                y
            })
            .collect();
        let y = in_parts(
            batch * s * d_all,
            d_all,
            || (),
            |(), row, y| {
                let (b, row) = (row / s, row % s);
                for (y, head) in y.chunks_exact_mut(d).zip(&heads[b * self.n_heads..]) {
                    y.copy_from_slice(&head[row * d..][..d]);
                }
            },
        );
        Ok((CpuStorage::F32(y), (batch, s, d_all).into()))
    }
}

/// The last query sees every key, the one before it all but the last, and so on. Key-value heads may be fewer than heads.
///
/// # Shapes
/// `q (B, n_heads, S, d)`, `k` and `v` `(B, n_kv_heads, K, d)` to `(B, n_heads, S, d)`; rows are contiguous, and whatever holds them
/// may be larger.
pub(super) struct CausalAttention;

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
        let (q, k, v) = (Heads::of(q, q_layout)?, Heads::of(k, k_layout)?, Heads::of(v, v_layout)?);
        if n_keys < s || n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) || v_layout.dims() != k_layout.dims() {
            candle_core::bail!("causal-attention: {:?} over {:?}", q_layout.dims(), k_layout.dims());
        }
        let (group, past) = (n_heads / n_kv_heads, n_keys - s);
        let y = in_parts(batch * n_heads * s * d, s * d, Scratch::default, |scratch, i, y| {
            let (b, head) = (i / n_heads, i % n_heads);
            let (queries, keys, values) = (q.head(b, head), k.head(b, head / group), v.head(b, head / group));
            let head =
                Head { queries, keys, values, n_queries: s, n_keys, d, sees: Sees::Past, past, kernel: kernel() };
            head.run(scratch, y);
        });
        Ok((CpuStorage::F32(y), (batch, n_heads, s, d).into()))
    }
}

/// The heads of a tensor `(B, n, S, d)`.
pub(super) struct Heads<'x> {
    numbers: &'x [f32],
    stride: [usize; 3],
}

impl<'x> Heads<'x> {
    pub(super) fn of(x: &'x CpuStorage, layout: &Layout) -> Result<Self> {
        let &[of_batch, of_head, of_row, 1] = layout.stride() else {
            candle_core::bail!("attention wants contiguous rows, not strides {:?}", layout.stride());
        };
        Ok(Self { numbers: &x.as_slice::<f32>()?[layout.start_offset()..], stride: [of_batch, of_head, of_row] })
    }

    pub(super) fn head(&self, b: usize, head: usize) -> Rows<'x> {
        let [of_batch, of_head, stride] = self.stride;
        Rows { numbers: &self.numbers[b * of_batch + head * of_head..], stride }
    }
}

/// Rows of `d` numbers, one every `stride`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'x> {
    pub(super) numbers: &'x [f32],
    pub(super) stride: usize,
}

impl<'x> Rows<'x> {
    pub(super) fn row(&self, i: usize, d: usize) -> &'x [f32] {
        &self.numbers[i * self.stride..][..d]
    }
}

/// The keys that a query sees.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sees {
    All,
    /// Those up to its own, which is `past` later than its number.
    Past,
}

/// What a thread needs for a head.
#[derive(Default)]
struct Scratch {
    /// `K^T` in panels of keys.
    keys: Lines,
    /// `V` in panels of its channels.
    values: Lines,
    scores: Vec<f32>,
    /// Some queries, one after the other: where they come from they may be a power of two apart.
    queries: Vec<f32>,
}

/// One head of one sequence.
struct Head<'x> {
    queries: Rows<'x>,
    keys: Rows<'x>,
    values: Rows<'x>,
    n_queries: usize,
    n_keys: usize,
    d: usize,
    sees: Sees,
    past: usize,
    kernel: &'x Kernel,
}

impl Head<'_> {
    /// To `y (S, d)`.
    fn run(&self, scratch: &mut Scratch, y: &mut [f32]) {
        let (d, panel) = (self.d, self.kernel.width);
        self.pack(scratch);
        let scale = (d as f32).powf(-0.5);
        let block = TILES * self.kernel.height;
        for (begin, y) in (0..self.n_queries).step_by(block).zip(y.chunks_mut(block * d)) {
            let n_queries = y.len() / d;
            // The last of these queries sees the most.
            let n_keys = self.n_seen(begin + n_queries - 1);
            scratch.queries.clear();
            (begin..begin + n_queries).for_each(|i| scratch.queries.extend_from_slice(self.queries.row(i, d)));
            scratch.scores.resize(n_queries * n_keys, 0.0);
            let scores = &mut scratch.scores[..n_queries * n_keys];
            for (keys, first) in scratch.keys.chunks_exact(d * panel).zip((0..n_keys).step_by(panel)) {
                self.tiles((&scratch.queries, d, d), keys, (&mut *scores, n_keys, first));
            }
            let rows = scores.chunks_exact_mut(n_keys).enumerate();
            let sums: Vec<f32> = rows.map(|(i, row)| weigh(row, self.n_seen(begin + i), scale)).collect();
            for (values, first) in scratch.values.chunks_exact(self.n_keys * panel).zip((0..d).step_by(panel)) {
                self.tiles((scores, n_keys, n_keys), values, (&mut *y, d, first));
            }
            for (row, sum) in y.chunks_exact_mut(d).zip(sums) {
                row.iter_mut().for_each(|y| *y /= sum);
            }
        }
    }

    /// The keys that query `i` sees.
    fn n_seen(&self, i: usize) -> usize {
        match self.sees {
            Sees::All => self.n_keys,
            Sees::Past => self.past + i + 1,
        }
    }

    /// Packs keys and values.
    fn pack(&self, scratch: &mut Scratch) {
        let (s, d, panel) = (self.n_keys, self.d, self.kernel.width);
        scratch.keys.reset(s.div_ceil(panel) * d * panel);
        for (to, first) in scratch.keys.chunks_exact_mut(d * panel).zip((0..s).step_by(panel)) {
            let n = panel.min(s - first);
            let rows = &self.keys.numbers[first * self.keys.stride..][..(n - 1) * self.keys.stride + d];
            pack_transpose(rows, (d, self.keys.stride), panel, to);
        }
        scratch.values.reset(d.div_ceil(panel) * s * panel);
        for (to, first) in scratch.values.chunks_exact_mut(s * panel).zip((0..d).step_by(panel)) {
            let columns = panel.min(d - first);
            for (i, to) in to.chunks_exact_mut(panel).enumerate() {
                to[..columns].copy_from_slice(&self.values.row(i, d)[first..][..columns]);
            }
        }
    }

    /// Rows of `left`, one every `stride` and `depth` long, with one panel, to the columns of `y` from `first` on.
    fn tiles(
        &self,
        (left, stride_of_left, depth): (&[f32], usize, usize),
        panel: &[f32],
        (y, stride, first): (&mut [f32], usize, usize),
    ) {
        let columns = self.kernel.width.min(stride - first);
        let height = self.kernel.height;
        for (i, y) in y.chunks_mut(height * stride).enumerate() {
            let rows = y.len() / stride;
            let left = Left::Rows { numbers: &left[i * height * stride_of_left..], stride: stride_of_left };
            let tile = Tile { rows, depth, left, panel, goes_on: false, ahead: &[] };
            self.kernel.tile(&tile, &mut Target { numbers: &mut y[first..], stride, columns });
        }
    }
}

/// Turns the first `n_seen` of a query's scores into weights whose sum is given, and the others into nothing.
fn weigh(scores: &mut [f32], n_seen: usize, scale: f32) -> f32 {
    let (seen, hidden) = scores.split_at_mut(n_seen);
    hidden.fill(0.0);
    exp_from_largest(seen, scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::attention::{Mask, attention, join_heads, masked, split_heads};
    use candle_core::{Device, Tensor};

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).and_then(|d| d.abs()?.max_all()?.to_scalar()).expect("same shape")
    }

    #[test]
    fn full_attention_is_attention() {
        for (batch, s, n_heads, d) in [(1, 1, 1, 1), (2, 5, 3, 4), (1, 70, 2, 72), (3, 130, 2, 64)] {
            let x = Tensor::randn(0f32, 1.0, (batch, s, 3 * n_heads * d), &Device::Cpu).expect("small");
            let found = x.apply_op1_no_bwd(&FullAttention { n_heads }).expect("the shapes fit");
            let part = |i: usize| {
                let part = x.narrow(2, i * n_heads * d, n_heads * d)?.contiguous()?;
                split_heads(&part, n_heads)
            };
            let expected = part(0)
                .and_then(|q| join_heads(&attention(&q, &part(1)?, &part(2)?, Mask::Full)?))
                .expect("the shapes fit");
            let difference = difference(&found, &expected);
            assert!(difference < 2e-6, "{batch} x {s} x {n_heads} x {d}: {difference}");
        }
        let x = Tensor::zeros((1, 2, 7), candle_core::DType::F32, &Device::Cpu).expect("small");
        assert!(x.apply_op1_no_bwd(&FullAttention { n_heads: 2 }).is_err());
    }

    #[test]
    fn causal_attention_is_attention_over_what_a_query_may_see() {
        for (n_heads, n_kv_heads, s, n_keys, d) in
            [(1, 1, 1, 1, 1), (4, 2, 9, 12, 4), (6, 2, 70, 200, 72), (2, 2, 130, 130, 64)]
        {
            let random = |n: usize, s: usize| Tensor::randn(0f32, 1.0, (1, n, s, d), &Device::Cpu).expect("small");
            let q = random(n_heads, s);
            // Keys and values are views into something larger, as in a cache.
            let view = |x: Tensor| x.narrow(2, 0, n_keys).expect("long enough");
            let (k, v) = (view(random(n_kv_heads, n_keys + 3)), view(random(n_kv_heads, n_keys + 3)));
            let found = q.apply_op3_no_bwd(&k, &v, &CausalAttention).expect("the shapes fit");
            let expected = masked(&q, &k, &v, Mask::Causal).expect("the shapes fit");
            let difference = difference(&found, &expected);
            assert!(difference < 2e-6, "{n_heads} x {s} x {n_keys} x {d}: {difference}");
            // The last query alone comes out the same to the bit.
            let last = q.narrow(2, s - 1, 1).expect("there is one");
            let alone = last.apply_op3_no_bwd(&k, &v, &CausalAttention).expect("the shapes fit");
            let numbers = |x: &Tensor| x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
            assert_eq!(numbers(&alone), numbers(&found.narrow(2, s - 1, 1).expect("there is one")));
        }
        let x = Tensor::zeros((1, 2, 3, 4), candle_core::DType::F32, &Device::Cpu).expect("small");
        let few = x.narrow(2, 0, 2).expect("two rows");
        assert!(x.apply_op3_no_bwd(&few, &few, &CausalAttention).is_err());
        let turned = x.transpose(2, 3).expect("a matrix");
        assert!(turned.apply_op3_no_bwd(&turned, &turned, &CausalAttention).is_err());
    }
}
