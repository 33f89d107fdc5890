//! A matrix times activations, in any precision on any device.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use super::activation::Activation;
use super::gemm::{Epilogue, Packed, Panels, Prologue, kernel, product, two_products};
use super::norm::{LayerNorm, NormalisedRows};
use super::quantized::{self, QuantFormat, QuantizedMatrix};
use super::rows::{add_bias, contiguous};

/// `x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    weights: Weights,
}

#[derive(Debug, Clone)]
enum Weights {
    /// As they were read.
    Plain { weight: Tensor, bias: Option<Tensor> },
    /// For inference on the CPU.
    Packed(Arc<PackedWeights>),
}

#[derive(Debug)]
struct PackedWeights {
    matrix: Matrix,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum Matrix {
    Full(Packed),
    Quantized(QuantizedMatrix),
}

impl Matrix {
    /// `K`, `N`.
    fn dims(&self) -> (usize, usize) {
        match self {
            Self::Full(matrix) => (matrix.depth(), matrix.columns()),
            Self::Quantized(matrix) => (matrix.depth(), matrix.columns()),
        }
    }

    fn full(&self) -> Option<&Packed> {
        match self {
            Self::Full(matrix) => Some(matrix),
            Self::Quantized(_) => None,
        }
    }

    fn quantized(&self) -> Option<&QuantizedMatrix> {
        match self {
            Self::Full(_) => None,
            Self::Quantized(matrix) => Some(matrix),
        }
    }
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
        Ok(Self { weights: Weights::Plain { weight, bias } })
    }

    /// A layer that shares its weight with another, such as a tied output head.
    pub fn from_weight(weight: Tensor) -> Self {
        Self { weights: Weights::Plain { weight, bias: None } }
    }

