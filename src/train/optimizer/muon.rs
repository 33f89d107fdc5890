//! Muon: momentum, brought close to an orthogonal matrix by five Newton-Schulz steps.
//!
//! Reference: `muon.py` of github.com/KellerJordan/Muon; the scale `sqrt(max(1, rows / columns))` is its own.

use candle_core::{Result, Tensor};

use super::Optimizer;

const MOMENTUM: f64 = 0.95;
const STEPS: usize = 5;
/// Coefficients of the quintic iteration.
const QUINTIC: (f64, f64, f64) = (3.4445, -4.775, 2.0315);

impl Optimizer {
    /// Returns the weight after one step.
    pub(super) fn muon(&mut self, name: &str, weight: &Tensor, gradient: &Tensor, factor: f64) -> Result<Tensor> {
        let key = format!("momentum.{name}");
        let fresh = (gradient * (1.0 - MOMENTUM))?;
        let momentum = match self.state.get(&key) {
            Some(old) => ((old * MOMENTUM)? + &fresh)?,
            None => fresh.clone(),
        };
        self.state.insert(key, momentum.clone());
        // Nesterov's look ahead.
        let direction = orthogonal(&(fresh + (momentum * MOMENTUM)?)?)?;
        let (rows, columns) = weight.dims2()?;
        let scale = (rows as f64 / columns as f64).max(1.0).sqrt();
        let rate = self.config.muon_learning_rate * factor;
        let kept = (weight.detach() * (1.0 - rate * self.config.muon_weight_decay))?;
        kept - (direction * (rate * scale))?
    }
}

/// Returns a matrix with about the same singular vectors, and singular values near 1.
fn orthogonal(matrix: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    let is_tall = rows > columns;
    let x = if is_tall { matrix.t()?.contiguous()? } else { matrix.clone() };
    let norm = f64::from(x.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt();
    let mut x = (x / (norm + 1e-7))?;
    let (a, b, c) = QUINTIC;
    for _ in 0..STEPS {
        let square = x.matmul(&x.t()?)?;
        let poly = ((&square * b)? + (square.matmul(&square)? * c)?)?;
        x = ((&x * a)? + poly.matmul(&x)?)?;
    }
    if is_tall { x.t()?.contiguous() } else { Ok(x) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::finite_difference::random;

    #[test]
    fn singular_values_come_close_to_1() {
        for shape in [(4, 9), (9, 4), (6, 6)] {
            let x = orthogonal(&random(shape, 3)).expect("it runs");
            let square =
                if shape.0 <= shape.1 { x.matmul(&x.t().expect("2-D")) } else { x.t().expect("2-D").matmul(&x) };
            let square = square.and_then(|s| s.to_vec2::<f32>()).expect("f32");
            let trace: f32 = (0..square.len()).map(|i| square[i][i]).sum();
            let mean = trace / square.len() as f32;
            // The quintic does not converge: it leaves the values between about 0.7 and 1.2.
            assert!((0.4..1.5).contains(&mean), "{shape:?}: {mean}");
        }
    }
}
