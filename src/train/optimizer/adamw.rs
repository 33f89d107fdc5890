//! AdamW: "Decoupled weight decay regularization", arXiv 1711.05101, algorithm 2.

use candle_core::{Result, Tensor};

use super::Optimizer;

const EPS: f64 = 1e-8;

impl Optimizer {
    /// Returns the weight after one step.
    pub(super) fn adamw(&mut self, name: &str, weight: &Tensor, gradient: &Tensor, factor: f64) -> Result<Tensor> {
        let [b1, b2] = self.config.betas;
        let mut mean = |key: String, value: Tensor, beta: f64| -> Result<Tensor> {
            let new = match self.state.get(&key) {
                Some(old) => ((old * beta)? + (value * (1.0 - beta))?)?,
                None => (value * (1.0 - beta))?,
            };
            self.state.insert(key, new.clone());
            Ok(new)
        };
        let m = mean(format!("m.{name}"), gradient.clone(), b1)?;
        let v = mean(format!("v.{name}"), gradient.sqr()?, b2)?;
        let n = self.n_updates as i32;
        let (m, v) = ((m / (1.0 - b1.powi(n)))?, (v / (1.0 - b2.powi(n)))?);
        let rate = self.config.learning_rate * factor;
        let kept = (weight.detach() * (1.0 - rate * self.config.weight_decay))?;
        kept - (m / (v.sqrt()? + EPS)?)? * rate
    }
}
