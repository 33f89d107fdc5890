//! A language model of a released model's geometry.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Result, Tensor};
use serde::Serialize;

use super::{BenchPlace, DeviceLimits, median, memory_peak, quantile, random};
use crate::device::peak_memory;
use crate::engine::{Engine, EngineConfig, EngineStats, PromptPart, Request, RequestEvent, Visual};
use crate::eval::kl_divergence;
use crate::kernels::kv::{PageId, StepRows, pages_for};
use crate::language::{Llama, LlamaConfig, SequenceRows};
use crate::nn::{Purpose, QuantFormat, QuantizingLoader};
use crate::vlm::config::{llama_2_7b, tiny_llama_1b};

/// Positions of which the logits are compared.
const COMPARED: usize = 64;
/// Tokens of the answers before the ones that are timed.
const WARM: usize = 4;
/// The deviation of the prompt's embeddings: about that of trained ones.
const EMBEDS: f32 = 0.02;

/// A geometry by its number of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanguageSize {
    /// TinyLlama's.
    Small,
    /// Llama 2's and Vicuna's smallest.
    Large,
}

impl FromStr for LanguageSize {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        match text {
            "1.1b" => Ok(Self::Small),
            "7b" => Ok(Self::Large),
            _ => Err(format!("`{text}` is no size; hint: 1.1b, 7b")),
        }
    }
}

impl LanguageSize {
    fn name(self) -> &'static str {
        match self {
            Self::Small => "1.1b",
            Self::Large => "7b",
        }
    }

    /// The geometry.
    pub fn config(self) -> LlamaConfig {
        match self {
            Self::Small => tiny_llama_1b(),
            Self::Large => llama_2_7b(),
        }
    }
}

/// Measurements of a language model.
#[derive(Debug, Clone, Serialize)]
pub struct LanguageBench {
    /// Its size.
    pub size: &'static str,
    /// The kind of device: cpu, cuda, metal.
    pub device: &'static str,
    /// The precision of activations.
    pub dtype: &'static str,
    /// How its linear layers are held.
    pub weights: String,
    /// Positions of each prompt.
    pub prefill_tokens: usize,
    /// Tokens of each answer.
    pub new_tokens: usize,
    /// Sequences that were answered together.
    pub sequences: usize,
    /// Positions at the beginning of every prompt that are the same.
    pub shared_tokens: usize,
    /// Runs of which the medians are taken.
    pub runs: usize,
    /// One prompt alone, with the logits at its end.
    pub prefill_seconds: f64,
    /// Floating-point operations of matrix products a second in prefill.
    pub prefill_gflops: f64,
    /// Tokens of all sequences, in the steps that read no prompt.
    pub decode_tokens_per_second: f64,
    /// Bytes of weights that these steps read a second.
    pub decode_gb_per_second: f64,
    /// Of the device.
    #[serde(flatten)]
    pub limits: DeviceLimits,
    /// From the submission of all requests to the first token of each: the median over the sequences.
    pub time_to_first_token_seconds: f64,
    /// Between two tokens of a sequence: the median.
    pub token_seconds_median: f64,
    /// Between two tokens of a sequence: 95 of 100 take less.
    pub token_seconds_p95: f64,
    /// From the submission of all requests to the last token.
    pub total_seconds: f64,
    /// Key-value memory that was held at once.
    pub kv_peak_bytes: usize,
    /// The most of the host's memory that the process used.
    pub memory_peak_bytes: Option<u64>,
    /// The most of the device's memory that tensors took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory_peak_bytes: Option<u64>,
    /// Of the next token's distribution against that of the same weights in f32, over the last 64 positions of the
    /// prompt, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_kl: Option<f64>,
}

/// Work of a language model.
#[derive(Debug, Clone)]
pub struct LanguageTask {
    /// Its size.
    pub size: LanguageSize,
    /// Device and precision of the model.
    pub place: BenchPlace,
    /// Format of quantized linear layers; the precision of the place if there is none.
    pub quantization: Option<QuantFormat>,
    /// Positions of each prompt.
    pub n_tokens: usize,
    /// Positions at the beginning of every prompt that are the same: one video, many questions.
    pub n_shared: usize,
    /// Tokens of each answer.
    pub n_new: usize,
    /// Sequences that are answered together.
    pub n_sequences: usize,
    /// Runs of which the medians are taken.
    pub runs: usize,
    /// Whether the logits are compared with those of the same weights in full, which takes their memory and time too.
    pub compares: Compares,
    /// Called once the model is loaded.
    pub on_loaded: fn(),
}

/// Whether quantized weights are compared with those in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compares {
    /// Not.
    Nothing,
    /// The logits at the last positions of the prompt.
    Logits,
}

