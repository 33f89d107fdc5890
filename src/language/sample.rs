//! From logits to the next id: greedy, or drawn after temperature, top-k and top-p.
//!
//! The order of the filters is that of transformers (`generation/logits_process.py`): the rules of [`super::rules`],
//! temperature, top-k, top-p over the probabilities of the top-k ids. Top-k keeps exactly `k` ids, of equal logits the
//! first; transformers also keeps the others that equal the last one. `candle_transformers::generation` draws from what
//! the filters leave.

use candle_core::{DType, Device, Result, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{LogitRules, PromptHistory};
use crate::error::Error;
use crate::kernels::top_k::{MAX_TOP_K, argmax, top_k};
use crate::kernels::{Kernels, TopK};

/// Number of best ids among which the nucleus of top-p is looked for first.
const FIRST_NUCLEUS: usize = 64;
/// Factor of this number while the nucleus is larger.
const NUCLEUS_GROWTH: usize = 16;

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
    /// Draw from the smallest set of best ids whose probabilities reach this, with `top_k` those among its ids.
    /// Default: as `top_k`.
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
    /// Probability that the best ids reach which are drawn from, with `top_k` that among its ids; all if there is none.
    pub top_p: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
    /// Changes of the logits before an id is chosen.
    pub rules: LogitRules,
}

/// Chooses ids, one after the other.
pub(crate) struct Sampler {
    /// Draws after top-k and top-p; unused for greedy sampling.
    processor: LogitsProcessor,
    is_greedy: bool,
    top_k: Option<usize>,
    top_p: Option<f64>,
    /// Reciprocal of the temperature.
    scale: f32,
    rules: LogitRules,
    prompt: PromptHistory,
}

/// Logits that a sampler reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadLogits {
    /// Largest logit.
    Largest,
    /// Number of largest logits.
    Top(usize),
    /// Logits of the whole vocabulary.
    All,
}

impl Sampler {
    /// Makes a sampler at the beginning of its random sequence, after a prompt.
    pub(crate) fn new(decoding: &Decoding, prompt: PromptHistory) -> Self {
        let temperature = decoding.temperature;
        let is_greedy = temperature <= 0.0;
        let sampling = if is_greedy { Sampling::ArgMax } else { Sampling::All { temperature } };
        Self {
            processor: LogitsProcessor::from_sampling(decoding.seed, sampling),
            is_greedy,
            top_k: decoding.top_k.filter(|&k| k > 0),
            top_p: decoding.top_p.filter(|&p| p < 1.0),
            scale: (1.0 / temperature) as f32,
            rules: decoding.rules.clone(),
            prompt,
        }
    }

    /// Returns the logits that the sampler reads, of a vocabulary of `n` ids.
    fn reads(&self, n: usize) -> ReadLogits {
        match self.top_k {
            _ if !self.rules.is_neutral() => ReadLogits::All,
            _ if self.is_greedy => ReadLogits::Largest,
            Some(k) if k < n && k <= MAX_TOP_K => ReadLogits::Top(k),
            _ => ReadLogits::All,
        }
    }

    /// Returns the next id after the ids generated so far. Of equal logits the first wins.
    ///
    /// # Errors
    /// When a logit is NaN or all are infinite: the weights are broken, or the precision does not suffice; or when no
    /// id may come.
    pub(crate) fn next(&mut self, logits: &[f32], generated: &[u32]) -> Result<u32> {
        let largest = argmax(logits).ok_or_else(not_finite)?;
        if self.rules.is_neutral() {
            return if self.is_greedy { Ok(largest) } else { self.draw(logits) };
        }
        let mut values = logits.to_vec();
        self.rules.apply(&mut values, &self.prompt, generated);
        if values.iter().all(|value| value.is_infinite()) {
            candle_core::bail!("the rules of generation_config.json leave no token to choose");
        }
        if self.is_greedy { argmax(&values).ok_or_else(not_finite) } else { self.draw(&values) }
    }

