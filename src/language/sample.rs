//! From logits to the next id: greedy, or drawn after temperature, top-k and top-p.
//!
//! The order of the filters is that of transformers (`generation/logits_process.py`): the rules of [`super::rules`],
//! temperature, top-k, top-p over the probabilities of the top-k ids. The drawing is `candle_transformers::generation`'s.

use candle_core::{DType, Device, Result, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{LogitRules, PromptHistory};
use crate::error::Error;
use crate::kernels::top_k::{argmax, top_k};
use crate::kernels::{Kernels, TopK};

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
    /// Draws after temperature and top-p; unused for greedy sampling.
    processor: LogitsProcessor,
    is_greedy: bool,
    top_k: Option<usize>,
    /// Reciprocal of the temperature.
    scale: f32,
    rules: LogitRules,
    prompt: PromptHistory,
}

/// Logits that a sampler reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadLogits {
    /// The largest ones, unchanged: so many.
    Top(usize),
    /// Those of the whole vocabulary.
    All,
}

impl Sampler {
    /// Makes a sampler at the beginning of its random sequence, after a prompt.
    pub(crate) fn new(decoding: &Decoding, prompt: PromptHistory) -> Self {
        let temperature = decoding.temperature;
        // The best id stays however small the probability is.
        let top_p = decoding.top_p.filter(|&p| p < 1.0).map(|p| p.max(f32::MIN_POSITIVE.into()));
        let sampling = match top_p {
            _ if temperature <= 0.0 => Sampling::ArgMax,
            None => Sampling::All { temperature },
            Some(p) => Sampling::TopP { p, temperature },
        };
        Self {
            processor: LogitsProcessor::from_sampling(decoding.seed, sampling),
            is_greedy: temperature <= 0.0,
            top_k: decoding.top_k,
            scale: (1.0 / temperature) as f32,
            rules: decoding.rules.clone(),
            prompt,
        }
    }

    /// Returns the logits that the sampler reads, of a vocabulary of `n` ids.
    fn reads(&self, n: usize) -> ReadLogits {
        match self.top_k {
            _ if !self.rules.is_neutral() => ReadLogits::All,
            _ if self.is_greedy => ReadLogits::Top(1),
            Some(k) if k < n => ReadLogits::Top(k),
            _ => ReadLogits::All,
        }
    }

    /// Returns the next id after the ids generated so far. Of equal logits the first wins.
    ///
    /// # Errors
    /// When a logit is NaN or all are infinite: the weights are broken, or the precision does not suffice; or when no
    /// id may come.
    pub(crate) fn next(&mut self, logits: &[f32], generated: &[u32]) -> Result<u32> {
        if let ReadLogits::Top(k) = self.reads(logits.len()) {
            return self.next_of_top(top_k(logits, k));
        }
        argmax(logits).ok_or_else(not_finite)?;
        if self.rules.is_neutral() {
            return self.draw(logits);
        }
        let mut values = logits.to_vec();
        self.rules.apply(&mut values, &self.prompt, generated);
        if values.iter().all(|value| value.is_infinite()) {
            candle_core::bail!("the rules of generation_config.json leave no token to choose");
        }
        match self.top_k.filter(|&k| k < values.len() && !self.is_greedy) {
            Some(k) => self.next_of_top(top_k(&values, k)),
            None => self.draw(&values),
        }
    }

    /// Returns the next id, of the largest logits in descending order; `None` for logits that are not finite.
    ///
    /// # Errors
    /// For `None`.
    fn next_of_top(&mut self, top: Option<TopK>) -> Result<u32> {
        let TopK { ids, values } = top.ok_or_else(not_finite)?;
        let index = self.draw(&values)?;
        Ok(ids[index as usize])
    }

    /// Draws an index by the logits of some ids.
    ///
    /// # Errors
    /// When a logit is NaN, or none is finite.
    fn draw(&mut self, values: &[f32]) -> Result<u32> {
        // At such temperatures all probability is on the best id.
        let overflows = |value: &f32| value.is_finite() && !(value * self.scale).is_finite();
        if self.is_greedy || values.iter().any(overflows) {
            return argmax(values).ok_or_else(not_finite);
        }
        self.processor.sample(&Tensor::from_slice(values, values.len(), &Device::Cpu)?)
    }
}

/// Sampler of a sequence, and its ids.
pub(crate) struct Choosing<'s> {
    /// Sampler of the sequence.
    pub sampler: &'s mut Sampler,
    /// Ids generated so far.
    pub generated: &'s [u32],
}

/// Logits of a row on the host.
enum RowLogits<'l> {
    /// Index of the largest; `None` for a row that is not finite.
    Largest(Option<u32>),
    /// Largest ones; `None` for a row that is not finite.
    Top(Option<TopK>),
    /// All, `(vocab_size)`.
    All(&'l [f32]),
}

impl Choosing<'_> {
    /// Returns the next id, from the logits that the sampler reads or more of them.
    ///
    /// # Errors
    /// Those of [`Sampler::next`].
    fn next(&mut self, reads: ReadLogits, logits: RowLogits<'_>) -> Result<u32> {
        match (logits, reads) {
            (RowLogits::Largest(id), _) => id.ok_or_else(not_finite),
            (RowLogits::Top(Some(mut top)), ReadLogits::Top(k)) => {
                top.ids.truncate(k);
                top.values.truncate(k);
                self.sampler.next_of_top(Some(top))
            }
            (RowLogits::Top(top), _) => self.sampler.next_of_top(top),
            (RowLogits::All(values), _) => self.sampler.next(values, self.generated),
        }
    }
}