/// Times a language model with random weights in the engine that answers questions.
///
/// # Errors
/// When candle fails.
pub fn bench_language(task: &LanguageTask) -> Result<LanguageBench> {
    let LanguageTask { size, ref place, quantization, n_tokens, n_new, n_sequences, runs, compares, .. } = *task;
    let config = size.config();
    let first = || prompt("prompt 0", n_tokens, (&config, place));
    let full = match compares {
        Compares::Logits => Some(last_logits(&load(&config, place, None)?, &first()?)?),
        Compares::Nothing => None,
    };
    let model = load(&config, place, quantization)?;
    (task.on_loaded)();
    let prompts = prompts(task, &config)?;
    let prefill = || answer(&model, &prompts[..1], 1).map(|run| run.total);
    prefill()?;
    if !place.device.is_cpu() {
        // Kernels are loaded and memory is taken at the first steps of their kind.
        answer(&model, &prompts, n_new.min(WARM))?;
    }
    let prefill_seconds = median((0..runs.max(1)).map(|_| prefill()).collect::<Result<_>>()?);
    let answered = (0..runs.max(1)).map(|_| answer(&model, &prompts, n_new)).collect::<Result<Vec<_>>>()?;
    let (memory_peak_bytes, device_memory_peak_bytes) = (memory_peak(), peak_memory(&place.device));
    let over = |value: fn(&AnsweredRun) -> f64| median(answered.iter().map(value).collect());
    let decode = over(|run| run.decoded as f64 / run.decode.max(f64::MIN_POSITIVE));
    let weights = config.n_linear_weights() as f64;
    let bytes = quantization.map_or(config.n_linear_weights() * place.dtype.size_in_bytes(), |format| {
        format.bytes(config.n_linear_weights())
    });
    let head = 2.0 * (config.d_hidden * config.vocab_size) as f64;
    // The head is for the last position alone.
    let prefill_flops = 2.0 * (weights - head / 2.0) * n_tokens as f64 + head;
    Ok(LanguageBench {
        size: size.name(),
        device: place.name(),
        dtype: place.dtype.as_str(),
        weights: quantization.map_or(place.dtype.as_str().to_owned(), |format| format.to_string()),
        prefill_tokens: n_tokens,
        new_tokens: n_new,
        sequences: n_sequences,
        shared_tokens: task.n_shared,
        runs,
        prefill_seconds,
        prefill_gflops: prefill_flops / prefill_seconds / 1e9,
        decode_tokens_per_second: decode,
        decode_gb_per_second: over(|run| run.decode_steps as f64 / run.decode.max(f64::MIN_POSITIVE)) * bytes as f64
            / 1e9,
        limits: DeviceLimits::measure(place)?,
        time_to_first_token_seconds: over(|run| median(run.first_tokens.clone())),
        token_seconds_median: over(|run| median(run.between.clone())),
        token_seconds_p95: over(|run| quantile(run.between.clone(), 0.95)),
        total_seconds: over(|run| run.total),
        kv_peak_bytes: answered.iter().map(|run| run.stats.peak_kv_bytes).max().unwrap_or(0),
        memory_peak_bytes,
        device_memory_peak_bytes,
        mean_kl: full
            .map(|full| Ok::<_, candle_core::Error>(mean_kl(&full, &last_logits(&model, &first()?)?)))
            .transpose()?,
    })
}

/// Embeddings of a prompt: `(S, H)`.
fn prompt(name: &str, n: usize, (config, place): (&LlamaConfig, &BenchPlace)) -> Result<Tensor> {
    random::normal_tensor((name, EMBEDS), &(n, config.d_hidden).into(), &place.device)?.to_dtype(place.dtype)
}

/// The prompt of each sequence: what all share, and its own.
fn prompts(task: &LanguageTask, config: &LlamaConfig) -> Result<Vec<Vec<PromptPart>>> {
    let n_shared = task.n_shared.min(task.n_tokens);
    // A part of no positions is left out: a GPU launches nothing over no elements.
    let part = |name: &str, n: usize| {
        let embeds = (n > 0).then(|| prompt(name, n, (config, &task.place))).transpose()?;
        Ok::<_, candle_core::Error>(embeds.map(|embeds| PromptPart::Visual(Visual::new(embeds))))
    };
    let shared = part("shared", n_shared)?;
    let one = |i: usize| {
        let own = part(&format!("prompt {i}"), task.n_tokens - n_shared)?;
        Ok(shared.iter().cloned().chain(own).collect())
    };
    (0..task.n_sequences.max(1)).map(one).collect()
}

