//! A language model of a released model's geometry.

use std::str::FromStr;
use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use serde::Serialize;

use super::{copy_bandwidth, gemm_peak, median_seconds, memory_peak, random};
use crate::language::{Llama, LlamaConfig, RopeScaling};

/// Positions that go through the model together.
const CHUNK: usize = 256;

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
}

/// Times a language model with random weights, in f32 on the CPU.
///
/// # Errors
/// When candle fails.
pub fn bench_language(size: LanguageSize, n_tokens: usize, n_new: usize, runs: usize) -> Result<LanguageBench> {
    let config = size.config();
    let mut model = Llama::load(&config, &random::weights())?;
    model.pack()?;
    let embeds = Tensor::randn(0f32, 0.02, (n_tokens, config.d_hidden), &Device::Cpu)?;
    let mut cache = model.new_cache(n_tokens + n_new)?;
    let prefill_seconds = median_seconds(runs, || {
        cache.truncate(0);
        model.prefill(&embeds, CHUNK, &mut cache).map(drop)
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
    seconds.sort_by(f64::total_cmp);
    let decode = n_new as f64 / seconds[seconds.len() / 2];
    let memory_peak_bytes = memory_peak();
    let weights = weights_read(&config);
    let head = 2.0 * (config.d_hidden * config.vocab_size) as f64;
    // The head is for the last position alone.
    let prefill_flops = 2.0 * (weights - head / 2.0) * n_tokens as f64 + head;
    Ok(LanguageBench {
        size: size.name(),
        prefill_tokens: n_tokens,
        new_tokens: n_new,
        runs,
        prefill_seconds,
        prefill_gflops: prefill_flops / prefill_seconds / 1e9,
        gemm_peak_gflops: gemm_peak()?,
        decode_tokens_per_second: decode,
        decode_gb_per_second: decode * weights * size_of::<f32>() as f64 / 1e9,
        copy_gb_per_second: copy_bandwidth(),
        memory_peak_bytes,
    })
}

/// Weights of the matrices that one token passes.
fn weights_read(config: &LlamaConfig) -> f64 {
    let (h, wide, d) = (config.d_hidden, config.d_intermediate, config.d_head);
    let layer = 2 * h * config.n_heads * d + 2 * h * config.n_kv_heads * d + 3 * h * wide;
    (config.n_layers * layer + h * config.vocab_size) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_every_matrix_once() {
        // TinyLlama has 1.1 billion weights, of which 65.5 million are its embeddings.
        let weights = weights_read(&LanguageSize::Small.config());
        assert!((weights / 1e9 - 1.0345).abs() < 0.001, "{weights}");
    }
}
