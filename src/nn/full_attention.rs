//! Attention in which every query sees every key, over queries, keys and values as one product made them: for inference on the CPU.
//!
//! A head's scores are made for a few queries at a time, so they never stand in memory as a whole, and nothing is moved into
//! another layout but a head's keys and values, which are packed for the kernel.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use rayon::prelude::*;

use super::elementwise::exp_from_largest;
use super::gemm::{Kernel, Left, Target, Tile, kernel, pack_transpose};
use super::rows::contiguous;

/// Tiles of queries whose scores are made together.
const TILES: usize = 4;

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
        let places: Vec<(usize, usize)> =
            (0..batch).flat_map(|b| (0..self.n_heads).map(move |head| (b, head))).collect();
        let kernel = kernel();
        let heads: Vec<Vec<f32>> = places
            .par_iter()
            .map_init(Scratch::default, |scratch, &(b, head)| {
                let sequence = &x[b * s * width..][..s * width];
                Head { sequence, width, d, first: head * d, d_all, kernel }.run(scratch)
            })
            .collect();
        let mut y = vec![0.0; batch * s * d_all];
        for ((b, head), from) in places.into_iter().zip(&heads) {
            for (row, from) in from.chunks_exact(d).enumerate() {
                y[(b * s + row) * d_all + head * d..][..d].copy_from_slice(from);
            }
        }
        Ok((CpuStorage::F32(y), (batch, s, d_all).into()))
    }
}

/// What a thread needs for a head.
#[derive(Default)]
struct Scratch {
    /// `K^T` in panels of keys.
    keys: Vec<f32>,
    /// `V` in panels of its channels.
    values: Vec<f32>,
    scores: Vec<f32>,
    /// Some queries, one after the other: where they come from they may be a power of two apart.
    queries: Vec<f32>,
}

/// One head of one sequence.
struct Head<'x> {
    /// `(S, width)`.
    sequence: &'x [f32],
    width: usize,
    d: usize,
    /// The first channel of its queries; its keys are `d_all` later, its values as much again.
    first: usize,
    d_all: usize,
    kernel: &'x Kernel,
}

impl Head<'_> {
    /// `(S, d)`.
    fn run(&self, scratch: &mut Scratch) -> Vec<f32> {
        let (s, d, panel) = (self.sequence.len() / self.width, self.d, self.kernel.width);
        self.pack(scratch);
        let mut y = vec![0.0; s * d];
        let scale = (d as f32).powf(-0.5);
        let block = TILES * self.kernel.height;
        scratch.scores.resize(block * s, 0.0);
        for (begin, y) in (0..s).step_by(block).zip(y.chunks_mut(block * d)) {
            let queries = y.len() / d;
            let scores = &mut scratch.scores[..queries * s];
            scratch.queries.clear();
            for row in self.sequence[begin * self.width..].chunks(self.width).take(queries) {
                scratch.queries.extend_from_slice(&row[self.first..][..d]);
            }
            for (keys, first) in scratch.keys.chunks_exact(d * panel).zip((0..s).step_by(panel)) {
                self.tiles((&scratch.queries, d, d), keys, (&mut *scores, s, first));
            }
            let sums: Vec<f32> = scores.chunks_exact_mut(s).map(|row| exp_from_largest(row, scale)).collect();
            for (values, first) in scratch.values.chunks_exact(s * panel).zip((0..d).step_by(panel)) {
                self.tiles((scores, s, s), values, (&mut *y, d, first));
            }
            for (row, sum) in y.chunks_exact_mut(d).zip(sums) {
                row.iter_mut().for_each(|y| *y /= sum);
            }
        }
        y
    }

    /// Packs keys and values.
    fn pack(&self, scratch: &mut Scratch) {
        let (s, d, panel) = (self.sequence.len() / self.width, self.d, self.kernel.width);
        scratch.keys.clear();
        scratch.keys.resize(s.div_ceil(panel) * d * panel, 0.0);
        let keys = &self.sequence[self.first + self.d_all..];
        for (to, from) in scratch.keys.chunks_exact_mut(d * panel).zip(keys.chunks(panel * self.width)) {
            pack_transpose(from, (d, self.width), panel, to);
        }
        scratch.values.clear();
        scratch.values.resize(d.div_ceil(panel) * s * panel, 0.0);
        for (i, to) in scratch.values.chunks_exact_mut(s * panel).enumerate() {
            let columns = panel.min(d - i * panel);
            let values = &self.sequence[self.first + 2 * self.d_all + i * panel..];
            for (to, from) in to.chunks_exact_mut(panel).zip(values.chunks(self.width)) {
                to[..columns].copy_from_slice(&from[..columns]);
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
            let tile = Tile { rows, depth, left, panel, ahead: &[] };
            self.kernel.tile(&tile, &mut Target { numbers: &mut y[first..], stride, columns });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::attention::{Mask, attention, join_heads, split_heads};
    use candle_core::{Device, Tensor};

    #[test]
    fn it_is_attention() {
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
            let difference =
                (found - expected).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>()).expect("same shape");
            assert!(difference < 2e-6, "{batch} x {s} x {n_heads} x {d}: {difference}");
        }
        let x = Tensor::zeros((1, 2, 7), candle_core::DType::F32, &Device::Cpu).expect("small");
        assert!(x.apply_op1_no_bwd(&FullAttention { n_heads: 2 }).is_err());
    }
}
