//! Divergence between the next-token distributions of two models. Called by the tests and benchmarks of quantization.

/// Returns the Kullback-Leibler divergence of two distributions over tokens, `sum p (ln p - ln q)`, in nats, from their
/// logits.
///
/// # Panics
/// When the logits are of vocabularies of different sizes.
pub fn kl_divergence(p: &[f32], q: &[f32]) -> f64 {
    assert_eq!(p.len(), q.len(), "logits of different vocabularies");
    let (p_total, q_total) = (log_sum_exp(p), log_sum_exp(q));
    p.iter().zip(q).map(|(&p, &q)| (f64::from(p), f64::from(q))).fold(0.0, |sum, (p, q)| {
        let (log_p, log_q) = (p - p_total, q - q_total);
        sum + log_p.exp() * (log_p - log_q)
    })
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_agrees_with_its_definition() {
        // p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2.
        let found = kl_divergence(&[3f32.ln(), 0.0], &[5.0, 5.0]);
        assert!((found - (0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln())).abs() < 1e-7, "{found}");
        assert!(kl_divergence(&[1.0, 2.0, 300.0], &[1.0, 2.0, 300.0]).abs() < 1e-12);
    }
}
