//! From logits to the next id: greedy, or drawn after temperature, top-k and top-p.
//!
//! The drawing is `candle_transformers::generation`'s; the order of the filters is Hugging Face's: the rules of
//! [`super::rules`], temperature, top-k, top-p.

use candle_core::{Device, Result, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{LogitRules, PromptHistory};
use crate::error::Error;
use crate::kernels::Kernels;
use crate::kernels::argmax::argmax;

/// Sampling of the next id. Options left out are those of the checkpoint's `generation_config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SamplingConfig {
    /// `0` is greedy: the same answer every time. Higher ones vary more. Default: as the checkpoint, which is greedy
    /// unless its `generation_config.json` says `do_sample`; LLaVA's original checkpoints are always greedy.
    #[schemars(range(min = 0.0))]
    pub temperature: Option<f64>,
    /// Draw from this many best ids only. Default: all; where the checkpoint decides the temperature, as the
    /// checkpoint.
    #[schemars(range(min = 1))]
    pub top_k: Option<usize>,
    /// Draw from the smallest set of best ids whose probabilities reach this. Default: as `top_k`.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
    pub top_p: Option<f64>,
    /// Divide the logits of ids that were generated already, and of a Hugging Face checkpoint of those in the prompt;
    /// `1` changes nothing. Default: as the checkpoint.
    #[schemars(range(min = 0.01, max = 100.0))]
    pub repetition_penalty: Option<f32>,
    /// Seed of the draws. Default: `0`.
    pub seed: u64,
}

/// Resolved sampling of the next id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoding {
    /// `0` is greedy.
    pub temperature: f64,
    /// Best ids that are drawn from; all if there is none.
    pub top_k: Option<usize>,
    /// Probability that the best ids reach which are drawn from; all if there is none.
    pub top_p: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
    /// Changes of the logits before an id is chosen.
    pub rules: LogitRules,
}

/// Chooses ids, one after the other.
pub(crate) struct Sampler {
    processor: LogitsProcessor,
    is_greedy: bool,
    /// Reciprocal of the temperature.
    scale: f32,
    rules: LogitRules,
    prompt: PromptHistory,
}

impl Sampler {
    /// Makes a sampler at the beginning of its random sequence, after a prompt.
    pub(crate) fn new(decoding: &Decoding, prompt: PromptHistory) -> Self {
        let temperature = decoding.temperature;
        // The best id stays however small the probability is.
        let top_p = decoding.top_p.filter(|&p| p < 1.0).map(|p| p.max(f32::MIN_POSITIVE.into()));
        let sampling = match (decoding.top_k, top_p) {
            _ if temperature <= 0.0 => Sampling::ArgMax,
            (None, None) => Sampling::All { temperature },
            (Some(k), None) => Sampling::TopK { k, temperature },
            (None, Some(p)) => Sampling::TopP { p, temperature },
            (Some(k), Some(p)) => Sampling::TopKThenTopP { k, p, temperature },
        };
        let rules = decoding.rules.clone();
        let processor = LogitsProcessor::from_sampling(decoding.seed, sampling);
        Self { processor, is_greedy: temperature <= 0.0, scale: (1.0 / temperature) as f32, rules, prompt }
    }

    /// Returns whether every choice is the argmax of the unchanged logits.
    pub(crate) fn is_plain_argmax(&self) -> bool {
        self.is_greedy && self.rules.is_neutral()
    }

    /// Returns the next id after the ids generated so far. Of equal logits the first wins.
    ///
    /// # Errors
    /// When a logit is NaN or all are infinite: the weights are broken, or the precision does not suffice; or when no
    /// id may come.
    pub(crate) fn next(&mut self, logits: &[f32], generated: &[u32]) -> Result<u32> {
        let largest = argmax(logits).ok_or_else(not_finite)?;
        if self.is_plain_argmax() {
            return Ok(largest);
        }
        let mut values = logits.to_vec();
        if !self.rules.is_neutral() {
            self.rules.apply(&mut values, &self.prompt, generated);
            if values.iter().all(|value| value.is_infinite()) {
                candle_core::bail!("the rules of generation_config.json leave no token to choose");
            }
        }
        // At such temperatures all probability is on the best id.
        let overflows = |value: &f32| value.is_finite() && !(value * self.scale).is_finite();
        if !self.is_greedy && values.iter().any(overflows) {
            return argmax(&values).ok_or_else(not_finite);
        }
        let n_values = values.len();
        self.processor.sample(&Tensor::from_vec(values, n_values, &Device::Cpu)?)
    }
}

