//! Selection of the kernel for paged attention of few queries on a GPU: `paged_decode.cu`, or `paged_tiles.cu` for
//! several queries at once on tensor cores. `pages` launches the kernel.

use candle_core::DType;

use super::launch::{Executor, WARP};
use super::tiled_attention;
use crate::kernels::kv::KvGeometry;

/// Number of threads of a block (`THREADS` of `paged_tasks.cuh`).
pub(super) const DECODE_THREADS: usize = 128;
/// Maximum number of new positions of a sequence for these kernels; longer chunks are prefilled (`paged_prefill`).
const MAX_POSITIONS: usize = 8;
/// Maximum number of new positions with tensor cores, which process several queries at once: pages are read in place,
/// shared pages once, and all sequences in one launch.
const MAX_POSITIONS_WITH_TILES: usize = 32;
/// Number of queries of a block of `paged_tiles.cu` (`QUERIES`).
const TILE_QUERIES: usize = 16;
/// Names of the kernels of `paged_tiles.cu`.
pub(super) const TILE_KERNELS: [&str; 4] =
    ["paged_tiles_64_f16", "paged_tiles_64_bf16", "paged_tiles_128_f16", "paged_tiles_128_bf16"];

/// Kernels for the heads of a key-value store.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecodeKernels {
    variant: DecodeVariant,
    /// Kernel for several queries; `None` without tensor cores, and for unsupported head widths.
    tiles: Option<DecodeKernel>,
}

/// Kernel with the parameters of its launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DecodeKernel {
    pub(super) name: &'static str,
    /// Number of queries of a block.
    pub(super) queries: usize,
    /// Number of threads that share a key, for kernels with this parameter.
    pub(super) lanes: Option<usize>,
    /// Width of a head, padded to the elements of its threads.
    width: usize,
}

/// Distribution of a head's elements over threads in `paged_decode.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DecodeVariant {
    /// Names of kernels and their numbers of queries, ascending.
    kernels: &'static [(&'static str, usize)],
    /// Number of elements of a thread: elements of a chunk times chunks.
    elements: usize,
    /// Number of threads that share a key.
    lanes: usize,
}

impl DecodeKernels {
    /// Selects the kernels for a geometry's heads in a precision; `None` for unsupported widths. Tensor cores are used
    /// where tiled attention has passed its self-test on the executor's device.
    pub(super) fn new(executor: &'static dyn Executor, geometry: &KvGeometry, dtype: DType) -> Option<Self> {
        let (variant, d_head) = (DecodeVariant::new(geometry)?, geometry.d_head);
        let tiles = tiles(dtype, d_head).filter(|_| tiled_attention::is_available(executor, dtype, d_head));
        Some(Self { variant, tiles })
    }

    /// Returns the kernel for tasks of at most `n_queries` queries.
    pub(super) fn kernel(&self, n_queries: usize) -> DecodeKernel {
        self.tiles.filter(|_| n_queries > 1).unwrap_or_else(|| self.variant.kernel(n_queries))
    }

    /// Returns the maximum number of new positions of a sequence for these kernels.
    pub(super) fn max_positions(&self) -> usize {
        if self.tiles.is_some() { MAX_POSITIONS_WITH_TILES } else { MAX_POSITIONS }
    }
}

impl DecodeKernel {
    /// Returns the bytes of shared memory: the weighted sum of a head, the maximum score and the sum of weights of each
    /// warp and query.
    pub(super) fn shared_bytes(self) -> usize {
        DECODE_THREADS / WARP * self.queries * (self.width + 2) * size_of::<f32>()
    }
}

impl DecodeVariant {
    /// Selects the variant for a geometry's heads; `None` for unsupported widths.
    pub(super) fn new(geometry: &KvGeometry) -> Option<Self> {
        const EIGHT: &[(&str, usize)] = &[
            ("paged_decode_8_1_1", 1),
            ("paged_decode_8_1_2", 2),
            ("paged_decode_8_1_4", 4),
            ("paged_decode_8_1_8", 8),
        ];
        const EIGHT_WIDE: &[(&str, usize)] = &[("paged_decode_8_4_1", 1)];
        const TWO: &[(&str, usize)] = &[("paged_decode_2_1_2", 2)];
        const TWO_WIDE: &[(&str, usize)] = &[("paged_decode_2_8_1", 1)];
        let d = geometry.d_head;
        let chunk = if d.is_multiple_of(8) { 8 } else { 2 };
        let lanes = (d / chunk).next_power_of_two().clamp(4, WARP);
        let (kernels, n_chunks) = match (chunk, d <= chunk * WARP) {
            (8, true) => (EIGHT, 1),
            (8, false) => (EIGHT_WIDE, 4),
            (_, true) => (TWO, 1),
            (_, false) => (TWO_WIDE, 8),
        };
        (d <= chunk * n_chunks * WARP).then_some(Self { kernels, elements: chunk * n_chunks, lanes })
    }

    /// Returns the kernel with the fewest sufficient queries, or the one with the most.
    fn kernel(&self, n_queries: usize) -> DecodeKernel {
        let enough = self.kernels.iter().find(|(_, queries)| *queries >= n_queries);
        let (name, queries) = enough.or(self.kernels.last()).copied().unwrap_or(self.kernels[0]);
        DecodeKernel { name, queries, lanes: Some(self.lanes), width: self.elements * self.lanes }
    }
}

/// Returns the kernel of `paged_tiles.cu` for a head width in a precision.
fn tiles(dtype: DType, d_head: usize) -> Option<DecodeKernel> {
    let name = match (d_head, dtype) {
        (64, DType::F16) => TILE_KERNELS[0],
        (64, DType::BF16) => TILE_KERNELS[1],
        (128, DType::F16) => TILE_KERNELS[2],
        (128, DType::BF16) => TILE_KERNELS[3],
        _ => return None,
    };
    Some(DecodeKernel { name, queries: TILE_QUERIES, lanes: None, width: d_head })
}