    /// Several layers over the same input as one, whose outputs stand beside each other.
    ///
    /// # Errors
    /// When they are packed, or their inputs differ, or some of them have a bias and others none.
    pub fn join(layers: &[&Self]) -> Result<Self> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for layer in layers {
            let Weights::Plain { weight, bias } = &layer.weights else {
                candle_core::bail!("packed layers cannot be joined")
            };
            weights.push(weight);
            biases.extend(bias);
        }
        let bias = match biases.len() {
            0 => None,
            n if n == weights.len() => Some(Tensor::cat(&biases, 0)?),
            n => candle_core::bail!("{n} of {} layers have a bias", weights.len()),
        };
        Ok(Self { weights: Weights::Plain { weight: Tensor::cat(&weights, 0)?, bias } })
    }

    /// Several layers over the same input as one, whose outputs stand beside each other, of layers that are packed or held in fewer
    /// bits; none where they are not, or not alike, or do not fill what the kernel takes at once.
    pub fn join_packed(layers: &[&Self]) -> Option<Self> {
        let packed: Vec<&PackedWeights> = layers
            .iter()
            .map(|layer| match &layer.weights {
                Weights::Packed(weights) => Some(&**weights),
                Weights::Plain { .. } => None,
            })
            .collect::<Option<_>>()?;
        let full: Option<Vec<&Packed>> = packed.iter().map(|weights| weights.matrix.full()).collect();
        let matrix = if let Some(parts) = full {
            Matrix::Full(Packed::join(&parts)?)
        } else {
            let parts: Option<Vec<_>> = packed.iter().map(|weights| weights.matrix.quantized()).collect();
            Matrix::Quantized(QuantizedMatrix::join(&parts?)?)
        };
        let biases: Vec<&Vec<f32>> = packed.iter().filter_map(|weights| weights.bias.as_ref()).collect();
        let bias = match biases.len() {
            0 => None,
            n if n == packed.len() => Some(biases.into_iter().flatten().copied().collect()),
            _ => return None,
        };
        Some(Self { weights: Weights::Packed(Arc::new(PackedWeights { matrix, bias })) })
    }

    /// Whether packing it changes anything: for inference in f32 on the CPU.
    pub fn may_pack(&self) -> bool {
        match &self.weights {
            Weights::Plain { weight, .. } => {
                weight.device().is_cpu() && weight.dtype() == DType::F32 && !weight.track_op()
            }
            Weights::Packed(_) => false,
        }
    }

    /// Packs the weights in the order in which the CPU's kernel reads them, where that may be. There is no gradient then.
    ///
    /// # Errors
    /// When candle fails.
    pub fn pack(&mut self) -> Result<()> {
        self.hold_as(|weight, depth| Ok(Matrix::Full(Packed::transpose_of(weight, depth, kernel()))))
    }

    /// Holds the weights in fewer bits: in `format`, or in the next one that fits rows of this length. Where none does they stay as
    /// they are, and so they do on other devices, in other precisions, and where they only stand in for weights that are missing.
    ///
    /// # Errors
    /// When candle fails.
    pub fn quantize(&mut self, format: QuantFormat) -> Result<()> {
        let Weights::Plain { weight, .. } = &self.weights else { return Ok(()) };
        let is_stand_in = weight.elem_count() > 1 && weight.stride().iter().all(|&stride| stride == 0);
        let Some(format) = format.fitting(weight.dim(1)?).filter(|_| !is_stand_in) else { return Ok(()) };
        self.hold_as(|weight, depth| {
            QuantizedMatrix::quantize(weight, depth, format, quantized::kernel()).map(Matrix::Quantized)
        })
    }

    /// A layer without a bias whose weight `(d_out, d_in)` is candle's as it is, its rows in the order that `row` says.
    ///
    /// # Errors
    /// When it is not in `format`.
    pub fn from_quantized(weight: &QTensor, format: QuantFormat, row: impl Fn(usize) -> usize + Sync) -> Result<Self> {
        let matrix = QuantizedMatrix::from_candle(weight, format, row, quantized::kernel())?;
        Ok(Self { weights: Weights::Packed(Arc::new(PackedWeights { matrix: Matrix::Quantized(matrix), bias: None })) })
    }

    /// In which format the weights are held, if in fewer bits.
    pub fn format(&self) -> Option<QuantFormat> {
        match &self.weights {
            Weights::Packed(weights) => match &weights.matrix {
                Matrix::Quantized(matrix) => Some(matrix.format()),
                Matrix::Full(_) => None,
            },
            Weights::Plain { .. } => None,
        }
    }

    fn hold_as(&mut self, make: impl FnOnce(&[f32], usize) -> Result<Matrix>) -> Result<()> {
        let Weights::Plain { weight, bias } = &self.weights else { return Ok(()) };
        if !self.may_pack() {
            return Ok(());
        }
        let weight = weight.contiguous()?;
        let depth = weight.dim(1)?;
        let matrix = {
            let (storage, layout) = weight.storage_and_layout();
            let candle_core::Storage::Cpu(storage) = &*storage else { return Ok(()) };
            make(contiguous(storage, layout)?, depth)?
        };
        let bias = bias.as_ref().map(|bias| bias.to_vec1::<f32>()).transpose()?;
        self.weights = Weights::Packed(Arc::new(PackedWeights { matrix, bias }));
        Ok(())
    }

    /// # Shapes
    /// `(..., d_in)` to `(..., d_out)`.
    ///
    /// # Errors
    /// When the last dimension is not `d_in`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None)
    }

    /// As [`Self::forward`], with an activation behind it.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_then(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.run(x, Some(activation))
    }

    /// As [`Self::forward`] of the normalised `x`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_normalised(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let Weights::Packed(weights) = &self.weights else { return self.forward(&norm.forward(x)?) };
        let op = PackedProduct { weights: weights.clone(), activation: None, norm: Some(norm.rows()?) };
        packed(x, |rows| rows.apply_op1_no_bwd(&op), weights)
    }

    /// As [`Self::forward`], added to `residual`.
    ///
    /// # Errors
    /// As [`Self::forward`], or when `residual` has another shape than the result.
    pub fn forward_onto(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let Weights::Packed(weights) = &self.weights else { return residual + self.forward(x)? };
        let op = PackedOnto { weights: weights.clone() };
        let residual = residual.contiguous()?;
        packed(x, |rows| rows.apply_op2_no_bwd(&residual.reshape((rows.dim(0)?, ()))?, &op), weights)
    }

    fn run(&self, x: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        let d_in = dims.pop().unwrap_or(0);
        // One large product: batch and sequence are rows of the same matrix.
        let rows = x.reshape(((), d_in))?; // (rows, d_in)
        let (y, d_out) = match &self.weights {
            Weights::Plain { weight, bias } => {
                let y = matmul(&rows, &weight.t()?)?; // (rows, d_out)
                let y = match bias {
                    Some(bias) => add_bias(&y, bias)?,
                    None => y,
                };
                let y = activation.map_or(Ok(y.clone()), |activation| activation.apply(&y))?;
                (y, weight.dim(0)?)
            }
            Weights::Packed(weights) => {
                if x.track_op() {
                    candle_core::bail!("a packed layer has no gradient");
                }
                let op = PackedProduct { weights: weights.clone(), activation, norm: None };
                (rows.contiguous()?.apply_op1_no_bwd(&op)?, weights.matrix.dims().1)
            }
        };
        dims.push(d_out);
        y.reshape(dims)
    }
}

