//! Linear layers: a matrix times activations, in any precision on any device.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::norm::Norm;
use crate::kernels::{self, Activation, FeedForward, Kernels, LinearEpilogue, PackedLinear, QuantFormat, StoredLinear};

/// `x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    weights: Weights,
    kernels: &'static dyn Kernels,
}

#[derive(Debug, Clone)]
enum Weights {
    /// As they were read.
    Plain { weight: Tensor, bias: Option<Tensor> },
    /// In the layout of a kernel of the device: for inference.
    Packed(PackedLinear),
}

/// Whether a linear layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// A tensor `bias` of the output's width.
    With,
    /// No bias.
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
        Ok(Self::new(weight, bias))
    }

    /// Takes a `weight (d_out, d_in)` and perhaps a `bias (d_out)`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        let kernels = kernels::of(weight.device(), weight.dtype());
        Self { weights: Weights::Plain { weight, bias }, kernels }
    }

    /// A layer that shares its weight with another, such as a tied output head.
    pub fn from_weight(weight: Tensor) -> Self {
        Self::new(weight, None)
    }

    /// Takes a weight that is stored quantized as it is, for inference by `kernels`.
    ///
    /// # Errors
    /// When the weight has another format, or the device has no room for it.
    pub fn from_quantized(stored: &StoredLinear<'_>, kernels: &'static dyn Kernels) -> Result<Self> {
        Ok(Self { weights: Weights::Packed(kernels.load_quantized(stored)?), kernels })
    }

    /// Several layers over the same input as one, whose outputs are side by side; none where they cannot be joined:
    /// where one wants a gradient, only some have a bias, formats differ, or packed columns do not fill the kernel's
    /// panels.
    ///
    /// # Errors
    /// When candle fails.
    pub fn join(layers: &[&Self]) -> Result<Option<Self>> {
        let Some(kernels) = layers.first().map(|layer| layer.kernels) else { return Ok(None) };
        let packed = layers.iter().filter_map(|layer| layer.packed()).collect::<Vec<_>>();
        if packed.len() == layers.len() {
            return Ok(PackedLinear::join(&packed)?.map(|joined| Self { weights: Weights::Packed(joined), kernels }));
        }
        let plain = layers.iter().map(|layer| layer.untracked()).collect::<Option<Vec<_>>>();
        let Some((weights, biases)) = plain.map(|plain| plain.into_iter().unzip::<_, _, Vec<_>, Vec<_>>()) else {
            return Ok(None);
        };
        let biases = biases.into_iter().flatten().collect::<Vec<_>>();
        let bias = match biases.len() {
            0 => None,
            n if n == weights.len() => Some(Tensor::cat(&biases, 0)?),
            _ => return Ok(None),
        };
        Ok(Some(Self::new(Tensor::cat(&weights, 0)?, bias)))
    }

    fn packed(&self) -> Option<&PackedLinear> {
        match &self.weights {
            Weights::Packed(layer) => Some(layer),
            Weights::Plain { .. } => None,
        }
    }

    /// Weight and bias as they were read, if neither wants a gradient, nor only stands in for weights that are missing.
    fn untracked(&self) -> Option<(&Tensor, Option<&Tensor>)> {
        let stays = |x: &Tensor| x.track_op() || is_stand_in(x);
        match &self.weights {
            Weights::Plain { weight, bias } if !stays(weight) && !bias.as_ref().is_some_and(stays) => {
                Some((weight, bias.as_ref()))
            }
            _ => None,
        }
    }

    /// Packs the weights for inference, where the device has a kernel that reads them packed. Weights that want a
    /// gradient stay as they are, and so do stand-ins of weights that are missing.
    ///
    /// # Errors
    /// When candle fails.
    pub fn pack(&mut self) -> Result<()> {
        let Some((weight, bias)) = self.untracked() else { return Ok(()) };
        if let Some(packed) = self.kernels.pack(weight, bias)? {
            self.weights = Weights::Packed(packed);
        }
        Ok(())
    }

    /// Quantizes the weights to `format`, or to the next one that fits rows of this length. They stay as they are where
    /// no format fits, where they want a gradient, and where they only stand in for weights that are missing.
    ///
    /// # Errors
    /// When candle fails.
    pub fn quantize(&mut self, format: QuantFormat) -> Result<()> {
        let Some((weight, bias)) = self.untracked() else { return Ok(()) };
        if let Some(packed) = self.kernels.quantize(weight, bias, format)? {
            self.weights = Weights::Packed(packed);
        }
        Ok(())
    }

    /// Rows of the weight by index, `(n, d_in)`; none where it is quantized.
    ///
    /// # Errors
    /// When an index is beyond `d_out`.
    pub fn weight_rows(&self, indices: &Tensor) -> Result<Option<Tensor>> {
        match &self.weights {
            Weights::Plain { weight, .. } => self.kernels.gather(weight, indices).map(Some),
            Weights::Packed(layer) => layer.weight_rows(indices),
        }
    }

    /// Whether the weight is packed in full precision.
    pub fn is_packed_in_full(&self) -> bool {
        self.packed().is_some_and(|layer| layer.format().is_none())
    }

    /// Format of the weights, if they are quantized.
    pub fn format(&self) -> Option<QuantFormat> {
        self.packed().and_then(PackedLinear::format)
    }

    /// Multiplies each row.
    ///
    /// # Shapes
    /// `(..., d_in)` to `(..., d_out)`.
    ///
    /// # Errors
    /// When the last dimension is not `d_in`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Weights::Packed(layer) => layer.forward(x, None, None),
            Weights::Plain { weight, bias } => {
                self.run_plain(x, weight, &LinearEpilogue { bias: bias.as_ref(), ..Default::default() })
            }
        }
    }

    /// As [`Self::forward`], with an activation behind it.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let activation = Some(activation);
        match &self.weights {
            Weights::Packed(layer) => layer.forward(x, None, activation),
            Weights::Plain { weight, bias } => {
                self.run_plain(x, weight, &LinearEpilogue { bias: bias.as_ref(), activation, residual: None })
            }
        }
    }

    /// As [`Self::forward`] of the normalised `x`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_normalised(&self, x: &Tensor, norm: &impl AsRef<Norm>) -> Result<Tensor> {
        let norm = norm.as_ref();
        match (&self.weights, norm.rows()) {
            (Weights::Packed(layer), Some(rows)) => layer.forward(x, Some(rows), None),
            _ => self.forward(&norm.forward(x)?),
        }
    }

    /// As [`Self::forward`], added to `residual`.
    ///
    /// # Errors
    /// As [`Self::forward`], or when `residual` has another shape than the result.
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Weights::Packed(layer) => layer.forward_residual(x, residual),
            Weights::Plain { weight, bias } => {
                let epilogue = LinearEpilogue { bias: bias.as_ref(), activation: None, residual: Some(residual) };
                self.run_plain(x, weight, &epilogue)
            }
        }
    }

    /// The product and what follows it, of weights as they were read.
    fn run_plain(&self, x: &Tensor, weight: &Tensor, epilogue: &LinearEpilogue<'_>) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        let d_in = dims.pop().unwrap_or(0);
        dims.push(weight.dim(0)?);
        if let Some(residual) = epilogue.residual.filter(|residual| residual.dims() != dims) {
            candle_core::bail!("a residual of {:?} for a result of {dims:?}", residual.dims());
        }
        let residual = epilogue.residual.map(|residual| residual.reshape(((), weight.dim(0)?))).transpose()?;
        let epilogue = LinearEpilogue { residual: residual.as_ref(), ..*epilogue };
        // One large product: batch and sequence are rows of the same matrix.
        self.kernels.linear(&x.reshape(((), d_in))?, weight, &epilogue)?.reshape(dims) // (rows, d_out)
    }
}

