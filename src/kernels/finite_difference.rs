//! Gradient checks for tests: central differences by each element of each input, and random test data.

#![allow(clippy::expect_used, reason = "only tests come here")]

use candle_core::{Device, Result, Tensor, Var};

/// Returns elements in -1.5..1.5, determined by the seed.
pub(crate) fn random(shape: impl Into<candle_core::Shape>, seed: u64) -> Tensor {
    let shape = shape.into();
    // A Weyl sequence through a sine: elements are distinct, and independent of the version of a generator.
    let value = |i: usize| (((i as f64 + 1.0) * 12.9898 + seed as f64 * 78.233).sin() * 43_758.545_3).fract() as f32;
    let values: Vec<f32> = (0..shape.elem_count()).map(|i| 1.5 * value(i)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape has")
}

/// Returns elements in -1..1 of a linear congruential generator.
pub(crate) fn random_elements(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Asserts that the gradient of a weighted sum of `run`'s output by every element of every input agrees with finite
/// differences, and that some element of each gradient differs from 0.
pub(crate) fn assert_gradients(inputs: &[Tensor], run: impl Fn(&[Tensor]) -> Result<Tensor>) {
    const STEP: f32 = 1e-2;
    let weighted = |inputs: &[Tensor]| -> Result<Tensor> {
        let y = run(inputs)?;
        (&y * random(y.shape(), 99))?.sum_all()
    };
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(x).expect("small")).collect();
    let tracked: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let grads = weighted(&tracked).and_then(|loss| loss.backward()).expect("the shapes match");
    for (index, input) in inputs.iter().enumerate() {
        let grad = grads.get(&tracked[index]).unwrap_or_else(|| panic!("input {index} has no gradient"));
        let grad = grad.flatten_all().and_then(|g| g.to_vec1::<f32>()).expect("f32");
        assert!(grad.iter().any(|g| *g != 0.0), "input {index}: the gradient is 0 throughout");
        let values = input.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
        for (i, found) in grad.iter().enumerate() {
            let loss_at = |step: f32| {
                let mut moved = values.clone();
                moved[i] += step;
                let mut inputs = inputs.to_vec();
                inputs[index] = Tensor::from_vec(moved, input.shape(), &Device::Cpu).expect("same shape");
                weighted(&inputs).and_then(|loss| loss.to_scalar::<f32>()).expect("the shapes match")
            };
            let expected = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP);
            let tolerance = 2e-2 * (1.0 + expected.abs());
            assert!((found - expected).abs() <= tolerance, "input {index}, element {i}: {found}, not {expected}");
        }
    }
}
