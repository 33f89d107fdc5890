//! Pages of keys and values on a GPU, in f32, f16 and bf16: `pages.cu`, `paged_decode.cu` and
//! `paged_tiles.cu`.
//!
//! Pages lie in slabs, each one allocation; kernels get block tables of addresses, so a sequence's pages may lie
//! anywhere. What a step's launches need to know is uploaded once (`step_plan`) and serves all layers. A layer is one
//! launch that rotates and stores, one that attends for all sequences with few new rows (and one that joins their
//! parts); for each longer piece of a prompt one that attends tile by tile, or matrix products with a softmax between.

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::decode_graph::{DecodeGraphs, SCRATCH};
use super::launch::{Executor, Launch, LaunchGeometry, WARP, address};
use super::paged_decode::{DECODE_THREADS, DecodeKernels, DecodeVariant};
use super::softmax::{KeyMask, MaskedSoftmax};
use super::step_plan::{PageFormat, PrefillChunk, PrefillWork, Sections, StepPlan, heads_at_once};
use super::tiled_attention::{self, AttentionSizes, Heads, TiledAttention};
use crate::kernels::Kernels;
use crate::kernels::candle::CandleKernels;
use crate::kernels::kv::{
    GreedyForward, GreedyStep, KvConfig, KvGeometry, KvStore, PAGE_LEN, PageId, StepLayout, pages_for,
};

/// Bytes of a slab, unless a page is larger.
const SLAB_BYTES: usize = 64 << 20;
/// Most pages of a slab: 1,024 positions.
const MAX_SLAB_PAGES: usize = 32;
/// Bytes of a word.
const WORD: usize = size_of::<u32>();

/// Keys and values of all layers in slabs of a GPU's memory.
pub(super) struct CudaPages {
    pub(super) geometry: KvGeometry,
    dtype: DType,
    device: Device,
    pub(super) executor: &'static dyn Executor,
    /// Multiplies the matrices of prefill.
    products: &'static CandleKernels,
    decode: DecodeKernels,
    slab_pages: usize,
    /// Words of each slab that has memory.
    slabs: Vec<Option<Tensor>>,
    /// Words of the page [`SCRATCH`].
    scratch: Option<Tensor>,
    pub(super) step: Option<CudaStep>,
    pub(super) graphs: DecodeGraphs,
}

/// A step that was begun.
#[derive(Debug)]
pub(super) struct CudaStep {
    plan: StepPlan,
    /// The plan's words on the device.
    pub(super) words: Tensor,
    /// Weighted sums `(n_slots, n_heads, d_head)`, and their `(largest score, sum of weights)`; none where no row has
    /// several.
    partials: Option<[Tensor; 2]>,
}

/// Tensors that the attention of a piece of a prompt reads and writes.
struct PrefillTensors<'a> {
    /// Scaled: `(n_heads, n, d_head)`, flat.
    queries: &'a Tensor,
    /// `(n_kv_heads, K, d_head)`.
    keys: &'a Tensor,
    /// As `keys`.
    values: &'a Tensor,
    /// The result: `(n, n_heads d_head)`.
    rows: &'a Tensor,
}

impl CudaStep {
    /// A step of a plan whose words are on the device.
    pub(super) fn new(store: &CudaPages, plan: StepPlan, words: Tensor) -> Result<Self> {
        let KvGeometry { n_heads, d_head, .. } = store.geometry;
        let partials = |n| store.executor.empty(Shape::from((plan.decode.n_slots, n_heads, n)), DType::F32);
        let partials = if plan.decode.n_slots > 0 { Some([partials(d_head)?, partials(2)?]) } else { None };
        Ok(Self { plan, words, partials })
    }

    /// A section of the words on the device.
    fn section(&self, of: impl Fn(&Sections) -> &std::ops::Range<usize>) -> Result<Tensor> {
        let section = of(&self.plan.sections);
        self.words.narrow(0, section.start, section.len())
    }
}

