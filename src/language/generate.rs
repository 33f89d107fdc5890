//! Generation: one id after the other, until the model or a limit says stop.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{Decoding, KvCache, Llama, PromptHistory, Sampler};

/// When to stop and how to choose.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateConfig {
    /// At most this many ids. Default: `512`.
    pub max_new_tokens: usize,
    /// How each is chosen.
    pub decoding: Decoding,
    /// The prompt's ids, for rules that count them.
    pub prompt: PromptHistory,
    /// Ids that end the answer.
    pub stop_tokens: Vec<u32>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A stop token or a stop string.
    Stop,
    /// The limit on new tokens.
    Length,
}

/// The ids of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// All ids, the stop token included, as in Hugging Face's `generate`.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// What the listener of a generation says to each id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Go on.
    Continue,
    /// The answer is complete.
    Stop,
}

/// Generates from `logits`, those at the last position of the prompt that `cache` holds. `listen` hears every id but
/// the stop token, and may stop.
///
/// # Shapes
/// `logits (vocab_size)`.
///
/// # Errors
/// When the cache is full, or the logits are not finite.
pub fn generate(
    model: &Llama,
    logits: Tensor,
    cache: &mut KvCache,
    config: &GenerateConfig,
    listen: &mut dyn FnMut(u32) -> Step,
) -> Result<Generation> {
    let mut sampler = Sampler::new(&config.decoding, config.prompt.clone());
    let (mut ids, mut logits) = (Vec::new(), logits);
    while ids.len() < config.max_new_tokens {
        let id = sampler.next(&logits, &ids)?;
        ids.push(id);
        if config.stop_tokens.contains(&id) || listen(id) == Step::Stop {
            return Ok(Generation { ids, finish_reason: FinishReason::Stop });
        }
        if ids.len() < config.max_new_tokens {
            let hidden = model.forward(&model.embed(&[id])?, cache)?;
            logits = model.logits(&hidden)?.squeeze(0)?;
        }
    }
    Ok(Generation { ids, finish_reason: FinishReason::Length })
}
