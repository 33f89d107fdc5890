//! Fused linear layers over the same input: query, key and value of an attention; gate and up of a feed-forward block.
//!
//! For inference the layers are joined into one on every device: one matrix product reads the input once. For training
//! they remain separate under their own names, each with its gradient. Towers and language models use them.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;

use super::linear::{Bias, Linear};
use super::linear_loader::LinearLoader;
use super::norm::Norm;

/// Names and widths of `N` linear layers over the same input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FusedConfig<'a, const N: usize> {
    /// Input width.
    pub d_in: usize,
    /// Name and output width of each layer, in the order of the outputs.
    pub outputs: [(&'a str, usize); N],
    /// Presence of a bias in each layer.
    pub bias: Bias,
}

/// `N` linear layers over the same input.
#[derive(Debug)]
pub(crate) struct Fused<const N: usize> {
    weights: FusedWeights<N>,
    widths: [usize; N],
}

#[derive(Debug)]
enum FusedWeights<const N: usize> {
    /// Separate layers: for training, or where they cannot be joined.
    Separate([Linear; N]),
    /// One layer with concatenated outputs: for inference.
    Joined(Linear),
}

impl<const N: usize> Fused<N> {
    /// Loads each layer by `loader` under the prefix of `vb`. The layers are separate until [`Self::pack`].
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub(crate) fn load(config: &FusedConfig<'_, N>, vb: &VarBuilder, loader: &dyn LinearLoader) -> Result<Self> {
        let load = |(name, d_out)| loader.linear(config.d_in, d_out, config.bias, &vb.pp(name));
        let layers = config.outputs.into_iter().map(load).collect::<Result<Vec<_>>>()?;
        Ok(Self { weights: FusedWeights::Separate(array(layers)?), widths: config.outputs.map(|(_, d_out)| d_out) })
    }

    /// Packs the layers for inference and joins them. Unpacked weights are joined on any device, packed and quantized
    /// weights where all layers have the same format and fill whole panels. Layers stay separate where one is tracked,
    /// formats differ, or only some have a bias.
    ///
    /// # Errors
    /// When candle fails.
    pub(crate) fn pack(&mut self) -> Result<()> {
        let FusedWeights::Separate(layers) = &mut self.weights else { return Ok(()) };
        if let Some(mut joined) = Linear::join(&layers.each_ref())? {
            joined.pack()?;
            self.weights = FusedWeights::Joined(joined);
            return Ok(());
        }
        layers.iter_mut().try_for_each(Linear::pack)?;
        if let Some(joined) = Linear::join(&layers.each_ref())? {
            self.weights = FusedWeights::Joined(joined);
        }
        Ok(())
    }

    /// Returns the `N` separate layers, or the joined one.
    pub(crate) fn layers(&self) -> &[Linear] {
        match &self.weights {
            FusedWeights::Separate(layers) => layers,
            FusedWeights::Joined(layer) => std::slice::from_ref(layer),
        }
    }

    /// Computes the output of each layer. Outputs of joined layers are views into one tensor and not contiguous.
    ///
    /// # Shapes
    /// `(..., d_in)` to `(..., widths[i])`.
    ///
    /// # Errors
    /// When the last dimension is not `d_in`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<[Tensor; N]> {
        match &self.weights {
            FusedWeights::Separate(layers) => {
                array(layers.iter().map(|layer| layer.forward(x)).collect::<Result<_>>()?)
            }
            FusedWeights::Joined(layer) => self.split(&layer.forward(x)?),
        }
    }

    /// Computes the outputs for the normalised `x`, concatenated in one tensor. Separate layers cost a concatenation
    /// here, and none in [`Self::forward_normalised_parts`].
    ///
    /// # Shapes
    /// `(..., d_in)` to `(..., sum of widths)`.
    ///
    /// # Errors
    /// When the last dimension is not `d_in`.
    pub(crate) fn forward_normalised(&self, x: &Tensor, norm: &impl AsRef<Norm>) -> Result<Tensor> {
        match &self.weights {
            FusedWeights::Separate(_) => Tensor::cat(&self.forward_normalised_parts(x, norm)?, D::Minus1),
            FusedWeights::Joined(layer) => layer.forward_normalised(x, norm),
        }
    }

    /// Computes the output of each layer for the normalised `x`.
    ///
    /// # Errors
    /// When the last dimension is not `d_in`.
    pub(crate) fn forward_normalised_parts(&self, x: &Tensor, norm: &impl AsRef<Norm>) -> Result<[Tensor; N]> {
        match &self.weights {
            FusedWeights::Separate(_) => self.forward(&norm.as_ref().forward(x)?),
            FusedWeights::Joined(layer) => self.split(&layer.forward_normalised(x, norm)?),
        }
    }

    /// Splits concatenated outputs into views.
    ///
    /// # Shapes
    /// `(..., sum of widths)` to `(..., widths[i])`.
    ///
    /// # Errors
    /// When the last dimension is not the sum of the widths.
    pub(crate) fn split(&self, outputs: &Tensor) -> Result<[Tensor; N]> {
        let width = outputs.dim(D::Minus1)?;
        if width != self.widths.iter().sum::<usize>() {
            candle_core::bail!("fused layers: outputs of width {width}, not of the sum of {:?}", self.widths);
        }
        let mut first = 0;
        let part = |width: usize| {
            let part = outputs.narrow(D::Minus1, first, width);
            first += width;
            part
        };
        array(self.widths.into_iter().map(part).collect::<Result<_>>()?)
    }
}

/// Converts a list of `N` items to an array.
fn array<T, const N: usize>(items: Vec<T>) -> Result<[T; N]> {
    let n = items.len();
    items.try_into().map_err(|_| candle_core::Error::msg(format!("fused layers: {n}, not {N}")))
}

#[cfg(test)]
#[path = "fused_tests.rs"]
mod tests;