impl CudaPages {
    /// An empty store on the device of an executor.
    ///
    /// # Errors
    /// When heads are not shared evenly or are larger than the kernels take, or keys and values are wanted in another
    /// precision than the activations.
    pub(super) fn new(
        config: &KvConfig<'_>,
        executor: &'static dyn Executor,
        products: &'static CandleKernels,
    ) -> Result<Self> {
        let (geometry, dtype, device) = (config.geometry, config.as_activations()?, config.device);
        geometry.check()?;
        let Some(decode) = DecodeKernels::new(executor, &geometry, dtype) else {
            candle_core::bail!(
                "attention: heads of {} elements are larger than kernels for pages take",
                geometry.d_head
            )
        };
        let page = geometry.position_bytes(dtype) * PAGE_LEN;
        let slab_pages = (SLAB_BYTES / page.max(1)).clamp(1, MAX_SLAB_PAGES);
        let (device, slabs, graphs) = (device.clone(), Vec::new(), DecodeGraphs::default());
        let (scratch, step) = (None, None);
        Ok(Self { geometry, dtype, device, executor, products, decode, slab_pages, slabs, scratch, step, graphs })
    }

    /// Whether there are kernels for a geometry's heads.
    pub(super) fn takes(geometry: &KvGeometry) -> bool {
        DecodeVariant::new(geometry).is_some()
    }

    pub(super) fn plan(&self, layout: &StepLayout) -> Result<StepPlan> {
        let (geometry, element_bytes, few) = (self.geometry, self.dtype.size_in_bytes(), self.decode.few_positions());
        let format = PageFormat { geometry, element_bytes, few };
        StepPlan::new(layout, &format, |page| self.page_address(page))
    }

    /// Gives memory to the page [`SCRATCH`].
    pub(super) fn allocate_scratch(&mut self) -> Result<()> {
        if self.scratch.is_none() {
            self.scratch = Some(self.executor.empty(Shape::from(self.page_bytes() / WORD), DType::U32)?);
        }
        Ok(())
    }

    /// Address of a page.
    fn page_address(&self, page: PageId) -> Result<u64> {
        if let (SCRATCH, Some(scratch)) = (page, &self.scratch) {
            return address(scratch);
        }
        let (slab, at) = (page.index() / self.slab_pages, page.index() % self.slab_pages);
        match self.slabs.get(slab) {
            Some(Some(slab)) => Ok(address(slab)? + (at * self.page_bytes()) as u64),
            _ => candle_core::bail!("attention: page {} has no memory", page.0),
        }
    }

