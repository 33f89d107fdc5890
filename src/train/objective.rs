//! The objective of a stage: the loss that it minimises.

use candle_core::{Result, Tensor};

use crate::error::Error;

/// The loss of some images.
pub(crate) struct StepLoss {
    /// Summed, not divided by the weight: a scalar.
    pub sum: Tensor,
    /// Predictions that were right.
    pub right: usize,
    /// Predictions that count.
    pub counted: usize,
    /// Positions that went through the networks.
    pub n_tokens: usize,
}

/// A stage's loss over batches of images. Work without gradients is prepared separately.
pub(crate) trait Objective: Sync {
    /// Prepared images.
    type Batch: Send + Sync;

    /// Prepares the images `indices` for step `step`: the same for the same step, whenever and wherever it runs.
    ///
    /// # Errors
    /// When data cannot be read.
    fn prepare(&self, step: usize, indices: &[usize]) -> std::result::Result<Self::Batch, Error>;

    /// Returns the divisor that makes a mean of the summed loss.
    fn weight(&self, batch: &Self::Batch) -> f64;

    /// Returns the loss, tracked back to the weights.
    ///
    /// # Errors
    /// When candle fails.
    fn loss(&self, batch: &Self::Batch) -> Result<StepLoss>;
}
