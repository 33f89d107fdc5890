//! Linear layers in any precision on any device: unpacked weights with gradients, or packed weights for inference.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::Serialize;

use super::norm::Norm;
use crate::kernels::{
    self, Activation, FeedForwardLayers, Kernels, LinearEpilogue, PackedLinear, QuantFormat, StoredLinear,
};

/// Linear layer: `x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    weights: Weights,
    kernels: &'static dyn Kernels,
}

#[derive(Debug, Clone)]
enum Weights {
    /// Row-major weights, as loaded.
    Plain { weight: Tensor, bias: Option<Tensor> },
    /// Weights in the layout of a kernel of the device. Inference only.
    Packed(PackedLinear),
}

/// Presence of a bias in a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// A tensor `bias` of the output width.
    With,
    /// No bias.
    Without,
}

impl Linear {
    /// Loads `weight (d_out, d_in)` and, with [`Bias::With`], `bias (d_out)`.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn load(d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Self> {
        let weight = vb.get((d_out, d_in), "weight")?;
        let bias = (bias == Bias::With).then(|| vb.get(d_out, "bias")).transpose()?;
        Ok(Self::new(weight, bias))
    }

    /// Creates a layer from `weight (d_out, d_in)` and an optional `bias (d_out)`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        let kernels = kernels::of(weight.device(), weight.dtype());
        Self { weights: Weights::Plain { weight, bias }, kernels }
    }

    /// Creates a layer without bias from a weight, such as a tied output head from the embedding table.
    pub fn from_weight(weight: Tensor) -> Self {
        Self::new(weight, None)
    }

    /// Loads a quantized weight without requantization, for inference by `kernels`.
    ///
    /// # Errors
    /// When the weight has another format, or the device is out of memory.
    pub fn from_quantized(stored: &StoredLinear<'_>, kernels: &'static dyn Kernels) -> Result<Self> {
        Ok(Self { weights: Weights::Packed(kernels.load_quantized(stored)?), kernels })
    }

    /// Joins layers over the same input into one with concatenated outputs; `None` where a weight is tracked, only some
    /// layers have a bias, formats differ, or packed columns do not fill the kernel's panels.
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

    /// Returns the unpacked weight and bias, if neither is tracked or a placeholder of a missing tensor.
    fn untracked(&self) -> Option<(&Tensor, Option<&Tensor>)> {
        let is_excluded = |x: &Tensor| x.track_op() || is_placeholder(x);
        match &self.weights {
            Weights::Plain { weight, bias } if !is_excluded(weight) && !bias.as_ref().is_some_and(is_excluded) => {
                Some((weight, bias.as_ref()))
            }
            _ => None,
        }
    }

    /// Packs the weights for inference, where the device has a kernel for packed weights. Tracked weights and
    /// placeholders of missing weights are left unpacked.
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

    /// Quantizes the weights to `format`, or to the next format that fits rows of this length. Weights are left as they
    /// are where no format fits; so are tracked weights and placeholders of missing weights.
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

    /// Gathers rows of the weight by index, `(n, d_in)`; `None` for quantized weights.
    ///
    /// # Errors
    /// When an index is `d_out` or more.
    pub fn weight_rows(&self, indices: &Tensor) -> Result<Option<Tensor>> {
        match &self.weights {
            Weights::Plain { weight, .. } => self.kernels.gather(weight, indices).map(Some),
            Weights::Packed(layer) => layer.weight_rows(indices),
        }
    }

    /// Returns whether the weight is packed in full precision.
    pub fn is_packed_in_full(&self) -> bool {
        self.packed().is_some_and(|layer| layer.format().is_none())
    }

    /// Returns the format of quantized weights, `None` for full precision.
    pub fn format(&self) -> Option<QuantFormat> {
        self.packed().and_then(PackedLinear::format)
    }

    /// Applies the layer to each row.
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

    /// Applies the layer and an activation.
    ///
    /// # Errors
    /// When the last dimension is not `d_in`.
    pub fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let activation = Some(activation);
        match &self.weights {
            Weights::Packed(layer) => layer.forward(x, None, activation),
            Weights::Plain { weight, bias } => {
                self.run_plain(x, weight, &LinearEpilogue { bias: bias.as_ref(), activation, residual: None })
            }
        }
    }

    /// Applies a norm and the layer.
    ///
    /// # Errors
    /// When the last dimension is not `d_in`.
    pub fn forward_normalised(&self, x: &Tensor, norm: &impl AsRef<Norm>) -> Result<Tensor> {
        let norm = norm.as_ref();
        match (&self.weights, norm.rows()) {
            (Weights::Packed(layer), Some(rows)) => layer.forward(x, Some(rows), None),
            _ => self.forward(&norm.forward(x)?),
        }
    }

    /// Applies the layer and adds `residual`.
    ///
    /// # Errors
    /// When the last dimension is not `d_in`, or `residual` has another shape than the result.
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Weights::Packed(layer) => layer.forward_residual(x, residual),
            Weights::Plain { weight, bias } => {
                let epilogue = LinearEpilogue { bias: bias.as_ref(), activation: None, residual: Some(residual) };
                self.run_plain(x, weight, &epilogue)
            }
        }
    }

    /// Computes the layer with unpacked weights.
    fn run_plain(&self, x: &Tensor, weight: &Tensor, epilogue: &LinearEpilogue<'_>) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        let d_in = dims.pop().unwrap_or(0);
        dims.push(weight.dim(0)?);
        if let Some(residual) = epilogue.residual.filter(|residual| residual.dims() != dims) {
            candle_core::bail!("linear: residual {:?} for a result {dims:?}", residual.dims());
        }
        let residual = epilogue.residual.map(|residual| residual.reshape(((), weight.dim(0)?))).transpose()?;
        let epilogue = LinearEpilogue { residual: residual.as_ref(), ..*epilogue };
        // One large GEMM: batch and sequence are rows of the same matrix.
        self.kernels.linear(&x.reshape(((), d_in))?, weight, &epilogue)?.reshape(dims) // (rows, d_out)
    }
}

/// Returns whether a tensor is a broadcast scalar, the placeholder of a missing tensor.
fn is_placeholder(x: &Tensor) -> bool {
    x.elem_count() > 1 && x.stride().iter().all(|&stride| stride == 0)
}

/// Computes `x + down(activation(up(norm(x))))`, a transformer's feed-forward block: packed layers in one pass.
///
/// # Shapes
/// `(..., d)` to the same.
///
/// # Errors
/// When the widths do not match.
pub fn feed_forward(x: &Tensor, norm: &impl AsRef<Norm>, layers: &FeedForwardLayers<'_, Linear>) -> Result<Tensor> {
    let FeedForwardLayers { up, activation, down } = *layers;
    if let (Some(packed_up), Some(packed_down), Some(rows)) = (up.packed(), down.packed(), norm.as_ref().rows())
        && let Some(y) =
            PackedLinear::feed_forward(x, rows, &FeedForwardLayers { up: packed_up, activation, down: packed_down })
    {
        return y;
    }
    down.forward_residual(&up.forward_activated(&norm.as_ref().forward(x)?, activation)?, x)
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
