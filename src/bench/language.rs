//! Benchmark of a language model of a released geometry with random weights, in the engine that answers questions.
//!
//! Prefill is timed with one prompt; decoding, latencies and memory with all prompts in one engine.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use serde::Serialize;
use strum::{EnumString, IntoStaticStr, VariantNames};

use super::engine::{EngineRun, answer};
use super::{BenchTarget, DeviceLimits, median, memory_peak, quantile, random};
use crate::choice;
use crate::device::peak_memory;
use crate::engine::{PromptPart, Visual};
use crate::error::Error;
use crate::eval::kl_divergence;
use crate::kernels::kv::{PageId, StepRows, pages_for};
use crate::language::{Llama, LlamaConfig, SequenceRows};
use crate::nn::{Purpose, QuantFormat, QuantizingLoader};
use crate::vlm::config::{llama_2_7b, tiny_llama_1b};

/// Positions at the end of the prompt whose logits are compared.
const N_COMPARED: usize = 64;
/// Tokens of the warm-up answers on a GPU.
const N_WARM_UP: usize = 4;
/// Standard deviation of the prompt's embeddings, about that of trained embeddings.
const EMBEDS_DEVIATION: f32 = 0.02;

/// Geometry of a language model, named by its number of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr, VariantNames)]
#[strum(parse_err_ty = Error, parse_err_fn = unknown_size)]
pub enum LanguageSize {
    /// TinyLlama's geometry.
    #[strum(serialize = "1.1b")]
    Small,
    /// Geometry of Llama 2 7B and Vicuna 7B.
    #[strum(serialize = "7b")]
    Large,
}

fn unknown_size(name: &str) -> Error {
    choice::unknown_name("size of a language model", name, LanguageSize::VARIANTS)
}

impl LanguageSize {
    fn name(self) -> &'static str {
        self.into()
    }

    /// Returns the geometry.
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
    /// Size of the model.
    pub size: &'static str,
    /// The kind of device: cpu, cuda, metal.
    pub device: &'static str,
    /// The precision of activations.
    pub dtype: &'static str,
    /// Precision or quantization of the linear layers.
    pub weights: String,
    /// Positions of each prompt.
    pub prefill_tokens: usize,
    /// Tokens of each answer.
    pub new_tokens: usize,
    /// Sequences that were answered together.
    pub sequences: usize,
    /// Length of the prefix that all prompts share.
    pub shared_tokens: usize,
    /// Number of best tokens that each token is drawn from, at temperature 1; greedy if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Runs of which the medians are taken.
    pub runs: usize,
    /// Seconds of one prompt alone, up to the logits of its last position.
    pub prefill_seconds: f64,
    /// Floating-point operations of matrix products per second of prefill, in 10^9.
    pub prefill_gflops: f64,
    /// Tokens of all sequences per second of the steps without prefill.
    pub decode_tokens_per_second: f64,
    /// Bytes of weights that these steps read per second, in 10^9.
    pub decode_gb_per_second: f64,
    /// Peak rates of the device.
    #[serde(flatten)]
    pub limits: DeviceLimits,
    /// Median over the sequences of the time from the submission of all requests to the first token.
    pub time_to_first_token_seconds: f64,
    /// Median time between two tokens of a sequence.
    pub token_seconds_median: f64,
    /// 95th percentile of the time between two tokens of a sequence.
    pub token_seconds_p95: f64,
    /// Seconds from the submission of all requests to the last token.
    pub total_seconds: f64,
    /// Peak of the key-value memory.
    pub kv_peak_bytes: usize,
    /// Peak memory of the process on the host.
    pub memory_peak_bytes: Option<u64>,
    /// Peak memory of tensors on the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory_peak_bytes: Option<u64>,
    /// Mean KL divergence of the next token's distribution from that of the same weights in f32, over the last 64
    /// positions of the prompt, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_kl: Option<f64>,
}

