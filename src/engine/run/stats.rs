//! Counters of an engine: steps, tokens, shared prefixes, preemptions and peaks since it was made.
//!
//! Read through [`Engine::stats`](super::Engine::stats) by the pipeline's report, `--timings` and the benchmarks. Times
//! are not counted here: each [`Completion`](crate::engine::Completion) has its own.

use serde::Serialize;

/// Counters of an engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EngineStats {
    /// Forward passes.
    pub steps: u64,
    /// Steps replayed as one CUDA graph.
    pub replayed_steps: u64,
    /// Sequences per step, summed.
    pub sequence_steps: u64,
    /// Positions of prompts that were computed.
    pub prompt_tokens: u64,
    /// Positions of prompts whose pages were found in memory.
    pub prefix_hits: u64,
    /// Tokens that were chosen.
    pub new_tokens: u64,
    /// Preemptions: sequences whose pages went to an older sequence.
    pub preemptions: u64,
    /// Steps for which the device had no memory, and which were made smaller: fewer positions, then fewer sequences.
    pub memory_retreats: u64,
    /// The most sequences that ran at once.
    pub peak_running: usize,
    /// The most requests that waited.
    pub peak_waiting: usize,
    /// Largest key-value memory in use at once, in bytes.
    pub peak_kv_bytes: usize,
    /// The budget of key-value memory, in bytes.
    pub kv_budget_bytes: usize,
}

impl EngineStats {
    /// Mean number of sequences in a step.
    pub fn mean_running(&self) -> f64 {
        self.sequence_steps as f64 / self.steps.max(1) as f64
    }
}