/// Whether a tensor is one element seen from everywhere: what stands in for a tensor that is missing.
fn is_stand_in(x: &Tensor) -> bool {
    x.elem_count() > 1 && x.stride().iter().all(|&stride| stride == 0)
}

/// Computes `x + down(activation(up(norm(x))))`, a transformer's feed-forward block: packed layers in one pass.
///
/// # Shapes
/// `(..., d)` to the same.
///
/// # Errors
/// When the widths do not fit.
pub fn feed_forward(x: &Tensor, norm: &impl AsRef<Norm>, layers: &FeedForward<'_, Linear>) -> Result<Tensor> {
    let FeedForward { up, activation, down } = *layers;
    if let (Some(packed_up), Some(packed_down), Some(rows)) = (up.packed(), down.packed(), norm.as_ref().rows())
        && let Some(y) =
            PackedLinear::feed_forward(x, rows, &FeedForward { up: packed_up, activation, down: packed_down })
    {
        return y;
    }
    down.forward_residual(&up.forward_activated(&norm.as_ref().forward(x)?, activation)?, x)
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
        let mut layer = Linear::new(weight, bias);
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
    fn rows_of_a_weight_are_the_same_packed() {
        let elements: Vec<f32> = (0..37 * 19).map(|i| (i as f32).sin()).collect();
        let weight = Tensor::from_vec(elements, (37, 19), &Device::Cpu).expect("small");
        let mut layer = Linear::from_weight(weight.clone());
        let ids = Tensor::new(&[36u32, 0, 17, 17], &Device::Cpu).expect("small");
        let expected = weight.index_select(&ids, 0).and_then(|rows| rows.to_vec2::<f32>()).expect("in range");
        for _ in 0..2 {
            let rows = layer.weight_rows(&ids).expect("in range").expect("not quantized");
            assert_eq!(rows.to_vec2::<f32>().expect("rank 2"), expected);
            assert!(layer.weight_rows(&Tensor::new(&[37u32], &Device::Cpu).expect("small")).is_err());
            layer.pack().expect("f32 on the CPU");
        }
        let mut layer =
            Linear::from_weight(Tensor::ones((4, 32), candle_core::DType::F32, &Device::Cpu).expect("small"));
        layer.quantize(QuantFormat::Q8_0).expect("rows of 32 fit");
        assert!(layer.weight_rows(&Tensor::new(&[0u32], &Device::Cpu).expect("small")).expect("no error").is_none());
    }

    #[test]
    fn what_stands_in_for_a_missing_weight_is_never_packed() {
        let zero = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu).expect("small");
        // Packed, it would take 64 TiB.
        let mut layer = Linear::from_weight(zero.broadcast_as((1 << 22, 1 << 22)).expect("a view"));
        layer.pack().and_then(|()| layer.quantize(QuantFormat::Q8_0)).expect("nothing to do");
        assert!(layer.packed().is_none());
        assert!(Linear::join(&[&layer, &layer]).expect("nothing to do").is_none());
    }

    #[test]
    fn layers_over_one_input_may_be_joined() {
        let layer = |rows: &[[f32; 2]], bias: Option<&[f32]>| {
            let weight = Tensor::from_slice(rows.as_flattened(), (rows.len(), 2), &Device::Cpu).expect("small");
            Linear::new(weight, bias.map(|bias| Tensor::new(bias, &Device::Cpu).expect("small")))
        };
        let (a, b) = (layer(&[[1.0, 0.0]], Some(&[5.0])), layer(&[[0.0, 1.0], [2.0, 0.0]], Some(&[0.0, 1.0])));
        let joined = Linear::join(&[&a, &b]).expect("the widths fit").expect("both have a bias");
        let x = Tensor::new(&[[3f32, 4.0]], &Device::Cpu).expect("small");
        let y = joined.forward(&x).and_then(|y| y.to_vec2::<f32>()).expect("the widths fit");
        assert_eq!(y, [[8.0, 4.0, 7.0]]);
        assert!(Linear::join(&[&a, &layer(&[[1.0, 1.0]], None)]).expect("no product is made").is_none());
    }

    #[test]
    fn packed_layers_are_joined_where_they_are_alike() {
        let layer = |n: usize, seed: f32| {
            let elements: Vec<f32> = (0..n * 32).map(|i| ((i as f32 + seed) * 0.37).sin()).collect();
            Linear::from_weight(Tensor::from_vec(elements, (n, 32), &Device::Cpu).expect("small"))
        };
        let x = Tensor::randn(0f32, 1.0, (3, 32), &Device::Cpu).expect("small");
        let convert = |format: Option<QuantFormat>, mut layer: Linear| {
            let converted = match format {
                Some(format) => layer.quantize(format),
                None => layer.pack(),
            };
            converted.map(|()| layer).expect("f32 on the CPU")
        };
        let join = |layers: &[&Linear]| Linear::join(layers).expect("on the CPU");
        for format in [None, Some(QuantFormat::Q8_0)] {
            let (a, b) = (convert(format, layer(32, 0.0)), convert(format, layer(64, 5.0)));
            let joined = join(&[&a, &b]).expect("whole panels");
            let apart = Tensor::cat(&[a.forward(&x).expect("fits"), b.forward(&x).expect("fits")], 1).expect("rows");
            let elements = |x: &Tensor| x.to_vec2::<f32>().expect("a matrix");
            assert_eq!(elements(&joined.forward(&x).expect("fits")), elements(&apart));
            assert!(join(&[&a, &convert(format, layer(5, 0.0))]).is_none());
            assert!(join(&[&a, &layer(32, 0.0)]).is_none());
        }
        let other = [convert(None, layer(32, 0.0)), convert(Some(QuantFormat::Q8_0), layer(32, 0.0))];
        assert!(join(&[&other[0], &other[1]]).is_none());
    }

    #[test]
    fn what_is_done_in_one_pass_is_what_its_parts_do() {
        use crate::nn::{LayerNorm, RmsNorm};
        let weight = |n: usize, k: usize, seed: f32| {
            let elements = (0..n * k).map(|i| ((i as f32 + seed) * 0.61).sin() * 0.2).collect::<Vec<f32>>();
            Linear::from_weight(Tensor::from_vec(elements, (n, k), &Device::Cpu).expect("small"))
        };
        let elements =
            |shift: f64| Tensor::arange(0f32, 32.0, &Device::Cpu).and_then(|x| x.affine(0.1, shift)).expect("small");
        let norm = LayerNorm::new(elements(1.0), elements(-0.5), 1e-5).expect("f32");
        let rms_norm = RmsNorm::new(elements(1.0), 1e-5).expect("f32");
        let x = Tensor::randn(0.3f32, 2.0, (2, 40, 32), &Device::Cpu).expect("small");
        let residual = Tensor::randn(0f32, 1.0, (2, 40, 64), &Device::Cpu).expect("small");
        let (mut wide, mut back) = (weight(64, 32, 0.0), weight(32, 64, 3.0));
        let run = |wide: &Linear, back: &Linear| {
            let all = [
                wide.forward_normalised(&x, &norm),
                wide.forward_normalised(&x, &rms_norm),
                wide.forward_residual(&x, &residual),
                feed_forward(&x, &norm, &FeedForward { up: wide, activation: Activation::QuickGelu, down: back }),
            ];
            all.map(|y| y.and_then(|y| y.flatten_all()?.to_vec1::<f32>()).expect("the widths fit"))
        };
        let apart = run(&wide, &back);
        wide.pack().and_then(|()| back.pack()).expect("f32 on the CPU");
        for (one, apart) in run(&wide, &back).into_iter().zip(apart) {
            assert!(one.iter().zip(&apart).all(|(a, b)| (a - b).abs() < 2e-5));
        }
        let narrow = RmsNorm::new(elements(1.0).narrow(0, 0, 31).expect("shorter"), 1e-5).expect("f32");
        assert!(wide.forward_normalised(&x, &narrow).is_err());
        let rows = residual.reshape((1, 80, 64)).expect("as many");
        assert!(wide.forward_residual(&x, &rows).is_err());
        let unequal = FeedForward { up: &wide, activation: Activation::Gelu, down: &wide };
        assert!(wide.forward_residual(&x, &x).is_err() && feed_forward(&x, &norm, &unequal).is_err());
    }

    #[test]
    fn a_linear_layer_has_its_gradients() {
        use crate::kernels::finite_difference::{assert_gradients, random};
        assert_gradients(&[random((2, 3, 4), 1), random((5, 4), 2), random(5, 3)], |t| {
            Linear::new(t[1].clone(), Some(t[2].clone())).forward(&t[0])
        });
    }
}
