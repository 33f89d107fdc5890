//! Softmax in f32 on the CPU with an explicit gradient, over whole rows or over the keys visible to each query.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::rows::{contiguous, per_row_pair};
use crate::kernels::VisibleKeys;

/// Computes the softmax over the last dimension, with its gradient.
pub(super) fn softmax_with_gradient(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Softmax { visible: None })
}

/// Computes the softmax of `(B, n_heads, S, K)` over the visible keys of each query; `visible` has that shape.
pub(super) fn softmax_visible(x: &Tensor, visible: &VisibleKeys) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Softmax { visible: Some(visible.clone()) })
}

/// Softmax over the last dimension, or over the visible keys of `(B, n_heads, S, K)`; the others get 0.
struct Softmax {
    visible: Option<VisibleKeys>,
}

impl Softmax {
    /// Computes the softmax of one row over its visible keys into `y`, which is 0 throughout.
    fn row(x: &[f32], spans: &[Range<usize>], y: &mut [f32]) {
        let seen = || spans.iter().flat_map(|span| &x[span.clone()]);
        let max = seen().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for span in spans {
            for (y, x) in y[span.clone()].iter_mut().zip(&x[span.clone()]) {
                *y = (x - max).exp();
                sum += *y;
            }
        }
        let scale = 1.0 / sum;
        for span in spans {
            y[span.clone()].iter_mut().for_each(|y| *y *= scale);
        }
    }
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let dims = layout.shape().dims();
        let width = dims.last().copied().unwrap_or(1);
        let x = contiguous(x, layout)?;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(width).zip(x.par_chunks(width)).enumerate().with_min_len(32).for_each(|(i, (y, x))| {
            match (&self.visible, dims) {
                (Some(visible), &[_, n_heads, s, _]) => {
                    Self::row(x, visible.spans(i / (n_heads * s) * s + i % s), y);
                }
                _ => Self::row(x, std::slice::from_ref(&(0..width)), y),
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(y.apply_op2_no_bwd(&dy.contiguous()?, &SoftmaxGrad)?))
    }
}

/// Gradient of [`Softmax`]: `y (dy - sum(y dy))`.
struct SoftmaxGrad;

impl CustomOp2 for SoftmaxGrad {
    fn name(&self) -> &'static str {
        "softmax-grad"
    }

    fn cpu_fwd(&self, y: &CpuStorage, ly: &Layout, dy: &CpuStorage, ldy: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = ly.shape().dims().last().copied().unwrap_or(1);
        let dx = per_row_pair(contiguous(y, ly)?, contiguous(dy, ldy)?, width, |y, dy, dx| {
            let dot: f32 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = y * (dy - dot);
            }
        });
        Ok((CpuStorage::F32(dx), ly.shape().clone()))
    }
}
