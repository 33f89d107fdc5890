//! The language model: the Llama family, its cache, sampling and generation.

pub mod branches;
pub mod cache;
pub mod generate;
pub mod llama;
pub mod rope;
pub mod rules;
pub mod sample;

pub use branches::Branch;
pub use cache::KvCache;
pub use generate::{FinishReason, GenerateConfig, Generation, Step, generate};
pub use llama::{Llama, LlamaConfig, PREFILL_CHUNK};
pub use rope::{RampEnds, Rope, RopeScaling};
pub use rules::{LogitRules, PromptHistory};
pub use sample::{Decoding, Sampler, SamplingConfig};
