//! From gradients to new weights.
//!
//! AdamW (arXiv 1711.05101) for every weight, or Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers") for
//! the matrices inside blocks and projector and AdamW for the rest. All state is tensors by name, so that a run resumes
//! to the bit.

mod adamw;
mod muon;

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};
use serde::{Deserialize, Serialize};

/// Update rule of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// AdamW for all.
    #[default]
    Adamw,
    /// Muon for the matrices of blocks and projector, AdamW for the rest.
    Muon,
}

/// Optimizer and its options.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Default: `adamw`.
    pub rule: Rule,
    /// AdamW's. Default: `0.001`.
    pub learning_rate: f64,
    /// AdamW's decay of the first and the second moment. Default: `[0.9, 0.98]`.
    pub betas: [f64; 2],
    /// AdamW's. Default: `0`.
    pub weight_decay: f64,
    /// Muon's learning rate. Default: `0.02`.
    pub muon_learning_rate: f64,
    /// Muon's weight decay. Default: `0.02`.
    pub muon_weight_decay: f64,
    /// Gradients longer than this, all together, are shortened to it. Default: `1`.
    pub clip: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            rule: Rule::Adamw,
            learning_rate: 1e-3,
            betas: [0.9, 0.98],
            weight_decay: 0.0,
            muon_learning_rate: 0.02,
            muon_weight_decay: 0.02,
            clip: 1.0,
        }
    }
}

/// Gradients by name.
pub(crate) type Gradients = BTreeMap<String, Tensor>;

/// An optimizer with its state.
pub(crate) struct Optimizer {
    config: OptimizerConfig,
    /// AdamW: `m.NAME` and `v.NAME`; Muon: `momentum.NAME`.
    state: BTreeMap<String, Tensor>,
    n_updates: usize,
}

impl Optimizer {
    /// Makes an optimizer without a state, or one that continues from `state` after `n_updates`.
    pub(crate) fn new(config: OptimizerConfig, state: BTreeMap<String, Tensor>, n_updates: usize) -> Self {
        Self { config, state, n_updates }
    }

    /// Returns the state to store.
    pub(crate) fn state(&self) -> &BTreeMap<String, Tensor> {
        &self.state
    }

    /// Moves the weights, at `factor` times the learning rates; gives the length that the gradients had. Where that is
    /// no finite number, nothing is moved.
    ///
    /// # Errors
    /// When candle fails.
    pub(crate) fn update(
        &mut self,
        weights: &BTreeMap<String, Var>,
        gradients: &Gradients,
        factor: f64,
    ) -> Result<f64> {
        let norm = norm(gradients)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        let shorten = if norm > self.config.clip { self.config.clip / norm } else { 1.0 };
        self.n_updates += 1;
        for (name, gradient) in gradients {
            let Some(weight) = weights.get(name) else { continue };
            let gradient = (gradient * shorten)?;
            let moved = if self.config.rule == Rule::Muon && is_hidden_matrix(name, weight) {
                self.muon(name, weight, &gradient, factor)?
            } else {
                self.adamw(name, weight, &gradient, factor)?
            };
            weight.set(&moved)?;
        }
        Ok(norm)
    }
}

/// Returns whether Muon updates a weight: a matrix between hidden states, not an embedding, a stem or a head.
fn is_hidden_matrix(name: &str, weight: &Tensor) -> bool {
    weight.rank() == 2 && (name.contains(".layers.") || name.contains("mm_projector"))
}

/// Returns the norm of all gradients together.
fn norm(gradients: &Gradients) -> Result<f64> {
    let mut square = 0.0;
    for gradient in gradients.values() {
        square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(square.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn one(values: &[f32]) -> (BTreeMap<String, Var>, Tensor) {
        let tensor = Tensor::new(values, &Device::Cpu).expect("small");
        (BTreeMap::from([("w".to_owned(), Var::from_tensor(&tensor).expect("small"))]), tensor)
    }

    #[test]
    fn the_first_adamw_step_is_one_learning_rate_against_the_gradient() {
        let (weights, gradient) = one(&[0.5, -0.25]);
        let config = OptimizerConfig { learning_rate: 0.1, weight_decay: 0.5, ..OptimizerConfig::default() };
        let mut optimizer = Optimizer::new(config, BTreeMap::new(), 0);
        optimizer.update(&weights, &BTreeMap::from([("w".to_owned(), gradient)]), 1.0).expect("it runs");
        // m / sqrt(v) is the sign at first; the decay takes 0.1 * 0.5 of the weight besides.
        let moved = weights["w"].to_vec1::<f32>().expect("f32");
        assert!((moved[0] - (0.5 - 0.1 - 0.025)).abs() < 1e-5 && (moved[1] - (-0.25 + 0.1 + 0.0125)).abs() < 1e-5);
    }

    #[test]
    fn gradients_that_are_not_finite_move_nothing() {
        let (weights, _) = one(&[1.0, 2.0]);
        let gradient = Tensor::new(&[1f32, f32::NAN], &Device::Cpu).expect("small");
        let mut optimizer = Optimizer::new(OptimizerConfig::default(), BTreeMap::new(), 0);
        let norm = optimizer.update(&weights, &BTreeMap::from([("w".to_owned(), gradient)]), 1.0).expect("it runs");
        assert!(norm.is_nan() && optimizer.state().is_empty());
        assert_eq!(weights["w"].to_vec1::<f32>().expect("f32"), [1.0, 2.0]);
    }

    #[test]
    fn long_gradients_are_shortened_together() {
        let (weights, _) = one(&[0.0, 0.0]);
        let gradient = Tensor::new(&[3f32, 4.0], &Device::Cpu).expect("small");
        let mut optimizer = Optimizer::new(OptimizerConfig::default(), BTreeMap::new(), 0);
        let norm = optimizer.update(&weights, &BTreeMap::from([("w".to_owned(), gradient)]), 1.0).expect("it runs");
        assert!((norm - 5.0).abs() < 1e-6);
        // The first moment is 0.1 of the gradient over 5.
        let first = optimizer.state()["m.w"].to_vec1::<f32>().expect("f32");
        assert!((first[0] - 0.06).abs() < 1e-6 && (first[1] - 0.08).abs() < 1e-6, "{first:?}");
    }
}