    fn launch(&self, kernel: &'static str, geometry: LaunchGeometry) -> Launch<'_> {
        Launch::new(kernel, self.dtype, geometry)
    }

    /// Adds the geometry and the layer, as `PageShape` of `pages.cuh`.
    fn shaped<'l>(&self, launch: Launch<'l>, layer: usize) -> Result<Launch<'l>> {
        let KvGeometry { n_heads, n_kv_heads, d_head, .. } = self.geometry;
        launch.size(n_heads)?.size(n_kv_heads)?.size(d_head)?.size(layer)
    }

    /// Rotates and stores; the queries, scaled: each piece's `(n_heads, n, d_head)` one after the other.
    fn rotate_and_store(&self, layer: usize, qkv: &Tensor, step: &CudaStep) -> Result<Tensor> {
        let KvGeometry { n_heads, n_kv_heads, d_head, .. } = self.geometry;
        let queries = self.executor.empty(Shape::from(step.plan.n_rows * n_heads * d_head), self.dtype)?;
        let (kernel, pairs) = if d_head.is_multiple_of(8) { ("rope_store_4", 4) } else { ("rope_store_1", 1) };
        let n_threads = (n_heads + 2 * n_kv_heads) * d_head / 2 / pairs;
        let threads = n_threads.next_multiple_of(WARP).min(256);
        let grid = [step.plan.n_rows, n_threads.div_ceil(threads), 1];
        let (cos, sin) = (step.section(|s| &s.cos)?, step.section(|s| &s.sin)?);
        let (rows, tables) = (step.section(|s| &s.rows)?, step.section(|s| &s.tables)?);
        let launch = self.launch(kernel, LaunchGeometry { grid, threads, shared_bytes: 0 }).tensor(qkv)?;
        let launch = [&cos, &sin, &rows, &tables].into_iter().try_fold(launch, |l, x| l.tensor_of(x, DType::U32))?;
        let scale = 1.0 / (d_head as f32).sqrt();
        self.shaped(launch.tensor(&queries)?, layer)?.float(scale).run(self.executor)?;
        Ok(queries)
    }

    /// Attention of all rows of sequences with few new ones, to their rows of `y`.
    fn decode(&self, layer: usize, step: &CudaStep, [queries, y]: [&Tensor; 2]) -> Result<()> {
        let KvGeometry { n_heads, n_kv_heads, d_head, .. } = self.geometry;
        let work = &step.plan.decode;
        let n_queries = work.max_rows * self.geometry.group();
        let kernel = self.decode.kernel(n_queries);
        let grid = [work.n_tasks, n_kv_heads * n_queries.div_ceil(kernel.queries), 1];
        let (rows, tables) = (step.section(|s| &s.rows)?, step.section(|s| &s.tables)?);
        let tasks = step.section(|s| &s.tasks)?;
        let geometry = LaunchGeometry { grid, threads: DECODE_THREADS, shared_bytes: kernel.shared_bytes() };
        let launch = self.launch(kernel.name, geometry).tensor(queries)?;
        let launch = [&rows, &tables, &tasks].into_iter().try_fold(launch, |l, x| l.tensor_of(x, DType::U32))?;
        let launch = launch.tensor(y)?;
        let launch = match &step.partials {
            Some([sums, weights]) => launch.tensor_of(sums, DType::F32)?.tensor_of(weights, DType::F32)?,
            None => launch.optional(None)?.optional(None)?,
        };
        let launch = self.shaped(launch, layer)?;
        kernel.lanes.into_iter().try_fold(launch, Launch::size)?.run(self.executor)?;
        let Some([sums, weights]) = &step.partials else { return Ok(()) };
        let joins = step.section(|s| &s.joins)?;
        let geometry = LaunchGeometry { grid: [work.n_joins, n_heads, 1], ..of_elements(d_head) };
        let launch = self.launch("paged_join", geometry).tensor_of(sums, DType::F32)?.tensor_of(weights, DType::F32)?;
        launch.tensor_of(&joins, DType::U32)?.tensor(y)?.size(n_heads)?.size(d_head)?.run(self.executor)
    }

    /// Attention of a sequence with many new rows, to their rows of `y`: tile by tile where the GPU has a kernel for
    /// such heads, else by products.
    fn prefill(&self, layer: usize, step: &CudaStep, work: &PrefillWork, [queries, y]: [&Tensor; 2]) -> Result<()> {
        let KvGeometry { n_heads, d_head, .. } = self.geometry;
        let is_tiled = tiled_attention::is_available(self.executor, self.dtype, d_head);
        let [keys, values] = self.gather(layer, step, work)?; // (n_kv_heads, n_pages PAGE_LEN, d_head)
        for piece in &work.pieces {
            let rows = y.narrow(0, piece.row, piece.n)?;
            // (n_heads, n, d_head)
            let queries = queries.narrow(0, piece.row * n_heads * d_head, piece.n * n_heads * d_head)?;
            let tensors = PrefillTensors { queries: &queries, keys: &keys, values: &values, rows: &rows };
            if is_tiled {
                self.attend_by_tiles(piece, work.n_keys, &tensors)?;
            } else {
                self.attend_by_products(piece, work.n_keys, &tensors)?;
            }
        }
        Ok(())
    }

    /// Attention of a piece without scores in memory.
    fn attend_by_tiles(&self, piece: &PrefillChunk, n_keys: usize, tensors: &PrefillTensors<'_>) -> Result<()> {
        let KvGeometry { n_heads, n_kv_heads, d_head, .. } = self.geometry;
        let attention = TiledAttention {
            y: Heads { tensor: tensors.rows, distances: [0, d_head, n_heads * d_head] },
            queries: Heads { tensor: tensors.queries, distances: [0, piece.n * d_head, d_head] },
            keys: Heads { tensor: tensors.keys, distances: [0, pages_for(n_keys) * PAGE_LEN * d_head, d_head] },
            values: tensors.values,
            sizes: AttentionSizes { batch: 1, n_heads, n_kv_heads, n_queries: piece.n, n_keys, d_head },
            mask: KeyMask::Causal { start: piece.start },
            // The queries are scaled already.
            scale: 1.0,
        };
        attention.run(self.executor)
    }

    /// Attention of a piece by matrix products with a softmax in between, some key-value heads at a time.
    fn attend_by_products(&self, piece: &PrefillChunk, n_keys: usize, tensors: &PrefillTensors<'_>) -> Result<()> {
        let KvGeometry { n_heads, n_kv_heads, d_head, .. } = self.geometry;
        let (group, width) = (self.geometry.group(), pages_for(n_keys) * PAGE_LEN);
        let queries = tensors.queries.reshape((n_kv_heads, group * piece.n, d_head))?;
        let softmax = MaskedSoftmax { n_keys, keys: KeyMask::Causal { start: piece.start }, scale: 1.0 };
        let at_once = heads_at_once(&self.geometry, piece.n, n_keys, self.dtype.size_in_bytes());
        for first in (0..n_kv_heads).step_by(at_once) {
            let n = at_once.min(n_kv_heads - first);
            let part = |x: &Tensor| x.narrow(0, first, n);
            // (n, group piece.n, width)
            let scores = self.products.matmul(&part(&queries)?, &part(tensors.keys)?.t()?)?;
            softmax.run(self.executor, &scores.reshape((n, group, piece.n, width))?)?;
            let sums = self.products.matmul(&scores, &part(tensors.values)?)?; // (n, group piece.n, d_head)
            let geometry = LaunchGeometry { grid: [piece.n, n * group, 1], ..of_elements(d_head) };
            let place = self.launch("place_heads", geometry).tensor(&sums)?.tensor(tensors.rows)?;
            place.size(piece.n)?.size(first * group)?.size(n_heads)?.size(d_head)?.run(self.executor)?;
        }
        Ok(())
    }

    /// A sequence's keys and values as matrices, 0 after its last position.
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
        self.shaped(launch, layer)?.run(self.executor)?;
        Ok([keys, values])
    }

    fn run(&self, layer: usize, qkv: &Tensor, step: &CudaStep) -> Result<Tensor> {
        let qkv = qkv.contiguous()?;
        let queries = self.rotate_and_store(layer, &qkv, step)?;
        let width = self.geometry.n_heads * self.geometry.d_head;
        let y = self.executor.empty(Shape::from((step.plan.n_rows, width)), self.dtype)?;
        if step.plan.decode.n_tasks > 0 {
            self.decode(layer, step, [&queries, &y])?;
        }
        for work in &step.plan.prefill {
            self.prefill(layer, step, work, [&queries, &y])?;
        }
        Ok(y)
    }
}

