//! Which kernel attends for few queries over pages on a GPU: those of `paged_decode.cu`, and those of `paged_tiles.cu`
//! for several queries at once on tensor cores.

use candle_core::DType;

use super::launch::{Executor, WARP};
use super::tiled_attention;
use crate::kernels::kv::KvGeometry;

/// Threads of a block (`THREADS` of `paged_tasks.cuh`).
pub(super) const DECODE_THREADS: usize = 128;
/// New positions up to which a sequence is read key by key; above, by matrix products or tile by tile.
const FEW: usize = 8;
/// The same where tensor cores take several queries at once: pages are read in place, those that sequences share once,
/// and all sequences in one launch.
const FEW_OF_TILES: usize = 32;
/// Queries of a block of `paged_tiles.cu` (`QUERIES`).
const TILE_QUERIES: usize = 16;
/// Names of the kernels of `paged_tiles.cu`, for the list of sources.
pub(super) const TILES: [&str; 4] =
    ["paged_tiles_64_f16", "paged_tiles_64_bf16", "paged_tiles_128_f16", "paged_tiles_128_bf16"];

/// Kernels for the heads of a store.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecodeKernels {
    variant: DecodeVariant,
    /// For several queries; none without tensor cores, and for heads of other sizes.
    tiles: Option<DecodeKernel>,
}

/// A kernel, and what its launches depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DecodeKernel {
    pub(super) name: &'static str,
    /// Queries of a block.
    pub(super) queries: usize,
    /// Threads that share a key, where the launch tells them.
    pub(super) lanes: Option<usize>,
    /// Elements of a head, with those beyond its end that threads hold.
    width: usize,
}

/// How threads share the elements of a head in `paged_decode.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DecodeVariant {
    /// Names, and the queries that each takes at a time, rising.
    kernels: &'static [(&'static str, usize)],
    /// Neighbouring elements of a thread times the chunks of them that it takes.
    elements: usize,
    /// Threads that share a key.
    lanes: usize,
}

impl DecodeKernels {
    /// The kernels for a geometry's heads in a precision; none for larger heads. Tensor cores are used where tiled
    /// attention has proved itself on the executor's device.
    pub(super) fn new(executor: &'static dyn Executor, geometry: &KvGeometry, dtype: DType) -> Option<Self> {
        let (variant, d_head) = (DecodeVariant::new(geometry)?, geometry.d_head);
        let tiles = tiles(dtype, d_head).filter(|_| tiled_attention::is_available(executor, dtype, d_head));
        Some(Self { variant, tiles })
    }

    /// The kernel for tasks of at most so many queries.
    pub(super) fn kernel(&self, n_queries: usize) -> DecodeKernel {
        self.tiles.filter(|_| n_queries > 1).unwrap_or_else(|| self.variant.kernel(n_queries))
    }

    /// New positions up to which a sequence's rows are tasks.
    pub(super) fn few_positions(&self) -> usize {
        if self.tiles.is_some() { FEW_OF_TILES } else { FEW }
    }
}

impl DecodeKernel {
    /// Bytes for the weighted sum of a head, the largest score and the sum of weights of each warp and query.
    pub(super) fn shared_bytes(self) -> usize {
        DECODE_THREADS / WARP * self.queries * (self.width + 2) * size_of::<f32>()
    }
}

impl DecodeVariant {
    /// The variant for a geometry's heads; none for larger ones.
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
        let at_once = if d.is_multiple_of(8) { 8 } else { 2 };
        let lanes = (d / at_once).next_power_of_two().clamp(4, WARP);
        let (kernels, chunks) = match (at_once, d <= at_once * WARP) {
            (8, true) => (EIGHT, 1),
            (8, false) => (EIGHT_WIDE, 4),
            (_, true) => (TWO, 1),
            (_, false) => (TWO_WIDE, 8),
        };
        (d <= at_once * chunks * WARP).then_some(Self { kernels, elements: at_once * chunks, lanes })
    }

    fn kernel(&self, n_queries: usize) -> DecodeKernel {
        let enough = self.kernels.iter().find(|(_, queries)| *queries >= n_queries);
        let (name, queries) = enough.or(self.kernels.last()).copied().unwrap_or(self.kernels[0]);
        DecodeKernel { name, queries, lanes: Some(self.lanes), width: self.elements * self.lanes }
    }
}

/// The kernel of `paged_tiles.cu` for heads of a size in a precision.
fn tiles(dtype: DType, d_head: usize) -> Option<DecodeKernel> {
    let name = match (d_head, dtype) {
        (64, DType::F16) => TILES[0],
        (64, DType::BF16) => TILES[1],
        (128, DType::F16) => TILES[2],
        (128, DType::BF16) => TILES[3],
        _ => return None,
    };
    Some(DecodeKernel { name, queries: TILE_QUERIES, lanes: None, width: d_head })
}
