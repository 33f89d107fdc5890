//! The language model: the Llama family, and how its next tokens are chosen. Loops over tokens are the engine's.

mod llama;
mod rope;
mod rules;
mod sample;

pub use llama::{AttentionBias, Llama, LlamaConfig, QueryKeyNorm, SequenceRows};
pub use rope::{RampEnds, Rope, RopeScaling};
pub use rules::{LogitRules, PromptHistory};
pub(crate) use sample::{Choosing, Sampler, choose_each};
pub use sample::{Decoding, SamplingConfig};