impl KvStore for CudaPages {
    fn page_bytes(&self) -> usize {
        self.geometry.position_bytes(self.dtype) * PAGE_LEN
    }

    fn pages_at_once(&self) -> usize {
        self.slab_pages
    }

    fn allocate(&mut self, page: PageId) -> Result<()> {
        let slab = page.index() / self.slab_pages;
        if self.slabs.len() <= slab {
            self.slabs.resize_with(slab + 1, || None);
        }
        if self.slabs[slab].is_none() {
            let n_words = self.slab_pages * self.page_bytes() / WORD;
            self.slabs[slab] = Some(self.executor.empty(Shape::from(n_words), DType::U32)?);
        }
        Ok(())
    }

    fn begin(&mut self, layout: StepLayout) -> Result<()> {
        self.step = None;
        layout.check(&self.geometry)?;
        let plan = self.plan(&layout)?;
        let words = Tensor::from_slice(&plan.words, plan.words.len(), &self.device)?;
        self.step = Some(CudaStep::new(self, plan, words)?);
        Ok(())
    }

    fn attend(&mut self, layer: usize, qkv: &Tensor) -> Result<Tensor> {
        let Some(step) = &self.step else { candle_core::bail!("attention: no step was begun") };
        let (n_rows, width) = qkv.dims2()?;
        if (n_rows, width) != (step.plan.n_rows, self.geometry.width()) || layer >= self.geometry.n_layers {
            candle_core::bail!(
                "attention: {n_rows} x {width} in layer {layer} for {} x {} of {} layers",
                step.plan.n_rows,
                self.geometry.width(),
                self.geometry.n_layers
            );
        }
        self.run(layer, qkv, step)
    }

    fn replays(&self) -> bool {
        !self.graphs.is_off()
    }

    fn replay(&mut self, step: GreedyStep, forward: GreedyForward<'_>) -> Result<Option<Vec<Option<u32>>>> {
        self.replay_step(step, forward)
    }
}

/// A thread for each element of a short row, in whole warps.
fn of_elements(n: usize) -> LaunchGeometry {
    LaunchGeometry { grid: [1, 1, 1], threads: n.next_multiple_of(WARP).min(256), shared_bytes: 0 }
}
