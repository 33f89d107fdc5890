//! Exponential, activations and softmax over slices: portable loops that the compiler vectorises, compiled once for
//! each instruction set. Results are bit-identical across instruction sets.

use super::processor::for_each_processor;

/// Number of elements of a vector register.
const LANES: usize = 16;

/// Computes `e^x` to a relative error of 2e-7: `2^n e^r` with `|r| <= ln 2 / 2`, and a polynomial for `e^r` (Cephes,
/// `expf`). Overflow gives the largest power, underflow 0.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOW: f32 = -87.0;
    const HIGH: f32 = 88.0;
    // 1.5 * 2^23: adding it rounds to an integer, which is then in the lowest bits.
    const SHIFT: f32 = 12_582_912.0;
    let clamped = x.clamp(LOW, HIGH);
    let shifted = clamped * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    // ln 2 in two parts, so that the difference is exact.
    let r = (clamped - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + coefficient;
    }
    let power = p * r * r + r + 1.0;
    // 2^n by its bits. A NaN stays NaN in the product.
    let scaled = power * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < LOW { 0.0 } else { scaled }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn quick_gelu_of(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x *= sigmoid(1.702 * *x));
}

#[inline(always)]
fn gelu_tanh_of(x: &mut [f32]) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    x.iter_mut().for_each(|x| {
        // (1 + tanh(u)) / 2 = sigmoid(2 u).
        let u = SQRT_2_OVER_PI * (*x + 0.044_715 * *x * *x * *x);
        *x *= sigmoid(2.0 * u);
    });
}

#[inline(always)]
fn swiglu_of(gate: &[f32], up: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(gate.iter().zip(up)).for_each(|(y, (&gate, up))| *y = gate * sigmoid(gate) * up);
}

#[inline(always)]
fn exp_from_largest_of(x: &mut [f32], scale: f32) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        largest.iter_mut().zip(chunk).for_each(|(largest, &x)| *largest = if x > *largest { x } else { *largest });
    }
    let largest =
        largest.iter().chain(rest).fold(f32::NEG_INFINITY, |largest, &x| if x > largest { x } else { largest });
    let mut sums = [0.0; LANES];
    let (whole, rest) = x.as_chunks_mut::<LANES>();
    for chunk in whole {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *x = exp((*x - largest) * scale);
            *sum += *x;
        }
    }
    let mut sum: f32 = sums.iter().sum();
    for x in rest {
        *x = exp((*x - largest) * scale);
        sum += *x;
    }
    sum
}

for_each_processor! {
    /// Computes `x sigmoid(1.702 x)` in place.
    quick_gelu, quick_gelu_of, (x: &mut [f32])
}
for_each_processor! {
    /// Computes GELU by its tanh approximation (arXiv 1606.08415) in place.
    gelu_tanh, gelu_tanh_of, (x: &mut [f32])
}
for_each_processor! {
    /// Computes `silu(gate) up` (arXiv 2002.05202).
    swiglu, swiglu_of, (gate: &[f32], up: &[f32], y: &mut [f32])
}
for_each_processor! {
    /// Computes `e^(scale (x - max x))` in place and returns the sum: a softmax without the division. `scale` is
    /// positive.
    exp_from_largest, exp_from_largest_of, (x: &mut [f32], scale: f32) -> f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_has_a_relative_error_below_2e_7() {
        let mut largest = 0.0f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            largest = largest.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(largest < 2e-7, "{largest:e}");
        assert_eq!((exp(-100.0), exp(f32::NEG_INFINITY), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(1000.0) > 1e38 && exp(f32::NAN).is_nan());
    }

    #[test]
    fn slices_of_every_length_are_computed_element_by_element() {
        for n in [1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 - 30.0) * 0.3).collect();
            let check = |name: &str, run: fn(&mut [f32]), exact: fn(f64) -> f64| {
                let mut y = x.clone();
                run(&mut y);
                for (&x, &y) in x.iter().zip(&y) {
                    let exact = exact(f64::from(x));
                    assert!((f64::from(y) - exact).abs() < 1e-6 * exact.abs().max(1.0), "{name} {x}: {y}, not {exact}");
                }
            };
            check("quick_gelu", quick_gelu, |x| x / (1.0 + (-1.702 * x).exp()));
            check("gelu_tanh", gelu_tanh, |x| {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
            });
            let mut y = x.clone();
            let sum = exp_from_largest(&mut y, 0.5);
            let top = f64::from(*x.last().expect("not empty"));
            let exact: Vec<f64> = x.iter().map(|&x| ((f64::from(x) - top) * 0.5).exp()).collect();
            assert!((f64::from(sum) - exact.iter().sum::<f64>()).abs() < 1e-5 * n as f64);
            assert!(y.iter().zip(&exact).all(|(&y, exact)| (f64::from(y) - exact).abs() < 1e-6));
        }
    }
}
