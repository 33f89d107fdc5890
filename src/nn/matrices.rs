//! Sources of a network's linear layers. Layers are quantized one by one as they are read: a model that does not fit
//! into memory in full precision is never there as a whole in it.

use candle_core::Result;
use candle_nn::VarBuilder;

use super::linear::{Bias, Linear};
use crate::kernels::QuantFormat;

/// A source of linear layers.
pub trait Matrices: Sync {
    /// Returns the layer that `vb` points at, from `d_in` to `d_out`.
    ///
    /// # Errors
    /// When the weights cannot be read.
    fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Linear>;

    /// Converts a layer whose weight is another tensor, such as a tied output head, to the format of the others.
    ///
    /// # Errors
    /// When candle fails.
    fn convert(&self, layer: &mut Linear) -> Result<()>;

    /// Whether layers are read in parallel, each of which takes the memory of its weights as stored until it is
    /// converted.
    fn reads_in_parallel(&self) -> bool;
}

/// Layers as they are stored.
#[derive(Debug, Clone, Copy)]
pub struct AsRead;

impl Matrices for AsRead {
    fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Linear> {
        Linear::load(d_in, d_out, bias, vb)
    }

    fn convert(&self, _: &mut Linear) -> Result<()> {
        Ok(())
    }

    fn reads_in_parallel(&self) -> bool {
        true
    }
}

/// Layers that are quantized as soon as they are read: see [`Linear::quantize`].
#[derive(Debug, Clone, Copy)]
pub struct Quantizing(
    /// The format, where it fits.
    pub QuantFormat,
);

impl Matrices for Quantizing {
    fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Linear> {
        let mut layer = Linear::load(d_in, d_out, bias, vb)?;
        layer.quantize(self.0)?;
        Ok(layer)
    }

    fn convert(&self, layer: &mut Linear) -> Result<()> {
        layer.quantize(self.0)
    }

    fn reads_in_parallel(&self) -> bool {
        false
    }
}