/// Times of one run.
struct AnsweredRun {
    /// From the submission of all requests, in seconds.
    total: f64,
    first_tokens: Vec<f64>,
    /// Between two tokens of a sequence.
    between: Vec<f64>,
    /// Steps that read no prompt: their seconds, their tokens, their number.
    decode: f64,
    decoded: u64,
    decode_steps: u64,
    stats: EngineStats,
}

/// Answers all prompts together, with so many tokens each.
fn answer(model: &Llama, prompts: &[Vec<PromptPart>], n_new: usize) -> Result<AnsweredRun> {
    let begin = Instant::now();
    let tokens: Vec<RefCell<Vec<f64>>> = prompts.iter().map(|_| RefCell::default()).collect();
    let failure = RefCell::new(None);
    let mut config = EngineConfig::for_model(model, None);
    config.max_sequences = prompts.len();
    let mut engine = Engine::new(model, None, config)?;
    for (prompt, tokens) in prompts.iter().zip(&tokens) {
        let failure = &failure;
        let listener = move |event: RequestEvent<'_>| {
            match event {
                RequestEvent::Token { .. } => tokens.borrow_mut().push(begin.elapsed().as_secs_f64()),
                RequestEvent::Done(Err(error)) => *failure.borrow_mut() = Some(error),
                RequestEvent::Done(Ok(_)) => {}
            }
            ControlFlow::Continue(())
        };
        engine.submit(Request::greedy(prompt.clone(), n_new, Box::new(listener)));
    }
    let (mut decode, mut decoded, mut decode_steps) = (0.0, 0, 0);
    let mut before = engine.stats();
    loop {
        let start = Instant::now();
        let goes_on = engine.step();
        let after = engine.stats();
        if after.prompt_tokens == before.prompt_tokens {
            decode += start.elapsed().as_secs_f64();
            decoded += after.new_tokens - before.new_tokens;
            decode_steps += after.steps - before.steps;
        }
        before = after;
        if !goes_on {
            break;
        }
    }
    drop(engine);
    if let Some(error) = failure.take() {
        candle_core::bail!("{error}");
    }
    let times: Vec<Vec<f64>> = tokens.into_iter().map(RefCell::into_inner).collect();
    let first_tokens = times.iter().filter_map(|times| times.first().copied()).collect();
    let between = times.iter().flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0])).collect();
    Ok(AnsweredRun {
        total: begin.elapsed().as_secs_f64(),
        first_tokens,
        between,
        decode,
        decoded,
        decode_steps,
        stats: before,
    })
}

/// The logits at the last positions of a prompt.
fn last_logits(model: &Llama, embeds: &Tensor) -> Result<Vec<Vec<f32>>> {
    let n = embeds.dim(0)?;
    let mut store = model.new_kv_store()?;
    let pages: Arc<[PageId]> = (0..pages_for(n) as u32).map(PageId).collect();
    pages.iter().try_for_each(|page| store.allocate(*page))?;
    let rows = SequenceRows { rows: StepRows { pages, start: 0, n }, n_prompt: n };
    let hidden = model.forward(embeds, &[rows], &mut *store)?;
    let n_compared = COMPARED.min(n);
    model.logits(&hidden.narrow(0, n - n_compared, n_compared)?)?.to_vec2()
}

fn mean_kl(full: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    full.iter().zip(found).map(|(p, q)| kl_divergence(p, q)).sum::<f64>() / full.len().max(1) as f64
}

fn load(config: &LlamaConfig, place: &BenchPlace, quantization: Option<QuantFormat>) -> Result<Llama> {
    let weights = random::weights(place);
    match quantization {
        Some(format) => Llama::load_with(config, &weights, &QuantizingLoader(format)),
        None => Llama::load(config, &weights, Purpose::Inference),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_every_matrix_once() {
        // TinyLlama has 1.1 billion weights, of which 65.5 million are its embeddings.
        let weights = LanguageSize::Small.config().n_linear_weights() as f64;
        assert!((weights / 1e9 - 1.0345).abs() < 0.001, "{weights}");
    }

    #[test]
    fn a_part_of_a_prompt_without_positions_is_left_out() {
        let n_parts = |n_tokens: usize, n_shared: usize| {
            let task = LanguageTask {
                size: LanguageSize::Small,
                place: BenchPlace::cpu(),
                quantization: None,
                n_tokens,
                n_shared,
                n_new: 1,
                n_sequences: 2,
                runs: 1,
                on_loaded: || {},
                compares: Compares::Nothing,
            };
            let prompts = prompts(&task, &task.size.config()).expect("small");
            prompts.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!([n_parts(3, 0), n_parts(3, 2), n_parts(3, 3)], [[1, 1], [2, 2], [1, 1]]);
    }
}
