//! Sources of a network's linear layers. For inference, layers are quantized and packed one by one as they are read: a
//! model is never in memory as a whole twice, nor in full precision where that does not fit.

use candle_core::Result;
use candle_nn::VarBuilder;

use super::linear::{Bias, Linear};
use crate::kernels::QuantFormat;
use crate::weights::StoredRows;

/// A source of linear layers.
pub trait LinearLoader: Sync {
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

    /// The use that the network is read for.
    fn purpose(&self) -> Purpose;

    /// The matrix `weight (n, width)` that `vb` points at, if its rows can be read when they are asked for.
    ///
    /// # Errors
    /// When its file cannot be read.
    fn stored_rows(&self, _: (usize, usize), _: &VarBuilder) -> Result<Option<StoredRows>> {
        Ok(None)
    }
}

/// The use that a network is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Layers are packed ([`Linear::pack`]) as soon as they are read.
    Inference,
    /// Weights stay as they are stored, each under its own name.
    Training,
}

/// Layers in the precision of the `VarBuilder`.
#[derive(Debug, Clone, Copy)]
pub struct FullPrecisionLoader(
    /// The use that the network is read for.
    pub Purpose,
);

impl LinearLoader for FullPrecisionLoader {
    fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Linear> {
        Linear::load(d_in, d_out, bias, vb)
    }

    fn convert(&self, _: &mut Linear) -> Result<()> {
        Ok(())
    }

    fn reads_in_parallel(&self) -> bool {
        true
    }

    fn purpose(&self) -> Purpose {
        self.0
    }
}

/// Layers that are quantized as soon as they are read: see [`Linear::quantize`].
#[derive(Debug, Clone, Copy)]
pub struct QuantizingLoader(
    /// The format, where it fits.
    pub QuantFormat,
);

impl LinearLoader for QuantizingLoader {
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

    fn purpose(&self) -> Purpose {
        Purpose::Inference
    }
}
