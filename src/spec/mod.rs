//! What a run does, written down: every choice between a video and an answer, and its fingerprint.

mod fingerprint;
mod plan;
mod yaml;

pub use fingerprint::fingerprint;
pub use plan::{GeneratePlan, Plan, PromptPlan};
pub use yaml::{YamlError, parse_yaml, read_yaml};