/// Sampler of a sequence, and its ids.
pub(crate) struct Choosing<'s> {
    /// Sampler of the sequence.
    pub sampler: &'s mut Sampler,
    /// Ids generated so far.
    pub generated: &'s [u32],
}

/// Chooses the next id of `R` sequences at once. Of those that take the largest logit nothing but ids leaves the
/// device; of the others, which are drawn from or changed by rules, the logits.
///
/// # Shapes
/// `logits (R, vocab_size)`, f32.
///
/// # Errors
/// For each sequence those of [`Sampler::next`].
pub(crate) fn choose_each(kernels: &dyn Kernels, logits: &Tensor, sequences: &mut [Choosing<'_>]) -> Vec<Result<u32>> {
    let choose = |sequences: &mut [Choosing<'_>]| -> Result<Vec<Result<u32>>> {
        let (n_rows, width) = logits.dims2()?;
        if n_rows != sequences.len() {
            candle_core::bail!("logits of {n_rows} sequences, not of {}", sequences.len());
        }
        let is_drawn = |sequence: &Choosing<'_>| !sequence.sampler.is_plain_argmax();
        let drawn: Vec<u32> = (0..).zip(&*sequences).filter(|(_, s)| is_drawn(s)).map(|(row, _)| row).collect();
        let largest = if drawn.len() < n_rows { kernels.argmax_rows(logits)? } else { vec![None; n_rows] };
        let values = copied_rows(logits, &drawn)?;
        let mut chosen: Vec<Result<u32>> = largest.into_iter().map(|id| id.ok_or_else(not_finite)).collect();
        let rows = values.par_chunks_exact(width.max(1));
        let draw = |(sequence, row): (&mut Choosing<'_>, _)| sequence.sampler.next(row, sequence.generated);
        let drawing: Vec<&mut Choosing<'_>> = sequences.iter_mut().filter(|sequence| is_drawn(sequence)).collect();
        let ids: Vec<Result<u32>> = drawing.into_par_iter().zip(rows).map(draw).collect();
        drawn.into_iter().zip(ids).for_each(|(row, id)| chosen[row as usize] = id);
        Ok(chosen)
    };
    choose(sequences).unwrap_or_else(|error| {
        let error = Error::from(error);
        sequences.iter().map(|_| Err(error.clone().into())).collect()
    })
}

/// Returns the elements of some rows of a matrix, one after the other, in one copy from the device.
fn copied_rows(x: &Tensor, rows: &[u32]) -> Result<Vec<f32>> {
    match rows.len() {
        0 => Ok(Vec::new()),
        n if n == x.dim(0)? => x.flatten_all()?.to_vec1(),
        n => x.index_select(&Tensor::from_slice(rows, n, x.device())?, 0)?.flatten_all()?.to_vec1(),
    }
}

/// Returns the error of a sequence without a largest logit.
pub(crate) fn not_finite() -> candle_core::Error {
    Error::invalid("the model's logits are not finite").with_hint("damaged weights, or try --dtype f32").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    use crate::kernels;
    fn sampler(decoding: &Decoding) -> Sampler {
        Sampler::new(decoding, PromptHistory::default())
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(sampler(&Decoding::default()).next(&[1.0, 3.0, 3.0], &[]).expect("finite"), 1);
    }

    #[test]
    fn the_penalty_pushes_repeated_ids_down() {
        let rules = LogitRules { repetition_penalty: 2.0, ..LogitRules::default() };
        let decoding = Decoding { rules, ..Decoding::default() };
        // 3 / 2 = 1.5 < 2; and -1 * 2 = -2 for a negative one.
        assert_eq!(sampler(&decoding).next(&[3.0, 2.0], &[0]).expect("finite"), 1);
        assert_eq!(sampler(&decoding).next(&[-1.0, -1.5], &[0]).expect("finite"), 1);
    }

    #[test]
    fn temperatures_and_probabilities_close_to_0_take_the_best_id() {
        let next = |decoding: Decoding| sampler(&decoding).next(&[1.0, 3.0, -30.0, 2.0], &[]).expect("finite");
        for temperature in [1e-30, 1e-38, 1e-45, 1e-300, f64::MIN_POSITIVE] {
            assert_eq!(next(Decoding { temperature, seed: 3, ..Decoding::default() }), 1, "{temperature}");
        }
        for p in [1e-40, 5e-324] {
            assert_eq!(next(Decoding { temperature: 1.0, top_p: Some(p), ..Decoding::default() }), 1, "{p}");
        }
    }

    #[test]
    fn rules_that_leave_no_token_are_an_error() {
        let rules = LogitRules { suppressed: vec![0, 1], ..LogitRules::default() };
        let error = sampler(&Decoding { rules, ..Decoding::default() }).next(&[3.0, 2.0], &[]);
        assert!(error.expect_err("nothing is left").to_string().contains("leave no token to choose"));
    }

    #[test]
    fn a_seed_repeats_its_draws_and_filters_bound_them() {
        let values = [1.0, 2.0, 3.0, 4.0];
        let draw = |decoding: Decoding| {
            let mut sampler = sampler(&decoding);
            (0..64).map(|_| sampler.next(&values, &[]).expect("finite")).collect::<Vec<_>>()
        };
        let hot = || Decoding { temperature: 5.0, seed: 7, ..Decoding::default() };
        assert_eq!(draw(hot()), draw(hot()));
        assert_ne!(draw(hot()), draw(Decoding { seed: 8, ..hot() }));
        assert!(draw(Decoding { top_k: Some(2), ..hot() }).iter().all(|&id| id >= 2));
        assert!(draw(Decoding { top_p: Some(1e-9), ..hot() }).iter().all(|&id| id == 3));
        assert_eq!(draw(Decoding { top_p: Some(1.0), ..hot() }), draw(hot()));
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        let mut sampler = sampler(&Decoding::default());
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(sampler.next(&[0.0, bad], &[]).is_err());
        }
    }

    #[test]
    fn rows_are_chosen_as_each_alone_and_fail_alone() {
        let rows = [[0.0, 3.0, 1.0, 2.0], [f32::NAN, 0.0, 0.0, 0.0], [5.0, 1.0, 2.0, 5.0], [0.5, 0.1, 0.2, 0.9]];
        let logits = Tensor::new(&rows, &Device::Cpu).expect("small");
        let hot = Decoding { temperature: 5.0, seed: 3, ..Decoding::default() };
        let penalty = LogitRules { repetition_penalty: 9.0, ..LogitRules::default() };
        let ruled = Decoding { rules: penalty, ..Decoding::default() };
        for decodings in [
            [Decoding::default(), Decoding::default(), ruled.clone(), hot.clone()],
            [ruled.clone(), hot.clone(), Decoding::default(), Decoding::default()],
            [hot.clone(), ruled.clone(), hot, ruled],
            std::array::from_fn(|_| Decoding::default()),
        ] {
            let generated = [vec![1], vec![], vec![0], vec![2]];
            let mut samplers: Vec<Sampler> = decodings.iter().map(sampler).collect();
            let mut choosing: Vec<Choosing<'_>> = samplers
                .iter_mut()
                .zip(&generated)
                .map(|(sampler, generated)| Choosing { sampler, generated })
                .collect();
            let together = choose_each(kernels::of(&Device::Cpu, DType::F32), &logits, &mut choosing);
            for (i, together) in together.into_iter().enumerate() {
                let alone = sampler(&decodings[i]).next(&rows[i], &generated[i]);
                assert_eq!(together.ok(), alone.ok(), "row {i}");
            }
        }
    }
}
