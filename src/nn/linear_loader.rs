//! Loaders of linear layers: full precision, or quantized layer by layer while the weights are read. The peak of memory
//! is that of the converted model plus one layer, so a model that fits only quantized can be loaded.
//!
//! Loaders of files (`vlm::load`, `vlm::gguf`) implement the same trait.

use candle_core::Result;
use candle_nn::VarBuilder;

use super::linear::{Bias, Linear};
use crate::kernels::QuantFormat;
use crate::weights::StoredRows;

/// Loader of linear layers.
pub trait LinearLoader: Sync {
    /// Loads the layer from `d_in` to `d_out` under the prefix of `vb`.
    ///
    /// # Errors
    /// When the weights cannot be read.
    fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Linear>;

    /// Converts a layer that was not loaded by [`Self::linear`], such as a tied output head, to the loader's format.
    ///
    /// # Errors
    /// When candle fails.
    fn convert(&self, layer: &mut Linear) -> Result<()>;

    /// Returns whether layers may be loaded in parallel. Each layer takes the memory of its stored weights until it is
    /// converted.
    fn reads_in_parallel(&self) -> bool;

    /// Returns the purpose of the loaded network.
    fn purpose(&self) -> Purpose;

    /// Opens the table `weight (n, width)` under the prefix of `vb` for reading rows on demand; `None` where the loader
    /// reads whole tensors only.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn stored_rows(&self, _: (usize, usize), _: &VarBuilder) -> Result<Option<StoredRows>> {
        Ok(None)
    }
}

/// Purpose of a loaded network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Inference: layers are packed ([`Linear::pack`]) as soon as they are loaded.
    Inference,
    /// Training: weights stay unpacked, each under its own name.
    Training,
}

/// Loader of layers in the precision of the `VarBuilder`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FullPrecisionLoader(
    /// Purpose of the network.
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

/// Loader that quantizes each layer after it is read, by [`Linear::quantize`].
#[derive(Debug, Clone, Copy)]
pub struct QuantizingLoader(
    /// Format of the weights, where it fits the rows.
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