/// `x + second(activation(first(norm(x))))`: a transformer's feed-forward part, packed layers in one pass.
///
/// # Shapes
/// `(..., d)` to the same.
///
/// # Errors
/// When the widths do not fit.
pub fn feed_forward(
    x: &Tensor,
    norm: &LayerNorm,
    (first, activation): (&Linear, Activation),
    second: &Linear,
) -> Result<Tensor> {
    if let (Weights::Packed(first), Weights::Packed(second)) = (&first.weights, &second.weights)
        && let (Matrix::Full(w1), Matrix::Full(w2)) = (&first.matrix, &second.matrix)
    {
        if w1.columns() != w2.depth() || w1.depth() != w2.columns() {
            candle_core::bail!(
                "{} x {} does not go back from {} x {}",
                w2.depth(),
                w2.columns(),
                w1.depth(),
                w1.columns()
            );
        }
        let op = FeedForward { first: first.clone(), activation, second: second.clone(), norm: norm.rows()? };
        return packed(x, |rows| rows.apply_op1_no_bwd(&op), second);
    }
    x + second.forward(&first.forward_then(&norm.forward(x)?, activation)?)?
}

/// Runs an operation on the rows of `x`, which gives rows as wide as `weights` makes them.
fn packed(x: &Tensor, run: impl FnOnce(&Tensor) -> Result<Tensor>, weights: &PackedWeights) -> Result<Tensor> {
    if x.track_op() {
        candle_core::bail!("a packed layer has no gradient");
    }
    let mut dims = x.dims().to_vec();
    let d_in = dims.pop().unwrap_or(0);
    dims.push(weights.matrix.dims().1);
    run(&x.reshape(((), d_in))?.contiguous()?)?.reshape(dims)
}

impl PackedWeights {
    /// `x (M, K)` to `(M, N)`.
    fn product(
        &self,
        (x, layout): (&CpuStorage, &Layout),
        prologue: Prologue<'_>,
        epilogue: Epilogue<'_>,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, d_in) = layout.shape().dims2()?;
        let (depth, columns) = self.matrix.dims();
        if d_in != depth {
            candle_core::bail!("a linear layer takes rows of {depth}, not of {d_in}");
        }
        let (x, epilogue) = (contiguous(x, layout)?, Epilogue { bias: self.bias.as_deref(), ..epilogue });
        let y = match &self.matrix {
            Matrix::Full(matrix) => product(x, matrix, prologue, epilogue),
            Matrix::Quantized(matrix) => product(x, matrix, prologue, epilogue),
        };
        Ok((CpuStorage::F32(y), (rows, columns).into()))
    }
}

struct PackedProduct {
    weights: Arc<PackedWeights>,
    activation: Option<Activation>,
    norm: Option<NormalisedRows>,
}

