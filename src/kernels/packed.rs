//! A linear layer in the layout of a kernel of its device: one type for the networks, whichever device it is.

use candle_core::{Result, Tensor};

use super::cpu::packed::CpuLinear;
use super::ggml::GgmlLinear;
use super::{Activation, QuantFormat, RowNorm};

/// A linear layer whose weights are in the layout of a kernel: for inference. Clones share the weights.
#[derive(Debug, Clone)]
pub struct PackedLinear(PackedLayout);

/// The two linear layers of a transformer's feed-forward block.
#[derive(Debug)]
pub struct FeedForward<'a, L> {
    /// Layer from the model width to the inner width.
    pub up: &'a L,
    /// Activation of the inner elements.
    pub activation: Activation,
    /// Layer back to the model width.
    pub down: &'a L,
}

#[derive(Debug, Clone)]
enum PackedLayout {
    /// This crate's, in f32 on the CPU.
    Cpu(CpuLinear),
    /// GGML's, by candle's kernels on every other device and in every other precision.
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
    /// Several layers over the same input as one; none where layouts or formats differ, columns do not fill the
    /// kernel's panels, or only some have a bias.
    ///
    /// # Errors
    /// When the device has no room.
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

    /// Rows of the weight `(d_out, d_in)` by index; none where it is quantized.
    ///
    /// # Errors
    /// When an index is beyond `d_out`.
    pub(crate) fn weight_rows(&self, indices: &Tensor) -> Result<Option<Tensor>> {
        self.cpu().map_or(Ok(None), |layer| layer.weight_rows(indices))
    }

    /// Format of the weights, if they are quantized.
    pub(crate) fn format(&self) -> Option<QuantFormat> {
        match &self.0 {
            PackedLayout::Cpu(layer) => layer.format(),
            PackedLayout::Ggml(layer) => Some(layer.format()),
        }
    }

    /// `activation(norm(x) W + b)`.
    ///
    /// # Errors
    /// When the last dimension of `x` is not the weight's, or `x` wants a gradient.
    pub(crate) fn forward(&self, x: &Tensor, norm: Option<&RowNorm>, activation: Option<Activation>) -> Result<Tensor> {
        match (&self.0, norm) {
            (PackedLayout::Cpu(layer), norm) => layer.forward(x, norm, activation),
            (PackedLayout::Ggml(layer), None) => layer.forward(x, activation),
            (PackedLayout::Ggml(_), Some(_)) => {
                candle_core::bail!("a norm of the CPU's kernels for weights of another device")
            }
        }
    }

    /// `residual + x W + b`.
    ///
    /// # Errors
    /// As [`Self::forward`], or when `residual` has another shape than the result.
    pub(crate) fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.0 {
            PackedLayout::Cpu(layer) => layer.forward_residual(x, residual),
            PackedLayout::Ggml(layer) => residual + layer.forward(x, None)?,
        }
    }

    /// Computes `x + down(activation(up(norm(x))))` in one pass, or returns `None` unless both weights are in f32 on the
    /// CPU.
    ///
    /// # Errors
    /// When the widths do not fit, or `x` wants a gradient.
    pub(crate) fn feed_forward(x: &Tensor, norm: &RowNorm, layers: &FeedForward<'_, Self>) -> Option<Result<Tensor>> {
        let FeedForward { up, activation, down } = *layers;
        CpuLinear::feed_forward(x, norm, (up.cpu()?, activation), down.cpu()?)
    }
}
