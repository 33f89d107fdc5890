//! Linear layer packed in the layout of a kernel: one type for all devices, which `nn` stores.

use candle_core::quantized::QTensor;
use candle_core::{Device, Result, Tensor};

use super::cpu::packed::CpuLinear;
use super::ggml::GgmlLinear;
use super::{Activation, QuantFormat, RowNorm};

/// Linear layer with weights in the layout of a kernel. Inference only. Clones share the weights.
#[derive(Debug, Clone)]
pub struct PackedLinear(PackedLayout);

/// Weight of a linear layer that is stored quantized, with the layer's other parts.
pub struct StoredLinear<'a> {
    /// Weight `(d_out, d_in)`, in host memory.
    pub weight: &'a QTensor,
    /// Device of the loaded layer.
    pub device: &'a Device,
    /// Format of the weight.
    pub format: QuantFormat,
    /// Maps an output to its row of the weight.
    pub row: &'a (dyn Fn(usize) -> usize + Sync),
    /// Bias `(d_out)` in f32, in the order of the outputs.
    pub bias: Option<Tensor>,
}

/// The two linear layers of a transformer's feed-forward block.
#[derive(Debug)]
pub struct FeedForwardLayers<'a, L> {
    /// Layer from the model width to the inner width.
    pub up: &'a L,
    /// Activation of the inner elements.
    pub activation: Activation,
    /// Layer back to the model width.
    pub down: &'a L,
}

#[derive(Debug, Clone)]
enum PackedLayout {
    /// Layout of this crate's CPU kernels, for activations in f32.
    Cpu(CpuLinear),
    /// GGML's layout for candle's kernels, on every other device and in every other precision.
    Ggml(GgmlLinear),
}

impl From<CpuLinear> for PackedLinear {
    fn from(layer: CpuLinear) -> Self {
        Self(PackedLayout::Cpu(layer))
    }
}

impl From<GgmlLinear> for PackedLinear {
    fn from(layer: GgmlLinear) -> Self {
        Self(PackedLayout::Ggml(layer))
    }
}

impl PackedLinear {
    /// Joins layers over the same input into one; `None` where layouts or formats differ, columns do not fill the
    /// kernel's panels, or only some layers have a bias.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub(crate) fn join(layers: &[&Self]) -> Result<Option<Self>> {
        let cpu: Option<Vec<&CpuLinear>> = layers.iter().map(|layer| layer.cpu()).collect();
        if let Some(layers) = cpu {
            return Ok(CpuLinear::join(&layers).map(Self::from));
        }
        let ggml: Option<Vec<&GgmlLinear>> = layers.iter().map(|layer| layer.ggml()).collect();
        let joined = ggml.map(|layers| GgmlLinear::join(&layers)).transpose()?;
        Ok(joined.flatten().map(Self::from))
    }

    fn cpu(&self) -> Option<&CpuLinear> {
        match &self.0 {
            PackedLayout::Cpu(layer) => Some(layer),
            PackedLayout::Ggml(_) => None,
        }
    }

    fn ggml(&self) -> Option<&GgmlLinear> {
        match &self.0 {
            PackedLayout::Cpu(_) => None,
            PackedLayout::Ggml(layer) => Some(layer),
        }
    }

    /// Gathers rows of the weight `(d_out, d_in)` by index; `None` for quantized weights.
    ///
    /// # Errors
    /// When an index is `d_out` or more.
    pub(crate) fn weight_rows(&self, indices: &Tensor) -> Result<Option<Tensor>> {
        self.cpu().map_or(Ok(None), |layer| layer.weight_rows(indices))
    }

    /// Returns the format of quantized weights, `None` for full precision.
    pub(crate) fn format(&self) -> Option<QuantFormat> {
        match &self.0 {
            PackedLayout::Cpu(layer) => layer.format(),
            PackedLayout::Ggml(layer) => Some(layer.format()),
        }
    }

    /// Computes `activation(norm(x) W + b)`.
    ///
    /// # Errors
    /// When the last dimension of `x` is not `d_in`, or `x` is tracked.
    pub(crate) fn forward(&self, x: &Tensor, norm: Option<&RowNorm>, activation: Option<Activation>) -> Result<Tensor> {
        match (&self.0, norm) {
            (PackedLayout::Cpu(layer), norm) => layer.forward(x, norm, activation),
            (PackedLayout::Ggml(layer), None) => layer.forward(x, activation),
            (PackedLayout::Ggml(_), Some(_)) => {
                candle_core::bail!("linear: a norm of the CPU's kernels with weights in GGML's layout")
            }
        }
    }

    /// Computes `residual + x W + b`.
    ///
    /// # Errors
    /// Errors of [`Self::forward`], and a residual of another shape than the result.
    pub(crate) fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.0 {
            PackedLayout::Cpu(layer) => layer.forward_residual(x, residual),
            PackedLayout::Ggml(layer) => residual + layer.forward(x, None)?,
        }
    }

    /// Computes `x + down(activation(up(norm(x))))` in one pass, or returns `None` unless both weights are in f32 on
    /// the CPU.
    ///
    /// # Errors
    /// When the widths do not match, or `x` is tracked.
    pub(crate) fn feed_forward(
        x: &Tensor,
        norm: &RowNorm,
        layers: &FeedForwardLayers<'_, Self>,
    ) -> Option<Result<Tensor>> {
        let FeedForwardLayers { up, activation, down } = *layers;
        CpuLinear::feed_forward(x, norm, &FeedForwardLayers { up: up.cpu()?, activation, down: down.cpu()? })
    }
}
