//! Limits of an engine: key-value memory, sequences, and rows of a step.

use candle_core::Device;

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
    /// Rows of a step beside running answers: one of each answer, and positions of prompts, which the answers wait for.
    pub chunk_beside_answers: usize,
    /// Launch of decode steps on an NVIDIA GPU.
    pub decode: DecodeLaunch,
}

/// Launch of a decode step on an NVIDIA GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DecodeLaunch {
    /// One CUDA graph per number of sequences.
    #[default]
    Graph,
    /// Operation by operation.
    Operations,
}

impl EngineConfig {
    /// Makes the default sizes with `kv_bytes` of key-value memory.
    pub fn with_kv_bytes(kv_bytes: usize) -> Self {
        Self { kv_bytes, max_sequences: 32, chunk: 1024, chunk_beside_answers: 128, decode: DecodeLaunch::default() }
    }

    /// Returns the default sizes for a loaded model, with so many bytes of key-value memory as asked for; else with
    /// [`default_kv_bytes`].
    pub(crate) fn for_model(model: &Llama, kv_bytes: Option<u64>) -> Self {
        let bytes = kv_bytes.unwrap_or_else(|| default_kv_bytes(model.device(), 0));
        let config = Self::with_kv_bytes(usize::try_from(bytes).unwrap_or(usize::MAX));
        if model.device().is_cuda() { config.on_nvidia_gpu() } else { config }
    }

    /// Returns the sizes for an NVIDIA GPU. A step reads all weights once, which takes as long as some hundred rows
    /// compute: a step with fewer rows is bound by memory.
    fn on_nvidia_gpu(self) -> Self {
        Self { max_sequences: 256, chunk: 2048, chunk_beside_answers: 2048, ..self }
    }
}

/// Bytes of key-value memory where nobody says otherwise: half of what the CPU has left, or nine tenths of what a GPU
/// has, once `weights` more bytes are taken.
pub fn default_kv_bytes(device: &Device, weights: u64) -> u64 {
    let (part, of) = if device.is_cpu() { (1, 2) } else { (9, 10) };
    free_memory(device).map_or(UNKNOWN, |free| free.saturating_sub(weights) / of * part)
}
