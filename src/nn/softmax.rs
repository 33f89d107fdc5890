//! Softmax over the last dimension, for inference and for training (see [`super::norm`] for why there are two).

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, DType, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::kernels::cpu::rows::{contiguous, per_row_pair};

/// # Shapes
/// `(..., K)` to the same, in the input's precision, computed in f32. Minus infinity gives exactly 0.
///
/// # Errors
/// When candle fails.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?;
    let y = if !x.track_op() {
        candle_nn::ops::softmax_last_dim(&x)?
    } else if x.device().is_cpu() {
        x.contiguous()?.apply_op1(Softmax { visible: None })?
    } else {
        candle_nn::ops::softmax(&x, D::Minus1)?
    };
    y.to_dtype(dtype)
}

/// The keys that each query of a packed batch sees: a common prefix and one stretch of its own sequence.
#[derive(Debug, Clone)]
pub struct Visible {
    /// `B S` pairs, row by row.
    spans: Arc<Vec<[Range<usize>; 2]>>,
    n_keys: usize,
}

impl Visible {
    /// `spans` are `B S` pairs of ranges over `n_keys` keys that do not overlap; not both of a pair may be empty.
    pub fn new(spans: Vec<[Range<usize>; 2]>, n_keys: usize) -> Self {
        Self { spans: Arc::new(spans), n_keys }
    }

    /// 0 where a query sees a key, minus infinity elsewhere.
    ///
    /// # Shapes
    /// `(B, 1, S, K)` for a batch of `batch`.
    ///
    /// # Errors
    /// When the spans are no whole number of sequences.
    fn bias(&self, batch: usize, device: &Device) -> Result<Tensor> {
        let mut bias = vec![f32::NEG_INFINITY; self.spans.len() * self.n_keys];
        for (row, spans) in bias.chunks_exact_mut(self.n_keys).zip(self.spans.iter()) {
            spans.iter().for_each(|span| row[span.clone()].fill(0.0));
        }
        Tensor::from_vec(bias, (batch, 1, self.spans.len() / batch, self.n_keys), device)
    }
}

/// Softmax over the keys that each query sees; the others get exactly 0.
///
/// # Shapes
/// `(B, n_heads, S, K)` to the same, in the input's precision, computed in f32.
///
/// # Errors
/// When the shape does not fit `visible`.
pub fn softmax_visible(x: &Tensor, visible: &Visible) -> Result<Tensor> {
    let (batch, _, s, n_keys) = x.dims4()?;
    if (batch * s, n_keys) != (visible.spans.len(), visible.n_keys) {
        candle_core::bail!(
            "{batch} x {s} queries of {n_keys} keys, but the mask is of {} queries of {} keys",
            visible.spans.len(),
            visible.n_keys
        );
    }
    if x.device().is_cpu() && x.dtype() == DType::F32 {
        return x.contiguous()?.apply_op1(Softmax { visible: Some(visible.clone()) });
    }
    softmax(&x.broadcast_add(&visible.bias(batch, x.device())?.to_dtype(x.dtype())?)?)
}

struct Softmax {
    visible: Option<Visible>,
}

impl Softmax {
    /// The softmax of one row over its visible keys; `y` is 0 throughout.
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
                    Self::row(x, &visible.spans[i / (n_heads * s) * s + i % s], y);
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

/// `y (dy - sum(y dy))`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::finite_difference::{assert_gradients, random};

    fn visible() -> Visible {
        Visible::new(vec![[0..1, 0..0], [0..1, 1..2], [0..1, 2..3], [0..2, 2..2], [0..0, 0..3], [1..2, 2..3]], 3)
    }

    #[test]
    fn softmax_has_its_gradient() {
        assert_gradients(&[random((2, 3, 4), 5)], |t| softmax(&t[0]));
        assert_gradients(&[random((2, 2, 3, 3), 5)], |t| softmax_visible(&t[0], &visible()));
    }

    #[test]
    fn hidden_keys_get_nothing_and_the_rest_as_with_a_bias() {
        let x = random((2, 2, 3, 3), 5);
        let found = softmax_visible(&x, &visible()).expect("it fits");
        let bias = visible().bias(2, &Device::Cpu).expect("six rows");
        let expected = softmax(&x.broadcast_add(&bias).expect("it fits")).expect("it fits");
        let difference = (found - expected).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>()).expect("same shape");
        assert!(difference < 1e-6, "{difference}");
    }

    #[test]
    fn a_mask_of_another_size_is_refused() {
        let x = random((1, 2, 3, 3), 5);
        let error = softmax_visible(&x, &visible()).expect_err("two sequences in the mask").to_string();
        assert!(error.contains("1 x 3 queries of 3 keys, but the mask is of 6 queries of 3 keys"), "{error}");
    }
}
