//! The language model: the Llama family, and how its next tokens are chosen. Loops over tokens are the engine's.

pub mod llama;
pub mod rope;
pub mod rules;
pub mod sample;

pub use llama::{AttentionBias, Llama, LlamaConfig, QueryKeyNorm, SequenceRows};
pub use rope::{RampEnds, Rope, RopeScaling};
pub use rules::{LogitRules, PromptHistory};
pub(crate) use sample::not_finite;
pub use sample::{Choosing, Decoding, Sampler, SamplingConfig, choose_each};