    /// Draws an id by all logits.
    ///
    /// # Errors
    /// When a logit is NaN, or none is finite.
    fn draw(&mut self, logits: &[f32]) -> Result<u32> {
        match (self.top_k.filter(|&k| k < logits.len()), self.top_p) {
            (Some(k), _) => self.draw_of_top(top_k(logits, k)),
            (None, Some(p)) => {
                let nucleus = self.nucleus(logits, p)?;
                self.draw_of(&nucleus)
            }
            (None, None) => self.draw_index(logits),
        }
    }

    /// Draws an id of the largest logits, after top-p; `None` for logits that are not finite.
    ///
    /// # Errors
    /// For `None`.
    fn draw_of_top(&mut self, top: Option<TopK>) -> Result<u32> {
        let top = top.ok_or_else(not_finite)?;
        let Some(p) = self.top_p else { return self.draw_of(&top) };
        let weights = self.weights(&top.values, top.values[0]);
        let n = n_reaching(weights.clone(), p * weights.sum::<f64>());
        self.draw_of(&top.truncated(n))
    }

    /// Returns the smallest set of best ids whose probabilities reach `p` (arXiv 1904.09751, section 3.1).
    ///
    /// # Errors
    /// When a logit is NaN, or none is finite.
    fn nucleus(&self, logits: &[f32], p: f64) -> Result<TopK> {
        let mut k = FIRST_NUCLEUS;
        let mut total = None;
        loop {
            let top = top_k(logits, k).ok_or_else(not_finite)?;
            let largest = top.values[0];
            let total = *total.get_or_insert_with(|| self.weights(logits, largest).sum::<f64>());
            let n = n_reaching(self.weights(&top.values, largest), p * total);
            if n <= top.ids.len() || top.ids.len() == logits.len() {
                return Ok(top.truncated(n));
            }
            k *= NUCLEUS_GROWTH;
        }
    }

    /// Returns the probabilities of logits after the temperature, relative to that of the largest logit.
    fn weights<'l>(&self, logits: &'l [f32], largest: f32) -> impl Iterator<Item = f64> + Clone + use<'l> {
        let scale = self.scale;
        logits.iter().map(move |logit| f64::from(((logit - largest) * scale).exp()))
    }

    /// Draws an id of those that the filters have left.
    fn draw_of(&mut self, left: &TopK) -> Result<u32> {
        let index = self.draw_index(&left.values)?;
        Ok(left.ids[index as usize])
    }

    /// Draws an index by logits after the filters.
    ///
    /// # Errors
    /// When a logit is NaN, or none is finite.
    fn draw_index(&mut self, logits: &[f32]) -> Result<u32> {
        // At such temperatures all probability is on the best id.
        let overflows = |logit: &f32| logit.is_finite() && !(logit * self.scale).is_finite();
        if logits.iter().any(overflows) {
            return argmax(logits).ok_or_else(not_finite);
        }
        self.processor.sample(&Tensor::from_slice(logits, logits.len(), &Device::Cpu)?)
    }
}

/// Sampler of a sequence, and its ids.
pub(crate) struct Choosing<'s> {
    /// Sampler of the sequence.
    pub sampler: &'s mut Sampler,
    /// Ids generated so far.
    pub generated: &'s [u32],
}

/// Logits of a row on the host, those that its sampler reads.
enum RowLogits<'l> {
    /// Id of the largest logit; `None` for a row that is not finite.
    Largest(Option<u32>),
    /// Largest logits, and the number of them that is read; `None` for a row that is not finite.
    Top(Option<TopK>, usize),
    /// Logits of all ids, `(vocab_size)`.
    All(&'l [f32]),
}

impl Choosing<'_> {
    /// Returns the next id.
    ///
    /// # Errors
    /// As [`Sampler::next`].
    fn next(&mut self, logits: RowLogits<'_>) -> Result<u32> {
        match logits {
            RowLogits::Largest(id) => id.ok_or_else(not_finite),
            RowLogits::Top(top, k) => self.sampler.draw_of_top(top.map(|top| top.truncated(k))),
            RowLogits::All(logits) => self.sampler.next(logits, self.generated),
        }
    }
}

