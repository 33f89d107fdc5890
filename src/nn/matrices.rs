//! Where a network's matrices come from, and how they are held from the beginning: a model that does not fit in full precision is never
//! in memory as a whole in it.

use candle_core::Result;
use candle_nn::VarBuilder;

use super::linear::{Bias, Linear};
use crate::kernels::cpu::quantized::QuantFormat;

/// Gives a network its linear layers.
pub trait Matrices: Sync {
    /// The layer that `vb` points at, from `d_in` to `d_out`.
    ///
    /// # Errors
    /// When the weights cannot be read.
    fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Linear>;

    /// Holds a layer whose weight is another tensor as the others are held.
    ///
    /// # Errors
    /// When candle fails.
    fn hold(&self, layer: &mut Linear) -> Result<()>;

    /// Whether parts of a network are read side by side, which takes the memory of what each is before it is held.
    fn side_by_side(&self) -> bool;
}

/// As they are read.
#[derive(Debug, Clone, Copy)]
pub struct AsRead;

impl Matrices for AsRead {
    fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Linear> {
        Linear::load(d_in, d_out, bias, vb)
    }

    fn hold(&self, _: &mut Linear) -> Result<()> {
        Ok(())
    }

    fn side_by_side(&self) -> bool {
        true
    }
}

/// Held in fewer bits as soon as they are read: see [`Linear::quantize`].
#[derive(Debug, Clone, Copy)]
pub struct Quantizing(
    /// In which format, where it fits.
    pub QuantFormat,
);

impl Matrices for Quantizing {
    fn linear(&self, d_in: usize, d_out: usize, bias: Bias, vb: &VarBuilder) -> Result<Linear> {
        let mut layer = Linear::load(d_in, d_out, bias, vb)?;
        layer.quantize(self.0)?;
        Ok(layer)
    }

    fn hold(&self, layer: &mut Linear) -> Result<()> {
        layer.quantize(self.0)
    }

    fn side_by_side(&self) -> bool {
        false
    }
}
