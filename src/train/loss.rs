//! The loss of all stages: cross-entropy, weighted.

use candle_core::{D, Result, Tensor};

/// Expected class and weight of each row.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Targets {
    /// Classes.
    pub classes: Vec<u32>,
    /// Weights, one a class.
    pub weights: Vec<f32>,
}

impl Targets {
    /// Adds a row.
    pub(crate) fn push(&mut self, class: u32, weight: f32) {
        self.classes.push(class);
        self.weights.push(weight);
    }

    /// Returns the sum of the weights.
    pub(crate) fn weight(&self) -> f64 {
        self.weights.iter().map(|&weight| f64::from(weight)).sum()
    }
}

/// Returns the sum over the rows of weight times `-log softmax(logits)[class]`.
///
/// # Shapes
/// `logits (R, C)` to a scalar.
///
/// # Errors
/// When there are not as many targets as rows, or a class is beyond `C`.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &Targets) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    if rows != targets.classes.len() || targets.classes.iter().any(|&class| class as usize >= classes) {
        candle_core::bail!("{rows} rows of {classes} classes do not fit {} targets", targets.classes.len());
    }
    let max = logits.detach().max_keepdim(D::Minus1)?;
    let shifted = logits.broadcast_sub(&max)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?; // (R, 1)
    let picked = shifted.gather(&Tensor::from_slice(&targets.classes, (rows, 1), logits.device())?, 1)?; // (R, 1)
    let weights = Tensor::from_slice(&targets.weights, (rows, 1), logits.device())?;
    ((log_sum - picked)? * weights)?.sum_all()
}

/// Rows whose largest logit is the target's, of those that count, and how many count.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn correct(logits: &Tensor, targets: &Targets) -> Result<(usize, usize)> {
    let best = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let counted = best.iter().zip(&targets.classes).zip(&targets.weights).filter(|(_, weight)| **weight > 0.0);
    let (mut right, mut total) = (0, 0);
    for ((best, class), _) in counted {
        right += usize::from(best == class);
        total += 1;
    }
    Ok((right, total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::finite_difference::{assert_gradients, random};
    use candle_core::Device;

    #[test]
    fn even_logits_cost_the_log_of_the_classes() {
        let logits = Tensor::new(&[[1f32, 1.0], [5.0, 5.0], [0.0, 9.0]], &Device::Cpu).expect("small");
        let targets = Targets { classes: vec![0, 1, 0], weights: vec![1.0, 2.0, 0.0] };
        let loss = cross_entropy(&logits, &targets).and_then(|l| l.to_scalar::<f32>()).expect("fits");
        assert!((loss - 3.0 * 2f32.ln()).abs() < 1e-6, "{loss}");
        assert_eq!(correct(&logits, &targets).expect("fits"), (1, 2));
    }

    #[test]
    fn the_loss_has_its_gradient() {
        let targets = Targets { classes: vec![2, 0], weights: vec![0.5, 1.5] };
        assert_gradients(&[random((2, 3), 1)], |t| cross_entropy(&t[0], &targets));
    }

    #[test]
    fn classes_beyond_the_logits_are_refused() {
        let targets = Targets { classes: vec![3], weights: vec![1.0] };
        assert!(cross_entropy(&random((1, 3), 1), &targets).is_err());
    }
}
