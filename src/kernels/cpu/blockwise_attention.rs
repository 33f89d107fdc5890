//! Blockwise attention, without the whole score matrix in memory: inference in f32 on the CPU, for vision towers.
//!
//! The scores of a few queries of a head are computed, turned into weights in place, and overwritten after their
//! weighted sums. A head's keys and values are packed for the GEMM kernel, its queries copied to consecutive rows. The
//! output of a query is bit-identical whichever queries are computed with it.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape};
use rayon::prelude::*;

use super::elementwise::exp_from_largest;
use super::gemm::{GemmKernel, Left, MatrixRows, PanelElements, Target, Tile, pack_transpose};
use super::memory::{AlignedBuffer, in_parts};

/// Number of tiles of queries whose scores are computed together.
const TILES: usize = 4;

/// Attention in which every query sees every key.
///
/// # Shapes
/// Queries, keys and values `(B, S, n d)` each, rows contiguous: whole tensors or views into one where they are side by
/// side. To `(B, S, n d)`.
pub(crate) struct FullAttention {
    pub(crate) n_heads: usize,
    pub(crate) kernel: &'static GemmKernel,
}

impl CustomOp3 for FullAttention {
    fn name(&self) -> &'static str {
        "full-attention"
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
        let (batch, s, width) = q_layout.shape().dims3()?;
        let d = width / self.n_heads;
        let parts = [Sequences::of(q, q_layout)?, Sequences::of(k, k_layout)?, Sequences::of(v, v_layout)?];
        let heads: Vec<Vec<f32>> = (0..batch * self.n_heads)
            .into_par_iter()
            .map_init(HeadBuffers::default, |buffers, i| {
                let (b, head) = (i / self.n_heads, i % self.n_heads);
                let [queries, keys, values] = parts.each_ref().map(|part| part.head(b, head * d));
                let mut y = vec![0.0; s * d];
                HeadAttention { queries, keys, values, s, d, kernel: self.kernel }.run(buffers, &mut y);
                y
            })
            .collect();
        let y = in_parts(batch * s * width, width, |row, y| {
            let (b, row) = (row / s, row % s);
            for (y, head) in y.chunks_exact_mut(d).zip(&heads[b * self.n_heads..]) {
                y.copy_from_slice(&head[row * d..][..d]);
            }
        });
        Ok((CpuStorage::F32(y), (batch, s, width).into()))
    }
}

/// Rows of the sequences of a batch.
struct Sequences<'x> {
    elements: &'x [f32],
    of_batch: usize,
    stride: usize,
}

impl<'x> Sequences<'x> {
    fn of(x: &'x CpuStorage, layout: &Layout) -> Result<Self> {
        let &[of_batch, stride, 1] = layout.stride() else {
            candle_core::bail!("full-attention: rows are not contiguous, strides {:?}", layout.stride());
        };
        Ok(Self { elements: &x.as_slice::<f32>()?[layout.start_offset()..], of_batch, stride })
    }

    /// Returns the rows of a head whose channels begin at `first`.
    fn head(&self, b: usize, first: usize) -> StridedRows<'x> {
        StridedRows { elements: &self.elements[b * self.of_batch + first..], stride: self.stride }
    }
}

/// Rows of `d` elements, one every `stride`.
#[derive(Clone, Copy)]
struct StridedRows<'x> {
    elements: &'x [f32],
    stride: usize,
}

impl<'x> StridedRows<'x> {
    fn row(&self, i: usize, d: usize) -> &'x [f32] {
        &self.elements[i * self.stride..][..d]
    }
}

/// Buffers of a thread for a head.
#[derive(Default)]
struct HeadBuffers {
    /// `K^T` in panels of keys.
    keys: AlignedBuffer,
    /// `V` in panels of its channels.
    values: AlignedBuffer,
    scores: Vec<f32>,
    /// Queries as consecutive rows: in the input rows may be a power of two apart, and evict each other from the cache.
    queries: Vec<f32>,
}

/// Columns of a row-major matrix, from `first` on.
struct ResultColumns<'x> {
    elements: &'x mut [f32],
    stride: usize,
    first: usize,
}

/// Attention of one head of one sequence.
struct HeadAttention<'x> {
    queries: StridedRows<'x>,
    keys: StridedRows<'x>,
    values: StridedRows<'x>,
    /// Positions.
    s: usize,
    d: usize,
    kernel: &'x GemmKernel,
}

