//! The judge of whole networks: the gradient of every weight against a difference in a direction of its own.

#![allow(clippy::expect_used, reason = "only tests come here")]

use candle_core::{Result, Tensor};

use super::parameters::Parameters;
use crate::nn::finite_difference::random;

/// Fails unless every weight has a gradient, other than 0, and a step in a random direction changes `loss` as it says.
pub(super) fn assert_directional(parameters: &Parameters, loss: impl Fn() -> Result<Tensor>) {
    const STEP: f64 = 5e-3;
    let grads = loss().and_then(|loss| loss.backward()).expect("it runs");
    for (i, (name, var)) in parameters.trainable().into_iter().enumerate() {
        let grad = grads.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
        let direction = random(var.shape(), 500 + i as u64);
        let expected = (grad * &direction).and_then(|d| d.sum_all()?.to_scalar::<f32>()).expect("f32");
        let weight = var.as_detached_tensor().copy().expect("small");
        let at = |step: f64| {
            var.set(&(&weight + (&direction * step).expect("small")).expect("small")).expect("same shape");
            let value = loss().and_then(|loss| loss.to_scalar::<f32>()).expect("it runs");
            var.set(&weight).expect("same shape");
            f64::from(value)
        };
        let found = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        let (expected, size) = (f64::from(expected), grad.abs().and_then(|g| g.max_all()?.to_scalar::<f32>()));
        assert!(size.expect("f32") > 0.0, "{name}: the gradient is 0 throughout");
        assert!(
            (found - expected).abs() <= 0.02 * (1.0 + expected.abs()),
            "{name}: {expected}, but differences say {found}"
        );
    }
}
