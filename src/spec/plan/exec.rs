//! Distribution of the work over stages: threads, batch sizes, memory, capacities of channels.

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::video::Access;

/// Distribution of the work over stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExecPlan {
    /// Videos that are decoded in parallel. Default: `2`.
    #[schemars(range(min = 1, max = 256))]
    pub decode_threads: usize,
    /// Images that are preprocessed in parallel. Default: with the tower on the CPU one for every 8 cores, up to 4; on
    /// a GPU one for every 2 cores, up to 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub preprocess_threads: Option<usize>,
    /// Access to frames: auto, straight, seek. Frames are the same, unless a video is damaged in parts that seeking
    /// skips. Default: `auto`.
    pub access: Access,
    /// Batch size of the tower, in images of any videos. Default: `1` on the CPU, `8` on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub encode_batch: Option<usize>,
    /// Milliseconds that an incomplete batch of images waits for more. Default: none on the CPU, 3 on a GPU, which
    /// encodes a full batch in less time than its images one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub encode_wait_ms: Option<u64>,
    /// Limit of the sequences that are decoded together; further requests wait. Default: `32`, on an NVIDIA GPU `256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub sequences: Option<usize>,
    /// Memory for keys and values, such as `8GiB`; sequences that do not fit wait. Default: half of the memory that is
    /// free once the model is loaded, nine tenths on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub kv_memory: Option<ByteSize>,
    /// CUDA graphs: whether a decode step on an NVIDIA GPU is launched as one graph. Default: `true`; `false` launches
    /// each operation, which is slower and takes no memory for graphs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda_graphs: Option<bool>,
    /// Capacities of the channels between stages.
    pub capacity: Capacities,
}

impl Default for ExecPlan {
    fn default() -> Self {
        Self {
            decode_threads: 2,
            preprocess_threads: None,
            access: Access::Auto,
            encode_batch: None,
            encode_wait_ms: None,
            sequences: None,
            kv_memory: None,
            cuda_graphs: None,
            capacity: Capacities::default(),
        }
    }
}

/// Capacities of the channels between stages: larger ones smooth unevenness, and take memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Capacities {
    /// Decoded frames that wait to be prepared. Default: `2`.
    #[schemars(range(max = 4096))]
    pub decoded: usize,
    /// Prepared images that wait for the tower. Default: `4`.
    #[schemars(range(max = 4096))]
    pub prepared: usize,
    /// Encoded images that wait to be aggregated. Default: `4`.
    #[schemars(range(max = 4096))]
    pub encoded: usize,
    /// Aggregated videos that wait for the language model. Default: `1`.
    #[schemars(range(max = 4096))]
    pub aggregated: usize,
}

impl Default for Capacities {
    fn default() -> Self {
        Self { decoded: 2, prepared: 4, encoded: 4, aggregated: 1 }
    }
}
