//! Prefill of long chunks of prompts over pages on a GPU: the pages of a sequence are gathered to two matrices, over
//! which a chunk attends by tiled attention, or by two GEMMs with a masked softmax between them. [`CudaPages`] calls
//! this for sequences with more new positions than the decode kernels take.

use candle_core::{DType, Result, Shape, Tensor};

use super::launch::{LaunchGeometry, WARP};
use super::pages::{CudaPages, CudaStep, StepTensors, thread_per_element};
use super::softmax::{KeyMask, MaskedSoftmax};
use super::step_plan::{PrefillChunk, PrefillWork, heads_at_once};
use super::tiled_attention::{self, AttentionSizes, StridedHeads, TiledAttention};
use crate::kernels::Kernels;
use crate::kernels::kv::{KvGeometry, PAGE_LEN, pages_for};

/// Tensors of the attention of a chunk.
struct ChunkTensors<'a> {
    /// Scaled queries `(n_heads, n, d_head)`, flat.
    queries: &'a Tensor,
    /// Keys `(n_kv_heads, K, d_head)`.
    keys: &'a Tensor,
    /// Values `(n_kv_heads, K, d_head)`.
    values: &'a Tensor,
    /// Result `(n, n_heads d_head)`.
    y: &'a Tensor,
}

impl CudaPages {
    /// Computes the attention of a sequence's chunks to their rows of `y`: tiled where the head width is supported,
    /// else by GEMMs.
    pub(super) fn prefill(&self, layer: usize, work: &PrefillWork, tensors: &StepTensors<'_>) -> Result<()> {
        let KvGeometry { n_heads, d_head, .. } = self.geometry;
        let is_tiled = tiled_attention::is_available(self.executor, self.dtype, d_head);
        let StepTensors { step, queries, y } = tensors;
        let [keys, values] = self.gather(layer, step, work)?; // (n_kv_heads, n_pages PAGE_LEN, d_head)
        for chunk in &work.chunks {
            let rows = y.narrow(0, chunk.row, chunk.n)?;
            // (n_heads, n, d_head)
            let queries = queries.narrow(0, chunk.row * n_heads * d_head, chunk.n * n_heads * d_head)?;
            let chunk_tensors = ChunkTensors { queries: &queries, keys: &keys, values: &values, y: &rows };
            if is_tiled {
                self.attend_by_tiles(chunk, work.n_keys, &chunk_tensors)?;
            } else {
                self.attend_by_gemm(chunk, work.n_keys, &chunk_tensors)?;
            }
        }
        Ok(())
    }

    /// Computes the attention of a chunk without scores in memory.
    fn attend_by_tiles(&self, chunk: &PrefillChunk, n_keys: usize, tensors: &ChunkTensors<'_>) -> Result<()> {
        let KvGeometry { n_heads, n_kv_heads, d_head, .. } = self.geometry;
        let attention = TiledAttention {
            y: StridedHeads { tensor: tensors.y, strides: [0, d_head, n_heads * d_head] },
            queries: StridedHeads { tensor: tensors.queries, strides: [0, chunk.n * d_head, d_head] },
            keys: StridedHeads { tensor: tensors.keys, strides: [0, pages_for(n_keys) * PAGE_LEN * d_head, d_head] },
            values: tensors.values,
            sizes: AttentionSizes { batch: 1, n_heads, n_kv_heads, n_queries: chunk.n, n_keys, d_head },
            mask: KeyMask::Causal { start: chunk.start },
            // The queries are already scaled.
            scale: 1.0,
        };
        attention.run(self.executor)
    }

    /// Computes the attention of a chunk by two GEMMs and a softmax, for some key-value heads at a time.
    fn attend_by_gemm(&self, chunk: &PrefillChunk, n_keys: usize, tensors: &ChunkTensors<'_>) -> Result<()> {
        let KvGeometry { n_heads, n_kv_heads, d_head, .. } = self.geometry;
        let (group, width) = (self.geometry.group(), pages_for(n_keys) * PAGE_LEN);
        let queries = tensors.queries.reshape((n_kv_heads, group * chunk.n, d_head))?;
        let softmax = MaskedSoftmax { n_keys, keys: KeyMask::Causal { start: chunk.start }, scale: 1.0 };
        let at_once = heads_at_once(&self.geometry, chunk.n, n_keys, self.dtype.size_in_bytes());
        for first in (0..n_kv_heads).step_by(at_once) {
            let n = at_once.min(n_kv_heads - first);
            let heads = |x: &Tensor| x.narrow(0, first, n);
            // (n, group chunk.n, width)
            let scores = self.candle.matmul(&heads(&queries)?, &heads(tensors.keys)?.t()?)?;
            softmax.run(self.executor, &scores.reshape((n, group, chunk.n, width))?)?;
            let sums = self.candle.matmul(&scores, &heads(tensors.values)?)?; // (n, group chunk.n, d_head)
            let geometry = LaunchGeometry { grid: [chunk.n, n * group, 1], ..thread_per_element(d_head) };
            let launch = self.launch("interleave_heads", geometry).tensor(&sums)?.tensor(tensors.y)?;
            launch.size(chunk.n)?.size(first * group)?.size(n_heads)?.size(d_head)?.run(self.executor)?;
        }
        Ok(())
    }

    /// Gathers a sequence's keys and values to matrices `(n_kv_heads, n_pages PAGE_LEN, d_head)`, 0 after the last
    /// position.
    fn gather(&self, layer: usize, step: &CudaStep, work: &PrefillWork) -> Result<[Tensor; 2]> {
        let KvGeometry { n_kv_heads, d_head, .. } = self.geometry;
        let n_pages = pages_for(work.n_keys);
        let matrix = || self.executor.empty(Shape::from((n_kv_heads, n_pages * PAGE_LEN, d_head)), self.dtype);
        let (keys, values) = (matrix()?, matrix()?);
        let table = step.words.narrow(0, 2 * work.table, 2 * n_pages)?;
        let accesses = PAGE_LEN * d_head * self.dtype.size_in_bytes() / 16;
        let threads = accesses.next_multiple_of(WARP).min(256);
        let geometry = LaunchGeometry { grid: [n_pages, n_kv_heads, 2], threads, shared_bytes: 0 };
        let launch = self.launch("gather_pages", geometry).tensor_of(&table, DType::U32)?;
        let launch = launch.tensor(&keys)?.tensor(&values)?.size(work.n_keys)?;
        self.with_page_shape(launch, layer)?.run(self.executor)?;
        Ok([keys, values])
    }
}