impl CustomOp1 for PackedProduct {
    fn name(&self) -> &'static str {
        "packed-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let normalise = self.norm.as_ref().map(|norm| |x: &[f32], y: &mut [f32]| norm.run(x, y));
        let prologue: Prologue<'_> = normalise.as_ref().map(|normalise| normalise as _);
        let activation = self.activation.map(Activation::in_place);
        self.weights.product((x, layout), prologue, Epilogue { activation, ..Epilogue::default() })
    }
}

struct PackedOnto {
    weights: Arc<PackedWeights>,
}

impl CustomOp2 for PackedOnto {
    fn name(&self) -> &'static str {
        "packed-onto"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, r: &CpuStorage, lr: &Layout) -> Result<(CpuStorage, Shape)> {
        let (residual, columns) = (contiguous(r, lr)?, self.weights.matrix.dims().1);
        if lr.dims() != [lx.dims()[0], columns] {
            candle_core::bail!("{:?} is not added to {} x {columns}", lr.dims(), lx.dims()[0]);
        }
        self.weights.product((x, lx), None, Epilogue { residual: Some(residual), ..Epilogue::default() })
    }
}

struct FeedForward {
    first: Arc<PackedWeights>,
    activation: Activation,
    second: Arc<PackedWeights>,
    norm: NormalisedRows,
}

