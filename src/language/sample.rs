//! From logits to the next id: greedy, or drawn after temperature, top-k and top-p.
//!
//! The drawing is `candle_transformers::generation`'s; the order of the filters is Hugging Face's: repetition
//! penalty, temperature, top-k, top-p.

use candle_core::{Result, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use candle_transformers::utils::apply_repeat_penalty;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the next id is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SamplingConfig {
    /// Default: `0`, greedy: the same answer every time. Higher ones vary more.
    #[schemars(range(min = 0.0))]
    pub temperature: f64,
    /// Draw from this many best ids only. Default: all.
    #[schemars(range(min = 1))]
    pub top_k: Option<usize>,
    /// Draw from the smallest set of best ids whose probabilities reach this. Default: all.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
    pub top_p: Option<f64>,
    /// Divide the logits of ids that were generated already. Default: `1`, which changes nothing.
    #[schemars(range(min = 0.01, max = 100.0))]
    pub repetition_penalty: f32,
    /// Seed of the draws. Default: `0`.
    pub seed: u64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, repetition_penalty: 1.0, seed: 0 }
    }
}

/// Chooses ids, one after the other.
pub struct Sampler {
    processor: LogitsProcessor,
    repetition_penalty: f32,
}

impl Sampler {
    /// A sampler at the beginning of its random sequence.
    pub fn new(config: &SamplingConfig) -> Self {
        let temperature = config.temperature;
        let sampling = match (config.top_k, config.top_p.filter(|&p| p < 1.0)) {
            _ if temperature <= 0.0 => Sampling::ArgMax,
            (None, None) => Sampling::All { temperature },
            (Some(k), None) => Sampling::TopK { k, temperature },
            (None, Some(p)) => Sampling::TopP { p, temperature },
            (Some(k), Some(p)) => Sampling::TopKThenTopP { k, p, temperature },
        };
        Self {
            processor: LogitsProcessor::from_sampling(config.seed, sampling),
            repetition_penalty: config.repetition_penalty,
        }
    }

    /// The next id, given those generated so far. Of equal logits the first wins.
    ///
    /// # Shapes
    /// `logits (vocab_size)`, in f32.
    ///
    /// # Errors
    /// When a logit is no number: the weights are broken, or the precision does not suffice.
    pub fn next(&mut self, logits: &Tensor, generated: &[u32]) -> Result<u32> {
        let largest = logits.max(0)?.to_scalar::<f32>()?;
        let sum = logits.sum_all()?.to_scalar::<f32>()?;
        if largest.is_nan() || sum.is_nan() || largest.is_infinite() {
            candle_core::bail!("the model's logits are not finite; hint: damaged weights, or try --dtype f32");
        }
        #[expect(clippy::float_cmp, reason = "1 is the exact value that means `off`")]
        if self.repetition_penalty == 1.0 || generated.is_empty() {
            return self.processor.sample(logits);
        }
        self.processor.sample(&apply_repeat_penalty(logits, self.repetition_penalty, generated)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn logits(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).expect("small")
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut sampler = Sampler::new(&SamplingConfig::default());
        assert_eq!(sampler.next(&logits(&[1.0, 3.0, 3.0]), &[]).expect("finite"), 1);
    }

    #[test]
    fn the_penalty_pushes_repeated_ids_down() {
        let config = SamplingConfig { repetition_penalty: 2.0, ..SamplingConfig::default() };
        // 3 / 2 = 1.5 < 2; and -1 * 2 = -2 for a negative one.
        assert_eq!(Sampler::new(&config).next(&logits(&[3.0, 2.0]), &[0]).expect("finite"), 1);
        assert_eq!(Sampler::new(&config).next(&logits(&[-1.0, -1.5]), &[0]).expect("finite"), 1);
    }

    #[test]
    fn a_seed_repeats_its_draws_and_filters_bound_them() {
        let values = logits(&[1.0, 2.0, 3.0, 4.0]);
        let draw = |config: SamplingConfig| {
            let mut sampler = Sampler::new(&config);
            (0..64).map(|_| sampler.next(&values, &[]).expect("finite")).collect::<Vec<_>>()
        };
        let hot = SamplingConfig { temperature: 5.0, seed: 7, ..SamplingConfig::default() };
        assert_eq!(draw(hot), draw(hot));
        assert_ne!(draw(hot), draw(SamplingConfig { seed: 8, ..hot }));
        assert!(draw(SamplingConfig { top_k: Some(2), ..hot }).iter().all(|&id| id >= 2));
        assert!(draw(SamplingConfig { top_p: Some(1e-9), ..hot }).iter().all(|&id| id == 3));
        assert_eq!(draw(SamplingConfig { top_p: Some(1.0), ..hot }), draw(hot));
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error() {
        let mut sampler = Sampler::new(&SamplingConfig::default());
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(sampler.next(&logits(&[0.0, bad]), &[]).is_err());
        }
    }
}