impl HeadAttention<'_> {
    /// Writes the head's output to `y (S, d)`.
    fn run(&self, buffers: &mut HeadBuffers, y: &mut [f32]) {
        let (d, panel) = (self.d, self.kernel.width);
        self.pack(buffers);
        let scale = (d as f32).powf(-0.5);
        let block = TILES * self.kernel.height;
        for (begin, y) in (0..self.s).step_by(block).zip(y.chunks_mut(block * d)) {
            let n_queries = y.len() / d;
            buffers.queries.clear();
            (begin..begin + n_queries).for_each(|i| buffers.queries.extend_from_slice(self.queries.row(i, d)));
            buffers.scores.resize(n_queries * self.s, 0.0);
            let scores = &mut buffers.scores[..n_queries * self.s];
            for (keys, first) in buffers.keys.chunks_exact(d * panel).zip((0..self.s).step_by(panel)) {
                let left = MatrixRows { elements: &buffers.queries, depth: d, stride: d };
                self.tiles(left, keys, ResultColumns { elements: &mut *scores, stride: self.s, first });
            }
            let sums: Vec<f32> = scores.chunks_exact_mut(self.s).map(|row| exp_from_largest(row, scale)).collect();
            for (values, first) in buffers.values.chunks_exact(self.s * panel).zip((0..d).step_by(panel)) {
                let left = MatrixRows { elements: scores, depth: self.s, stride: self.s };
                self.tiles(left, values, ResultColumns { elements: &mut *y, stride: d, first });
            }
            for (row, sum) in y.chunks_exact_mut(d).zip(sums) {
                row.iter_mut().for_each(|y| *y /= sum);
            }
        }
    }

    /// Packs keys and values.
    fn pack(&self, buffers: &mut HeadBuffers) {
        let (s, d, panel) = (self.s, self.d, self.kernel.width);
        buffers.keys.reset(s.div_ceil(panel) * d * panel);
        for (to, first) in buffers.keys.chunks_exact_mut(d * panel).zip((0..s).step_by(panel)) {
            let n = panel.min(s - first);
            let rows = &self.keys.elements[first * self.keys.stride..][..(n - 1) * self.keys.stride + d];
            pack_transpose(MatrixRows { elements: rows, depth: d, stride: self.keys.stride }, panel, to);
        }
        buffers.values.reset(d.div_ceil(panel) * s * panel);
        for (to, first) in buffers.values.chunks_exact_mut(s * panel).zip((0..d).step_by(panel)) {
            let columns = panel.min(d - first);
            for (i, to) in to.chunks_exact_mut(panel).enumerate() {
                to[..columns].copy_from_slice(&self.values.row(i, d)[first..][..columns]);
            }
        }
    }

    /// Multiplies the rows of `left` by one panel, into columns of the result.
    fn tiles(&self, left: MatrixRows<'_>, panel: &[f32], result: ResultColumns<'_>) {
        let ResultColumns { elements: y, stride, first } = result;
        let columns = self.kernel.width.min(stride - first);
        let height = self.kernel.height;
        for (i, y) in y.chunks_mut(height * stride).enumerate() {
            let rows = y.len() / stride;
            let rows_of_tile = Left::Rows { elements: &left.elements[i * height * left.stride..], stride: left.stride };
            let tile = Tile {
                rows,
                depth: left.depth,
                left: rows_of_tile,
                panel: PanelElements::F32(panel),
                accumulates: false,
                prefetch: &[],
            };
            self.kernel.tile(&tile, &mut Target { elements: &mut y[first..], stride, columns });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kernels::candle::CandleKernels;
    use crate::kernels::{Kernels, of};
    use candle_core::{DType, Device, Tensor};

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).and_then(|d| d.abs()?.max_all()?.to_scalar()).expect("same shape")
    }

    fn elements(x: &Tensor) -> Vec<f32> {
        x.flatten_all().and_then(|x| x.to_vec1()).expect("f32")
    }

    #[test]
    fn full_attention_is_attention() {
        for (batch, s, n_heads, d) in [(1, 1, 1, 1), (2, 5, 3, 4), (1, 70, 2, 72), (3, 130, 2, 64)] {
            let width = n_heads * d;
            let x = Tensor::randn(0f32, 1.0, (batch, s, 3 * width), &Device::Cpu).expect("small");
            let views = [0, 1, 2].map(|i| x.narrow(2, i * width, width).expect("three widths"));
            let ours = of(&Device::Cpu, DType::F32);
            let found = ours.full_attention(&views, n_heads).expect("the shapes fit");
            let copies = views.map(|view| view.contiguous().expect("small"));
            assert_eq!(elements(&found), elements(&ours.full_attention(&copies, n_heads).expect("the shapes fit")));
            let expected = CandleKernels::CPU.full_attention(&copies, n_heads).expect("the shapes fit");
            let difference = difference(&found, &expected);
            assert!(difference < 2e-6, "{batch} x {s} x {n_heads} x {d}: {difference}");
        }
        let x = Tensor::zeros((1, 2, 7), DType::F32, &Device::Cpu).expect("small");
        let run = |q: &Tensor, k: &Tensor| {
            let qkv = [q.clone(), k.clone(), k.clone()];
            [of(&Device::Cpu, DType::F32), &CandleKernels::CPU].map(|kernels| kernels.full_attention(&qkv, 2).is_ok())
        };
        let even = x.narrow(2, 0, 6).expect("narrower");
        assert_eq!(run(&x, &x), [false; 2]);
        assert_eq!(run(&even, &even), [true; 2]);
        assert_eq!(run(&even, &x.narrow(2, 0, 4).expect("narrower")), [false; 2]);
    }
}