/// Chooses the next id of `R` sequences at once. From a GPU only the largest logits are copied, of greedy rows one, of
/// rows that are drawn with top-k the best `k`; of rows that are changed by rules or drawn without top-k all logits.
///
/// # Shapes
/// `logits (R, vocab_size)`.
///
/// # Errors
/// For each sequence those of [`Sampler::next`].
pub(crate) fn choose_each(kernels: &dyn Kernels, logits: &Tensor, sequences: &mut [Choosing<'_>]) -> Vec<Result<u32>> {
    let choose = |sequences: &mut [Choosing<'_>]| -> Result<Vec<Result<u32>>> {
        let (n_rows, width) = logits.dims2()?;
        if n_rows != sequences.len() {
            candle_core::bail!("logits of {n_rows} sequences, not of {}", sequences.len());
        }
        let reads: Vec<ReadLogits> = sequences.iter().map(|sequence| sequence.sampler.reads(width)).collect();
        let all: Vec<u32> =
            (0..).zip(&reads).filter(|(_, reads)| **reads == ReadLogits::All).map(|(row, _)| row).collect();
        let values = copied_rows(logits, &all)?;
        let mut rows = largest_of_rows(kernels, logits, &reads)?;
        for (row, values) in all.into_iter().zip(values.chunks_exact(width.max(1))) {
            rows[row as usize] = RowLogits::All(values);
        }
        let next = |((sequence, reads), row): ((&mut Choosing<'_>, _), _)| sequence.next(reads, row);
        Ok(sequences.par_iter_mut().zip(reads).zip(rows).map(next).collect())
    };
    choose(sequences).unwrap_or_else(|error| {
        let error = Error::from(error);
        sequences.iter().map(|_| Err(error.clone().into())).collect()
    })
}

/// Returns the largest logits of each row, as many as the row that reads most of them.
///
/// # Errors
/// When candle fails.
fn largest_of_rows(kernels: &dyn Kernels, logits: &Tensor, reads: &[ReadLogits]) -> Result<Vec<RowLogits<'static>>> {
    let k = |reads: &ReadLogits| match reads {
        ReadLogits::Top(k) => *k,
        ReadLogits::All => 0,
    };
    match reads.iter().map(k).max() {
        None | Some(0) => Ok(reads.iter().map(|_| RowLogits::Largest(None)).collect()),
        Some(1) => Ok(kernels.argmax_rows(logits)?.into_iter().map(RowLogits::Largest).collect()),
        Some(k) => Ok(kernels.top_k_rows(logits, k)?.into_iter().map(RowLogits::Top).collect()),
    }
}

/// Returns the elements of some rows of a matrix, one after the other, in one copy from the device.
fn copied_rows(x: &Tensor, rows: &[u32]) -> Result<Vec<f32>> {
    let elements = |x: &Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1();
    match rows.len() {
        0 => Ok(Vec::new()),
        n if n == x.dim(0)? => elements(x),
        n => elements(&x.index_select(&Tensor::from_slice(rows, n, x.device())?, 0)?),
    }
}

/// Returns the error of a sequence without a largest logit.
fn not_finite() -> candle_core::Error {
    Error::invalid("the model's logits are not finite").with_hint("damaged weights, or try --dtype f32").into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
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
    fn top_p_is_of_the_probabilities_of_the_top_k() {
        let values = [0.1f32, 0.4, 0.2, 0.3].map(f32::ln);
        let drawn = |top_k: Option<usize>, top_p: f64| {
            let decoding = Decoding { temperature: 1.0, top_k, top_p: Some(top_p), seed: 5, ..Decoding::default() };
            let mut sampler = sampler(&decoding);
            (0..200).map(|_| sampler.next(&values, &[]).expect("finite")).collect::<BTreeSet<_>>()
        };
        // 0.4 / (0.4 + 0.3) = 0.57 reaches 0.55; 0.4 of all does not.
        assert_eq!(drawn(Some(2), 0.55), BTreeSet::from([1]));
        assert_eq!(drawn(None, 0.55), BTreeSet::from([1, 3]));
        // (0.4 + 0.3) / 0.9 = 0.78 reaches 0.75; 0.4 + 0.3 of all does not.
        assert_eq!(drawn(Some(3), 0.75), BTreeSet::from([1, 3]));
        assert_eq!(drawn(None, 0.75), BTreeSet::from([1, 2, 3]));
        // Of a smaller vocabulary, all.
        assert_eq!(drawn(Some(9), 0.75), drawn(None, 0.75));
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
        let top = |k| Decoding { top_k: Some(k), ..hot.clone() };
        let [two, three] = [top(2), top(3)];
        for decodings in [
            [two.clone(), three.clone(), Decoding::default(), three.clone()],
            [Decoding::default(), two.clone(), hot.clone(), ruled.clone()],
            [three.clone(), top(4), Decoding { rules: ruled.rules.clone(), ..two.clone() }, two],
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
                assert_eq!(together.ok(), alone.ok(), "row {i} of {decodings:?}");
            }
        }
    }
}