impl CustomOp1 for FeedForward {
    fn name(&self) -> &'static str {
        "feed-forward"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (Matrix::Full(w1), Matrix::Full(w2)) = (&self.first.matrix, &self.second.matrix) else {
            candle_core::bail!("feed-forward wants weights in full");
        };
        if layout.dims().last() != Some(&w1.depth()) {
            candle_core::bail!("a linear layer takes rows of {}, not of {:?}", w1.depth(), layout.dims());
        }
        let first =
            Epilogue { bias: self.first.bias.as_deref(), activation: Some(self.activation.in_place()), residual: None };
        let second = Epilogue { bias: self.second.bias.as_deref(), ..Epilogue::default() };
        let y = two_products(contiguous(x, layout)?, Some(&|x, y| self.norm.run(x, y)), (w1, first), (w2, second));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
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
        let weight = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).expect("small");
        let bias = Some(Tensor::new(&[10f32], &Device::Cpu).expect("small"));
        let mut layer = Linear { weights: Weights::Plain { weight, bias } };
        let x = Tensor::new(&[[[3f32, 4.0], [0.0, 0.0]]], &Device::Cpu).expect("small");
        for _ in 0..2 {
            let y = layer.forward(&x).expect("the widths fit");
            assert_eq!(y.to_vec3::<f32>().expect("rank 3"), [[[21.0], [10.0]]]);
            layer.pack().expect("f32 on the CPU");
        }
        let tracked = candle_core::Var::from_tensor(&x).expect("small");
        assert!(layer.forward(&tracked).expect_err("no gradient").to_string().contains("has no gradient"));
        assert!(layer.forward(&x.narrow(2, 0, 1).expect("two wide")).is_err());
    }

    #[test]
    fn layers_over_one_input_may_be_joined() {
        let layer = |rows: &[[f32; 2]], bias: Option<&[f32]>| Linear {
            weights: Weights::Plain {
                weight: Tensor::from_slice(rows.as_flattened(), (rows.len(), 2), &Device::Cpu).expect("small"),
                bias: bias.map(|bias| Tensor::new(bias, &Device::Cpu).expect("small")),
            },
        };
        let (a, b) = (layer(&[[1.0, 0.0]], Some(&[5.0])), layer(&[[0.0, 1.0], [2.0, 0.0]], Some(&[0.0, 1.0])));
        let joined = Linear::join(&[&a, &b]).expect("the widths fit");
        let x = Tensor::new(&[[3f32, 4.0]], &Device::Cpu).expect("small");
        let y = joined.forward(&x).and_then(|y| y.to_vec2::<f32>()).expect("the widths fit");
        assert_eq!(y, [[8.0, 4.0, 7.0]]);
        assert!(Linear::join(&[&a, &layer(&[[1.0, 1.0]], None)]).is_err());
    }

    #[test]
    fn packed_layers_are_joined_where_they_are_alike() {
        let layer = |n: usize, seed: f32| {
            let numbers: Vec<f32> = (0..n * 32).map(|i| ((i as f32 + seed) * 0.37).sin()).collect();
            Linear::from_weight(Tensor::from_vec(numbers, (n, 32), &Device::Cpu).expect("small"))
        };
        let x = Tensor::randn(0f32, 1.0, (3, 32), &Device::Cpu).expect("small");
        let hold = |format: Option<QuantFormat>, mut layer: Linear| {
            let held = match format {
                Some(format) => layer.quantize(format),
                None => layer.pack(),
            };
            held.map(|()| layer).expect("f32 on the CPU")
        };
        for format in [None, Some(QuantFormat::Q8_0)] {
            let (a, b) = (hold(format, layer(32, 0.0)), hold(format, layer(64, 5.0)));
            let joined = Linear::join_packed(&[&a, &b]).expect("whole panels");
            let apart = Tensor::cat(&[a.forward(&x).expect("fits"), b.forward(&x).expect("fits")], 1).expect("rows");
            let numbers = |x: &Tensor| x.to_vec2::<f32>().expect("a matrix");
            assert_eq!(numbers(&joined.forward(&x).expect("fits")), numbers(&apart));
            assert!(Linear::join_packed(&[&a, &hold(format, layer(5, 0.0))]).is_none());
            assert!(Linear::join_packed(&[&a, &layer(32, 0.0)]).is_none());
        }
        let other = [hold(None, layer(32, 0.0)), hold(Some(QuantFormat::Q8_0), layer(32, 0.0))];
        assert!(Linear::join_packed(&[&other[0], &other[1]]).is_none());
    }

    #[test]
    fn what_is_done_in_one_pass_is_what_its_parts_do() {
        let weight = |n: usize, k: usize, seed: f32| {
            let numbers = (0..n * k).map(|i| ((i as f32 + seed) * 0.61).sin() * 0.2).collect::<Vec<f32>>();
            Linear::from_weight(Tensor::from_vec(numbers, (n, k), &Device::Cpu).expect("small"))
        };
        let norm = {
            let numbers =
                |shift: f32| Tensor::arange(0f32, 32.0, &Device::Cpu).and_then(|x| x.affine(0.1, f64::from(shift)));
            LayerNorm::new(numbers(1.0).expect("small"), numbers(-0.5).expect("small"), 1e-5)
        };
        let x = Tensor::randn(0.3f32, 2.0, (2, 40, 32), &Device::Cpu).expect("small");
        let residual = Tensor::randn(0f32, 1.0, (2, 40, 64), &Device::Cpu).expect("small");
        let (mut wide, mut back) = (weight(64, 32, 0.0), weight(32, 64, 3.0));
        let run = |wide: &Linear, back: &Linear| {
            let all = [
                wide.forward_normalised(&x, &norm),
                wide.forward_onto(&x, &residual),
                feed_forward(&x, &norm, (wide, Activation::QuickGelu), back),
            ];
            all.map(|y| y.and_then(|y| y.flatten_all()?.to_vec1::<f32>()).expect("the widths fit"))
        };
        let apart = run(&wide, &back);
        wide.pack().and_then(|()| back.pack()).expect("f32 on the CPU");
        for (one, apart) in run(&wide, &back).into_iter().zip(apart) {
            assert!(one.iter().zip(&apart).all(|(a, b)| (a - b).abs() < 2e-5));
        }
        assert!(
            wide.forward_onto(&x, &x).is_err() && feed_forward(&x, &norm, (&wide, Activation::Gelu), &wide).is_err()
        );
    }

    #[test]
    fn a_linear_layer_has_its_gradients() {
        use crate::nn::finite_difference::{assert_gradients, random};
        assert_gradients(&[random((2, 3, 4), 1), random((5, 4), 2), random(5, 3)], |t| {
            Linear { weights: Weights::Plain { weight: t[1].clone(), bias: Some(t[2].clone()) } }.forward(&t[0])
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
