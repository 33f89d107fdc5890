//! A language model of a released model's geometry.

use std::str::FromStr;
use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use serde::Serialize;

use super::{copy_bandwidth, gemm_peak, median, median_seconds, memory_peak, random};
use crate::eval::kl_divergence;
use crate::language::{Llama, LlamaConfig, PREFILL_CHUNK, RopeScaling};
use crate::nn::{QuantFormat, Quantizing};

/// Positions of which the logits are compared.
const COMPARED: usize = 64;
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

    fn config(self) -> LlamaConfig {
        let small = LlamaConfig {
            vocab_size: 32_000,
            d_hidden: 2048,
            d_intermediate: 5632,
            n_layers: 22,
            n_heads: 32,
            n_kv_heads: 4,
            d_head: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            context: 4096,
            tied_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
        };
        match self {
            Self::Small => small,
            Self::Large => LlamaConfig {
                d_hidden: 4096,
                d_intermediate: 11_008,
                n_layers: 32,
                n_kv_heads: 32,
                d_head: 128,
                ..small
            },
        }
    }
}

/// What a language model did.
#[derive(Debug, Clone, Serialize)]
pub struct LanguageBench {
    /// Its size.
    pub size: &'static str,
    /// How its linear layers are held.
    pub weights: String,
    /// Positions of the prompt.
    pub prefill_tokens: usize,
    /// Tokens that were decoded after it.
    pub new_tokens: usize,
    /// Runs of which the medians are taken.
    pub runs: usize,
    /// The prompt, with the logits at its end.
    pub prefill_seconds: f64,
    /// Products of matrices a second in prefill.
    pub prefill_gflops: f64,
    /// Of this machine, by this program's kernel.
    pub gemm_peak_gflops: f64,
    /// One token after the other.
    pub decode_tokens_per_second: f64,
    /// Weights that decoding reads a second.
    pub decode_gb_per_second: f64,
    /// Of this machine, read and written.
    pub copy_gb_per_second: f64,
    /// The most memory that was used.
    pub memory_peak_bytes: Option<u64>,
    /// Of the next token's distribution against that of the same weights in f32, over the last 64 positions of the prompt, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_kl: Option<f64>,
}

/// What a language model is to do.
#[derive(Debug, Clone, Copy)]
pub struct LanguageTask {
    /// Its size.
    pub size: LanguageSize,
    /// In fewer bits than f32.
    pub quantization: Option<QuantFormat>,
    /// Positions of the prompt.
    pub n_tokens: usize,
    /// Tokens that are decoded after it.
    pub n_new: usize,
    /// Runs of which the medians are taken.
    pub runs: usize,
    /// Whether the logits are compared with those of the same weights in f32, which takes their memory and time too.
    pub compares: Compares,
}

/// Whether weights in fewer bits are compared with those in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compares {
    /// Not.
    Nothing,
    /// The logits at the last positions of the prompt.
    Logits,
}

/// Times a language model with random weights on the CPU, computing in f32.
///
/// # Errors
/// When candle fails.
pub fn bench_language(task: &LanguageTask) -> Result<LanguageBench> {
    let LanguageTask { size, quantization, n_tokens, n_new, runs, compares } = *task;
    let config = size.config();
    let embeds = random::normal("embeds", n_tokens * config.d_hidden, EMBEDS);
    let embeds = Tensor::from_vec(embeds, (n_tokens, config.d_hidden), &Device::Cpu)?;
    let full = match compares {
        Compares::Logits => Some(last_logits(&load(&config, None)?, &embeds)?),
        Compares::Nothing => None,
    };
    let model = load(&config, quantization)?;
    let mut cache = model.new_cache(n_tokens + n_new)?;
    let prefill_seconds = median_seconds(runs, || {
        cache.truncate(0);
        model.prefill(&embeds, PREFILL_CHUNK, &mut cache).map(drop)
    })?;
    let mut seconds = Vec::new();
    for _ in 0..runs.max(1) {
        cache.truncate(n_tokens);
        let start = Instant::now();
        for _ in 0..n_new {
            let hidden = model.forward(&model.embed(&[1])?, &mut cache)?;
            model.logits(&hidden)?;
        }
        seconds.push(start.elapsed().as_secs_f64());
    }
    let decode = n_new as f64 / median(seconds);
    let memory_peak_bytes = memory_peak();
    let weights = config.n_linear_weights() as f64;
    let bytes = quantization
        .map_or(config.n_linear_weights() * size_of::<f32>(), |format| format.bytes(config.n_linear_weights()));
    let head = 2.0 * (config.d_hidden * config.vocab_size) as f64;
    // The head is for the last position alone.
    let prefill_flops = 2.0 * (weights - head / 2.0) * n_tokens as f64 + head;
    Ok(LanguageBench {
        size: size.name(),
        weights: quantization.map_or("f32".to_owned(), |format| format.to_string()),
        prefill_tokens: n_tokens,
        new_tokens: n_new,
        runs,
        prefill_seconds,
        prefill_gflops: prefill_flops / prefill_seconds / 1e9,
        gemm_peak_gflops: gemm_peak()?,
        decode_tokens_per_second: decode,
        decode_gb_per_second: decode * bytes as f64 / 1e9,
        copy_gb_per_second: copy_bandwidth(),
        memory_peak_bytes,
        mean_kl: full
            .map(|full| Ok::<_, candle_core::Error>(mean_kl(&full, &last_logits(&model, &embeds)?)))
            .transpose()?,
    })
}

/// The logits at the last positions of a prompt.
fn last_logits(model: &Llama, embeds: &Tensor) -> Result<Vec<Vec<f32>>> {
    let n = embeds.dim(0)?;
    let mut cache = model.new_cache(n)?;
    let first = n.saturating_sub(COMPARED);
    if first > 0 {
        model.prefill(&embeds.narrow(0, 0, first)?, PREFILL_CHUNK, &mut cache)?;
    }
    model.logits(&model.forward(&embeds.narrow(0, first, n - first)?, &mut cache)?)?.to_vec2()
}

fn mean_kl(full: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    full.iter().zip(found).map(|(p, q)| kl_divergence(p, q)).sum::<f64>() / full.len().max(1) as f64
}

fn load(config: &LlamaConfig, quantization: Option<QuantFormat>) -> Result<Llama> {
    let weights = random::weights();
    let mut model = match quantization {
        Some(format) => Llama::load_with(config, &weights, &Quantizing(format))?,
        None => Llama::load(config, &weights)?,
    };
    model.pack()?;
    Ok(model)
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
}
