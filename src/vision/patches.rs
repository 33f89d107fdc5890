//! Patches: a convolution whose stride is its kernel, as one product.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::TowerConfig;
use crate::nn::linear::{Bias, Linear};

/// Cuts images into patches and projects each.
#[derive(Debug)]
pub(super) struct PatchEmbedding {
    /// `3 p p` to `D`.
    projection: Linear,
    n_channels: usize,
    patch_size: usize,
    grid: usize,
}

impl PatchEmbedding {
    /// Reads `weight (D, 3, p, p)` and, if asked for, `bias (D)`.
    pub(super) fn load(config: &TowerConfig, bias: Bias, vb: &VarBuilder) -> Result<Self> {
        let TowerConfig { d_hidden, n_channels, patch_size: p, .. } = *config;
        let weight = vb.get((d_hidden, n_channels, p, p), "weight")?.reshape((d_hidden, n_channels * p * p))?;
        let bias = (bias == Bias::With).then(|| vb.get(d_hidden, "bias")).transpose()?;
        Ok(Self { projection: Linear::new(weight, bias), n_channels, patch_size: p, grid: config.grid() })
    }

    /// Packs the weights for inference, where that may be.
    pub(super) fn pack(&mut self) -> Result<()> {
        self.projection.pack()
    }

    /// `(T, 3, S, S)` to `(T, N, D)`; what is beyond the last whole patch is left out.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let Self { n_channels, patch_size: p, grid, .. } = *self;
        let frames = pixels.dim(0)?;
        let whole = pixels.narrow(2, 0, grid * p)?.narrow(3, 0, grid * p)?.contiguous()?;
        let patches = whole
            .reshape((frames, n_channels, grid, p, grid, p))?
            .permute((0, 2, 4, 1, 3, 5))? // (T, grid, grid, 3, p, p)
            .contiguous()?
            .reshape((frames, grid * grid, n_channels * p * p))?;
        self.projection.forward(&patches)
    }
}
