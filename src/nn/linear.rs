//! A matrix times activations, in any precision on any device.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;

use super::few_rows::{FewRows, MAX_ROWS};
use super::rows::add_bias;

/// `x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// Whether a linear layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// A tensor `bias` of the output's width.
    With,
    /// None.
    Without,
}

impl Linear {
    /// Reads `weight (d_out, d_in)` and, if asked for, `bias (d_out)`.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn load(d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Self> {
        let weight = vb.get((d_out, d_in), "weight")?;
        let bias = (bias == Bias::With).then(|| vb.get(d_out, "bias")).transpose()?;
        Ok(Self { weight, bias })
    }

    /// A layer that shares its weight with another, such as a tied output head.
    pub fn from_weight(weight: Tensor) -> Self {
        Self { weight, bias: None }
    }

    /// # Shapes
    /// `(..., d_in)` to `(..., d_out)`.
    ///
    /// # Errors
    /// When the last dimension is not `d_in`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        let d_in = dims.pop().unwrap_or(0);
        // One large product: batch and sequence are rows of the same matrix.
        let rows = x.reshape(((), d_in))?; // (rows, d_in)
        let y = self.product(&rows)?; // (rows, d_out)
        let y = match &self.bias {
            Some(bias) => add_bias(&y, bias)?,
            None => y,
        };
        dims.push(self.weight.dim(0)?);
        y.reshape(dims)
    }
}

impl Linear {
    /// `x W^T`, with the kernel that suits it.
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        let w = &self.weight;
        let is_plain =
            |t: &Tensor| t.device().is_cpu() && t.dtype() == DType::F32 && t.is_contiguous() && !t.track_op();
        if x.dim(0)? <= MAX_ROWS && is_plain(x) && is_plain(w) {
            return x.apply_op2_no_bwd(w, &FewRows);
        }
        matmul(x, &w.t()?)
    }
}

/// `a b`, over leading batch dimensions. Candle's CPU kernels have no bf16: there the product is taken in f32 and
/// rounded, which is what a bf16 kernel with f32 accumulation does.
///
/// # Errors
/// When the shapes do not fit.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == DType::BF16 && a.device().is_cpu() {
        return a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.to_dtype(DType::BF16);
    }
    a.matmul(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn leading_dimensions_stay() {
        // W = [[1, 2]], b = 10: (3, 4) gives 3 + 8 + 10 = 21.
        let layer = Linear {
            weight: Tensor::new(&[[1f32, 2.0]], &Device::Cpu).expect("small"),
            bias: Some(Tensor::new(&[10f32], &Device::Cpu).expect("small")),
        };
        let x = Tensor::new(&[[[3f32, 4.0], [0.0, 0.0]]], &Device::Cpu).expect("small");
        let y = layer.forward(&x).expect("the widths fit");
        assert_eq!(y.to_vec3::<f32>().expect("rank 3"), [[[21.0], [10.0]]]);
    }

    #[test]
    fn a_linear_layer_has_its_gradients() {
        use crate::nn::finite_difference::{assert_gradients, random};
        assert_gradients(&[random((2, 3, 4), 1), random((5, 4), 2), random(5, 3)], |t| {
            Linear { weight: t[1].clone(), bias: Some(t[2].clone()) }.forward(&t[0])
        });
    }

    #[test]
    fn bf16_multiplies_on_the_cpu_too() {
        let x = Tensor::new(&[[1.5f32, -2.0]], &Device::Cpu).and_then(|x| x.to_dtype(DType::BF16)).expect("small");
        let y = matmul(&x, &x.t().expect("a matrix")).expect("the shapes fit");
        // 1.5^2 + 2^2 = 6.25, which bf16 holds exactly.
        assert_eq!(y.to_dtype(DType::F32).and_then(|y| y.to_vec2::<f32>()).expect("rank 2"), [[6.25]]);
    }
}