/// Chooses the next id of `R` sequences at once. From a GPU only the largest logits are copied, of greedy rows one, of
/// rows that are drawn with top-k the best `k`; of rows that are changed by rules, or drawn without top-k or with one
/// over [`MAX_TOP_K`], all logits.
///
/// # Shapes
/// `logits (R, vocab_size)` in the precision of `kernels`, or in f32.
///
/// # Errors
/// When candle fails, before any id is drawn. An id fails as in [`Sampler::next`].
pub(crate) fn choose_each(
    kernels: &dyn Kernels,
    logits: &Tensor,
    sequences: &mut [Choosing<'_>],
) -> Result<Vec<Result<u32>>> {
    let (n_rows, width) = logits.dims2()?;
    if n_rows != sequences.len() {
        candle_core::bail!("logits of {n_rows} sequences, not of {}", sequences.len());
    }
    let reads: Vec<ReadLogits> = sequences.iter().map(|sequence| sequence.sampler.reads(width)).collect();
    let all = elements(&rows_of(logits, &reads, |reads| *reads == ReadLogits::All)?)?;
    let mut all = all.chunks_exact(width.max(1));
    let is_greedy = reads.contains(&ReadLogits::Largest);
    let mut largest = if is_greedy { kernels.argmax_rows(logits)? } else { vec![None; n_rows] }.into_iter();
    let mut top = top_of_rows(kernels, logits, &reads)?.into_iter();
    let row = |reads| {
        let largest = largest.next().flatten();
        match reads {
            ReadLogits::Largest => RowLogits::Largest(largest),
            ReadLogits::Top(k) => RowLogits::Top(top.next().flatten(), k),
            ReadLogits::All => RowLogits::All(all.next().unwrap_or_default()),
        }
    };
    let has_all = reads.contains(&ReadLogits::All);
    let rows: Vec<RowLogits<'_>> = reads.into_iter().map(row).collect();
    let next = |(sequence, row): (&mut Choosing<'_>, _)| sequence.next(row);
    // Other rows are chosen sooner than other threads are woken.
    Ok(if has_all {
        sequences.par_iter_mut().zip(rows).map(next).collect()
    } else {
        sequences.iter_mut().zip(rows).map(next).collect()
    })
}

/// Returns the largest logits of the rows that read several, as many for each as the row that reads most of them.
///
/// # Errors
/// When candle fails.
fn top_of_rows(kernels: &dyn Kernels, logits: &Tensor, reads: &[ReadLogits]) -> Result<Vec<Option<TopK>>> {
    let k = |reads: &ReadLogits| match reads {
        ReadLogits::Top(k) => Some(*k),
        ReadLogits::Largest | ReadLogits::All => None,
    };
    match reads.iter().filter_map(k).max() {
        Some(most) => kernels.top_k_rows(&rows_of(logits, reads, |reads| k(reads).is_some())?, most),
        None => Ok(Vec::new()),
    }
}

/// Returns the rows of a matrix that are read in some way.
fn rows_of(x: &Tensor, reads: &[ReadLogits], is_wanted: impl Fn(&ReadLogits) -> bool) -> Result<Tensor> {
    let rows: Vec<u32> = (0..).zip(reads).filter(|(_, reads)| is_wanted(reads)).map(|(row, _)| row).collect();
    match rows.len() {
        0 => x.narrow(0, 0, 0),
        n if n == reads.len() => Ok(x.clone()),
        n => x.index_select(&Tensor::from_vec(rows, n, x.device())?, 0),
    }
}

/// Returns the elements of a tensor in f32, converted on the host: fewer bytes are copied from a device.
fn elements(x: &Tensor) -> Result<Vec<f32>> {
    if x.elem_count() == 0 {
        return Ok(Vec::new());
    }
    x.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec1()
}

/// Returns the number of leading weights whose sum reaches `least`, at least one; more than there are if none does.
fn n_reaching(weights: impl Iterator<Item = f64>, least: f64) -> usize {
    let mut sum = 0.0;
    let below = weights.take_while(|weight| {
        sum += weight;
        sum < least
    });
    below.count() + 1
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
    use crate::kernels::cuda::tests::tested;
    use crate::kernels::finite_difference::random;

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
        // Of a smaller vocabulary, all; of none, no top-k.
        assert_eq!(drawn(Some(0), 0.75), drawn(None, 0.75));
        assert_eq!(drawn(Some(9), 0.75), drawn(None, 0.75));
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_reaches_its_probability() {
        let of_size = |n: usize, spread: f64| (random(n, 8) * spread).and_then(|x| x.to_vec1::<f32>()).expect("f32");
        for (logits, temperature) in [(of_size(7, 1.0), 1.0), (of_size(5000, 0.1), 1.0), (of_size(5000, 9.0), 0.7)] {
            let sampler = sampler(&Decoding { temperature, ..Decoding::default() });
            let weight = |logit: f32| (f64::from(logit) / temperature).exp();
            let total: f64 = logits.iter().map(|&logit| weight(logit)).sum();
            for p in [1e-9, 0.01, 0.3, 0.9, 0.999] {
                let TopK { ids, values } = sampler.nucleus(&logits, p).expect("finite");
                let reached: f64 = values.iter().map(|&logit| weight(logit)).sum::<f64>() / total;
                let last = weight(values[values.len() - 1]) / total;
                assert!(reached > p - 1e-5 && reached - last < p + 1e-5, "{p}: {reached} with {} ids", ids.len());
                assert!(values.is_sorted_by(|a, b| a >= b));
                assert!(ids.iter().zip(&values).all(|(&id, &value)| logits[id as usize] == value));
            }
        }
        // Of equal logits, the first.
        let found = sampler(&Decoding { temperature: 1.0, ..Decoding::default() }).nucleus(&[0.5; 4000], 0.5);
        assert_eq!(found.expect("finite").ids, (0..2000).collect::<Vec<_>>());
        assert!(sampler(&Decoding::default()).nucleus(&[0.0, f32::NAN], 0.5).is_err());
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        let mut sampler = sampler(&Decoding::default());
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(sampler.next(&[0.0, bad], &[]).is_err());
        }
    }

    #[test]
    fn rows_in_half_precision_are_chosen_on_the_device_as_those_in_f32_alone() {
        let hot = Decoding { temperature: 2.0, seed: 3, ..Decoding::default() };
        let rules = LogitRules { repetition_penalty: 1.5, ..LogitRules::default() };
        let decodings = [
            Decoding::default(),
            Decoding { top_k: Some(40), ..hot.clone() },
            hot.clone(),
            Decoding { top_k: Some(7), top_p: Some(0.7), ..hot.clone() },
            Decoding { rules, ..Decoding::default() },
            Decoding { top_k: Some(1500), ..hot },
        ];
        for tested in tested() {
            // Rows of padding after those that are chosen from.
            let logits = tested.given(&(random((9, 2000), 6) * 4.0).expect("numeric"));
            let rows = tested.host(&logits).to_vec2::<f32>().expect("a matrix");
            let mut samplers: Vec<Sampler> = decodings.iter().map(sampler).collect();
            let mut sequences: Vec<Choosing<'_>> =
                samplers.iter_mut().map(|sampler| Choosing { sampler, generated: &[4, 9] }).collect();
            let together = choose_each(tested.kernels, &logits.narrow(0, 0, 6).expect("rows"), &mut sequences);
            for (i, found) in together.expect("it runs").into_iter().enumerate() {
                let alone = sampler(&decodings[i]).next(&rows[i], &[4, 9]);
                assert_eq!(found.ok(), alone.ok(), "row {i} in {:?} on {:?}", tested.dtype, tested.device);
            }
            // Fewer sequences than rows.
            assert!(choose_each(tested.kernels, &logits, &mut sequences).is_err());
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
            let together = together.expect("on the CPU");
            for (i, together) in together.into_iter().enumerate() {
                let alone = sampler(&decodings[i]).next(&rows[i], &generated[i]);
                assert_eq!(together.ok(), alone.ok(), "row {i} of {decodings:?}");
            }
        }
    }
}
