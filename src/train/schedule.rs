//! The learning rate as a pure function of the step.

use serde::{Deserialize, Serialize};

/// Decay of the learning rate after its plateau.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Along half a cosine (arXiv 1608.03983).
    #[default]
    Cosine,
    /// Along a line.
    Linear,
}

/// Warm-up, plateau, decay; all as factors of the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Steps of the linear rise from 0. Default: `20`.
    pub warmup: usize,
    /// The share of all steps after which the rate begins to fall. Default: `0`, right after the warm-up.
    pub plateau: f64,
    /// Default: `cosine`.
    pub decay: Decay,
    /// The factor at the end. Default: `0.02`.
    pub end: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { warmup: 20, plateau: 0.0, decay: Decay::Cosine, end: 0.02 }
    }
}

impl Schedule {
    /// Returns the factor for step `step` of `steps`, counted from 0.
    pub fn factor(&self, step: usize, steps: usize) -> f64 {
        let rise = (step + 1) as f64 / self.warmup.max(1) as f64;
        let begin = (self.plateau * steps as f64).max(self.warmup as f64);
        let rest = (steps as f64 - begin).max(1.0);
        let fallen = ((step as f64 + 1.0 - begin) / rest).clamp(0.0, 1.0);
        let left = match self.decay {
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * fallen).cos()),
            Decay::Linear => 1.0 - fallen,
        };
        rise.min(1.0) * (self.end + (1.0 - self.end) * left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_stays_and_falls() {
        let linear = Schedule { warmup: 4, plateau: 0.5, decay: Decay::Linear, end: 0.0 };
        let factors: Vec<f64> = (0..10).map(|step| linear.factor(step, 10)).collect();
        // Four steps up, the plateau to step 5, then fifths of the way down.
        let expected = [0.25, 0.5, 0.75, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0];
        assert!(factors.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{factors:?}");
    }

    #[test]
    fn a_cosine_is_half_way_down_in_its_middle_and_ends_where_it_should() {
        let cosine = Schedule { warmup: 0, plateau: 0.0, decay: Decay::Cosine, end: 0.1 };
        assert!((cosine.factor(49, 100) - 0.55).abs() < 1e-9);
        assert!((cosine.factor(99, 100) - 0.1).abs() < 1e-9);
    }
}