/// Workload of a language model.
#[derive(Debug, Clone)]
pub struct LanguageTask {
    /// Size of the model.
    pub size: LanguageSize,
    /// Device and precision of the model.
    pub target: BenchTarget,
    /// Format of quantized linear layers; the precision of the target if there is none.
    pub quantization: Option<QuantFormat>,
    /// Positions of each prompt.
    pub n_tokens: usize,
    /// Length of the prefix that all prompts share, as many questions about one video do.
    pub n_shared: usize,
    /// Tokens of each answer.
    pub n_new: usize,
    /// Sequences that are answered together.
    pub n_sequences: usize,
    /// Number of best tokens that each token is drawn from, at temperature 1; greedy if there is none.
    pub top_k: Option<usize>,
    /// Runs of which the medians are taken.
    pub runs: usize,
    /// Comparison with full precision, which takes the memory and time of the same weights in f32 too.
    pub comparison: LogitComparison,
    /// Callback after the model is loaded.
    pub on_loaded: fn(),
}

/// Comparison of quantized weights with the same weights in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitComparison {
    /// No comparison.
    None,
    /// Comparison of the logits at the last positions of the prompt.
    LastPositions,
}

/// Times a language model with random weights in the engine that answers questions.
///
/// # Errors
/// When candle fails.
pub fn bench_language(task: &LanguageTask) -> Result<LanguageBench> {
    let LanguageTask { size, ref target, quantization, n_tokens, n_new, n_sequences, top_k, runs, comparison, .. } =
        *task;
    let config = size.config();
    let first = || prompt("prompt 0", n_tokens, &config, target);
    let full = match comparison {
        LogitComparison::LastPositions => Some(last_logits(&load(&config, target, None)?, &first()?, N_COMPARED)?),
        LogitComparison::None => None,
    };
    let model = load(&config, target, quantization)?;
    (task.on_loaded)();
    let prompts = prompts(task, &config)?;
    let prefill = || answer(&model, &prompts[..1], 1, top_k).map(|run| run.total);
    prefill()?;
    if !target.device.is_cpu() {
        // Kernels are loaded and memory is allocated at the first steps of their kind.
        answer(&model, &prompts, n_new.min(N_WARM_UP), top_k)?;
    }
    let prefill_seconds = median((0..runs.max(1)).map(|_| prefill()).collect::<Result<_>>()?);
    let answered = (0..runs.max(1)).map(|_| answer(&model, &prompts, n_new, top_k)).collect::<Result<Vec<_>>>()?;
    let (memory_peak_bytes, device_memory_peak_bytes) = (memory_peak(), peak_memory(&target.device));
    let over = |value: fn(&EngineRun) -> f64| median(answered.iter().map(value).collect());
    let decode = over(|run| run.decoded as f64 / run.decode.max(f64::MIN_POSITIVE));
    let weights = config.n_linear_weights() as f64;
    let bytes = quantization.map_or(config.n_linear_weights() * target.dtype.size_in_bytes(), |format| {
        format.bytes(config.n_linear_weights())
    });
    let head = 2.0 * (config.d_hidden * config.vocab_size) as f64;
    // The head runs for the last position alone.
    let prefill_flops = 2.0 * (weights - head / 2.0) * n_tokens as f64 + head;
    Ok(LanguageBench {
        size: size.name(),
        device: target.name(),
        dtype: target.dtype.as_str(),
        weights: quantization.map_or(target.dtype.as_str().to_owned(), |format| format.to_string()),
        prefill_tokens: n_tokens,
        new_tokens: n_new,
        sequences: n_sequences,
        shared_tokens: task.n_shared,
        top_k,
        runs,
        prefill_seconds,
        prefill_gflops: prefill_flops / prefill_seconds / 1e9,
        decode_tokens_per_second: decode,
        decode_gb_per_second: over(|run| run.decode_steps as f64 / run.decode.max(f64::MIN_POSITIVE)) * bytes as f64
            / 1e9,
        limits: DeviceLimits::measure(target)?,
        time_to_first_token_seconds: over(|run| median(run.first_tokens.clone())),
        token_seconds_median: over(|run| median(run.between.clone())),
        token_seconds_p95: over(|run| quantile(run.between.clone(), 0.95)),
        total_seconds: over(|run| run.total),
        kv_peak_bytes: answered.iter().map(|run| run.stats.peak_kv_bytes).max().unwrap_or(0),
        memory_peak_bytes,
        device_memory_peak_bytes,
        mean_kl: full
            .map(|full| Ok::<_, candle_core::Error>(mean_kl(&full, &last_logits(&model, &first()?, N_COMPARED)?)))
            .transpose()?,
    })
}

