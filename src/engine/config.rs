//! How much an engine may take: key-value memory, sequences, and rows of a step.

use crate::device::free_memory;
use crate::language::Llama;

/// Bytes of key-value memory where a device does not tell how much it has.
const UNKNOWN: u64 = 4 << 30;

/// Sizes of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Bytes of key-value memory.
    pub kv_bytes: usize,
    /// Sequences that run at once.
    pub max_sequences: usize,
    /// Positions of prompts in a step while nothing is being answered.
    pub chunk: usize,
    /// Positions of prompts in a step beside answers, which wait for them.
    pub chunk_beside_answers: usize,
}

impl EngineConfig {
    /// The default sizes with so many bytes of key-value memory.
    pub fn with_kv_bytes(kv_bytes: usize) -> Self {
        Self { kv_bytes, max_sequences: 32, chunk: 1024, chunk_beside_answers: 256 }
    }

    /// The default sizes for a loaded model, with so many bytes of key-value memory as asked for; else with half of what the CPU
    /// has left, or nine tenths of what a GPU has.
    pub fn for_model(model: &Llama, kv_bytes: Option<u64>) -> Self {
        let (part, of) = if model.device().is_cpu() { (1, 2) } else { (9, 10) };
        let free = || free_memory(model.device()).map_or(UNKNOWN, |free| free / of * part);
        Self::with_kv_bytes(usize::try_from(kv_bytes.unwrap_or_else(free)).unwrap_or(usize::MAX))
    }
}