/// Makes the embeddings of a prompt: `(S, H)`.
fn prompt(name: &str, n: usize, config: &LlamaConfig, target: &BenchTarget) -> Result<Tensor> {
    random::normal_tensor(name, EMBEDS_DEVIATION, &(n, config.d_hidden).into(), &target.device)?.to_dtype(target.dtype)
}

/// Makes the prompt of each sequence: the shared prefix, and a part of its own.
fn prompts(task: &LanguageTask, config: &LlamaConfig) -> Result<Vec<Vec<PromptPart>>> {
    let n_shared = task.n_shared.min(task.n_tokens);
    // An empty part is left out: a GPU launches no kernel over no elements.
    let part = |name: &str, n: usize| {
        let embeds = (n > 0).then(|| prompt(name, n, config, &task.target)).transpose()?;
        Ok::<_, candle_core::Error>(embeds.map(|embeds| PromptPart::Visual(Visual::new(embeds))))
    };
    let shared = part("shared", n_shared)?;
    let one = |i: usize| {
        let own = part(&format!("prompt {i}"), task.n_tokens - n_shared)?;
        Ok(shared.iter().cloned().chain(own).collect())
    };
    (0..task.n_sequences.max(1)).map(one).collect()
}

/// Computes the logits at the last `n_last` positions of a prompt `(S, H)`, or at all of a shorter one.
pub(super) fn last_logits(model: &Llama, embeds: &Tensor, n_last: usize) -> Result<Vec<Vec<f32>>> {
    let n = embeds.dim(0)?;
    let mut store = model.new_kv_store()?;
    let pages: Arc<[PageId]> = (0..pages_for(n) as u32).map(PageId).collect();
    pages.iter().try_for_each(|page| store.allocate(*page))?;
    let rows = SequenceRows { rows: StepRows { pages, start: 0, n }, n_prompt: n };
    let hidden = model.forward(embeds, &[rows], &mut *store)?;
    let n_last = n_last.min(n);
    model.logits(&hidden.narrow(0, n - n_last, n_last)?)?.to_vec2()
}

/// Returns the mean KL divergence of rows of logits.
pub(super) fn mean_kl(full: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    full.iter().zip(found).map(|(p, q)| kl_divergence(p, q)).sum::<f64>() / full.len().max(1) as f64
}

fn load(config: &LlamaConfig, target: &BenchTarget, quantization: Option<QuantFormat>) -> Result<Llama> {
    let weights = random::weights(target);
    match quantization {
        Some(format) => Llama::load_with(config, &weights, &QuantizingLoader(format)),
        None => Llama::load(config, &weights, Purpose::Inference),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_weights_are_all_but_the_embeddings() {
        // TinyLlama has 1.1 billion weights, of which 65.5 million are its embeddings.
        let weights = LanguageSize::Small.config().n_linear_weights() as f64;
        assert!((weights / 1e9 - 1.0345).abs() < 0.001, "{weights}");
    }

    #[test]
    fn an_empty_part_of_a_prompt_is_left_out() {
        let n_parts = |n_tokens: usize, n_shared: usize| {
            let task = LanguageTask {
                size: LanguageSize::Small,
                target: BenchTarget::cpu(),
                quantization: None,
                n_tokens,
                n_shared,
                n_new: 1,
                n_sequences: 2,
                top_k: None,
                runs: 1,
                on_loaded: || {},
                comparison: LogitComparison::None,
            };
            let prompts = prompts(&task, &task.size.config()).expect("small");
            prompts.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!([n_parts(3, 0), n_parts(3, 2), n_parts(3, 3)], [[1, 1], [2, 2], [1, 1]]);
    }
}
