//! Paged key-value store on a GPU, in f32, f16 and bf16: `pages.cu`, `paged_decode.cu` and `paged_tiles.cu`.
//!
//! Pages are allocated in slabs; kernels receive block tables of addresses, so a sequence's pages may be anywhere. The
//! metadata of a step is uploaded once (`step_plan`) for all layers. A layer is one launch that rotates and stores, one
//! that attends for all sequences with few new rows, one that joins their partial results, and the prefill of each
//! longer chunk (`paged_prefill`).

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::decode_graph::{DecodeGraphs, PADDING_PAGE};
use super::launch::{Executor, Launch, LaunchGeometry, WARP, address};
use super::paged_decode::{DECODE_THREADS, DecodeKernels, DecodeVariant};
use super::step_plan::{PageFormat, Sections, StepPlan};
use crate::kernels::candle::CandleKernels;
use crate::kernels::kv::{
    DecodeForward, DecodeOutput, DecodeStep, KvConfig, KvGeometry, KvStore, PAGE_LEN, PageId, StepLayout,
};

/// Bytes of a slab, unless a page is larger.
const SLAB_BYTES: usize = 64 << 20;
/// Maximum number of pages of a slab: 1,024 positions.
const MAX_SLAB_PAGES: usize = 32;
/// Bytes of a word of a step's metadata.
const WORD: usize = size_of::<u32>();

/// Paged keys and values of all layers in GPU memory.
pub(super) struct CudaPages {
    pub(super) geometry: KvGeometry,
    pub(super) dtype: DType,
    pub(super) device: Device,
    pub(super) executor: &'static dyn Executor,
    /// Matrix products of the prefill.
    pub(super) candle: &'static CandleKernels,
    decode: DecodeKernels,
    /// Pages of a slab.
    slab_pages: usize,
    /// Slabs, as words; `None` before a slab is allocated.
    slabs: Vec<Option<Tensor>>,
    /// Page [`PADDING_PAGE`], as words.
    padding_page: Option<Tensor>,
    pub(super) step: Option<CudaStep>,
    pub(super) graphs: DecodeGraphs,
}

/// Current step.
#[derive(Debug)]
pub(super) struct CudaStep {
    plan: StepPlan,
    /// Words of the plan, on the device.
    pub(super) words: Tensor,
    /// Partial results: weighted sums `(n_slots, n_heads, d_head)`, and their `(maximum score, sum of weights)`; `None`
    /// where every row has a single task.
    partials: Option<[Tensor; 2]>,
}

/// Current step with the tensors of a layer.
pub(super) struct StepTensors<'a> {
    pub(super) step: &'a CudaStep,
    /// Rotated and scaled queries, `(n_heads, n, d_head)` of each chunk.
    pub(super) queries: &'a Tensor,
    /// Result `(n_rows, n_heads d_head)`.
    pub(super) y: &'a Tensor,
}

impl CudaStep {
    /// Creates a step of a plan with its words on the device, and allocates its partial results.
    pub(super) fn new(store: &CudaPages, plan: StepPlan, words: Tensor) -> Result<Self> {
        let KvGeometry { n_heads, d_head, .. } = store.geometry;
        let partials = |n| store.executor.empty(Shape::from((plan.decode.n_slots, n_heads, n)), DType::F32);
        let partials = if plan.decode.n_slots > 0 { Some([partials(d_head)?, partials(2)?]) } else { None };
        Ok(Self { plan, words, partials })
    }

    /// Returns a section of the words on the device.
    fn section(&self, select: impl Fn(&Sections) -> &std::ops::Range<usize>) -> Result<Tensor> {
        let section = select(&self.plan.sections);
        self.words.narrow(0, section.start, section.len())
    }
}

impl CudaPages {
    /// Creates an empty store on the device of an executor.
    ///
    /// # Errors
    /// When the geometry is invalid, the head width is not supported, or keys and values are requested in another
    /// precision than the activations.
    pub(super) fn new(
        config: &KvConfig<'_>,
        executor: &'static dyn Executor,
        candle: &'static CandleKernels,
    ) -> Result<Self> {
        let (geometry, dtype, device) = (config.geometry, config.as_activations()?, config.device);
        geometry.check()?;
        let Some(decode) = DecodeKernels::new(executor, &geometry, dtype) else {
            candle_core::bail!("attention: unsupported heads of width {} for paged kernels", geometry.d_head)
        };
        let page = geometry.position_bytes(dtype) * PAGE_LEN;
        let slab_pages = (SLAB_BYTES / page.max(1)).clamp(1, MAX_SLAB_PAGES);
        let (device, slabs, graphs) = (device.clone(), Vec::new(), DecodeGraphs::default());
        let (padding_page, step) = (None, None);
        Ok(Self { geometry, dtype, device, executor, candle, decode, slab_pages, slabs, padding_page, step, graphs })
    }

    /// Returns whether the head width of a geometry is supported.
    pub(super) fn is_supported(geometry: &KvGeometry) -> bool {
        DecodeVariant::new(geometry).is_some()
    }

    /// Plans a step over the allocated pages.
    pub(super) fn plan(&self, layout: &StepLayout) -> Result<StepPlan> {
        let (geometry, element_bytes) = (self.geometry, self.dtype.size_in_bytes());
        let format = PageFormat { geometry, element_bytes, max_decode_positions: self.decode.max_positions() };
        StepPlan::new(layout, &format, |page| self.page_address(page))
    }

    /// Begins a planned step.
    pub(super) fn begin_planned(&mut self, plan: StepPlan) -> Result<()> {
        let words = Tensor::from_slice(&plan.words, plan.words.len(), &self.device)?;
        self.step = Some(CudaStep::new(self, plan, words)?);
        Ok(())
    }

    /// Allocates [`PADDING_PAGE`].
    pub(super) fn allocate_padding_page(&mut self) -> Result<()> {
        if self.padding_page.is_none() {
            self.padding_page = Some(self.executor.empty(Shape::from(self.page_bytes() / WORD), DType::U32)?);
        }
        Ok(())
    }

    /// Returns the address of a page.
    fn page_address(&self, page: PageId) -> Result<u64> {
        if let (PADDING_PAGE, Some(page)) = (page, &self.padding_page) {
            return address(page);
        }
        let (slab, offset) = (page.index() / self.slab_pages, page.index() % self.slab_pages);
        match self.slabs.get(slab) {
            Some(Some(slab)) => Ok(address(slab)? + (offset * self.page_bytes()) as u64),
            _ => candle_core::bail!("attention: page {} is not allocated", page.0),
        }
    }

    /// Creates a launch in the store's precision.
    pub(super) fn launch(&self, kernel: &'static str, geometry: LaunchGeometry) -> Launch<'_> {
        Launch::new(kernel, self.dtype, geometry)
    }

    /// Adds the arguments of `PageShape` of `pages.cuh`: geometry and layer.
    pub(super) fn with_page_shape<'l>(&self, launch: Launch<'l>, layer: usize) -> Result<Launch<'l>> {
        let KvGeometry { n_heads, n_kv_heads, d_head, .. } = self.geometry;
        launch.size(n_heads)?.size(n_kv_heads)?.size(d_head)?.size(layer)
    }

    /// Rotates queries and keys, and stores keys and values. Returns the scaled queries, `(n_heads, n, d_head)` of each
    /// chunk one after the other.
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
        self.with_page_shape(launch.tensor(&queries)?, layer)?.float(scale).run(self.executor)?;
        Ok(queries)
    }

    /// Computes the attention of all sequences with few new positions to their rows of `y`.
    fn decode(&self, layer: usize, tensors: &StepTensors<'_>) -> Result<()> {
        let StepTensors { step, queries, y } = *tensors;
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
        let launch = self.with_page_shape(launch, layer)?;
        kernel.lanes.into_iter().try_fold(launch, Launch::size)?.run(self.executor)?;
        let Some([sums, weights]) = &step.partials else { return Ok(()) };
        let joins = step.section(|s| &s.joins)?;
        let geometry = LaunchGeometry { grid: [work.n_joins, n_heads, 1], ..thread_per_element(d_head) };
        let launch = self.launch("paged_join", geometry).tensor_of(sums, DType::F32)?.tensor_of(weights, DType::F32)?;
        launch.tensor_of(&joins, DType::U32)?.tensor(y)?.size(n_heads)?.size(d_head)?.run(self.executor)
    }

    /// Computes the attention of a layer for all rows of a step.
    fn run(&self, layer: usize, qkv: &Tensor, step: &CudaStep) -> Result<Tensor> {
        let qkv = qkv.contiguous()?;
        let queries = self.rotate_and_store(layer, &qkv, step)?;
        let width = self.geometry.n_heads * self.geometry.d_head;
        let y = self.executor.empty(Shape::from((step.plan.n_rows, width)), self.dtype)?;
        let tensors = StepTensors { step, queries: &queries, y: &y };
        if step.plan.decode.n_tasks > 0 {
            self.decode(layer, &tensors)?;
        }
        for work in &step.plan.prefill {
            self.prefill(layer, work, &tensors)?;
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
        self.begin_planned(plan)
    }

    fn attend(&mut self, layer: usize, qkv: &Tensor) -> Result<Tensor> {
        let Some(step) = &self.step else { candle_core::bail!("attention: no current step") };
        let (n_rows, width) = qkv.dims2()?;
        if (n_rows, width) != (step.plan.n_rows, self.geometry.width()) || layer >= self.geometry.n_layers {
            candle_core::bail!(
                "attention: rows {n_rows} x {width} of layer {layer}, not {} x {} of {} layers",
                step.plan.n_rows,
                self.geometry.width(),
                self.geometry.n_layers
            );
        }
        self.run(layer, qkv, step)
    }

    fn runs_decode(&self) -> bool {
        !self.graphs.is_disabled()
    }

    fn run_decode(&mut self, step: DecodeStep, forward: DecodeForward<'_>) -> Result<Option<DecodeOutput>> {
        self.run_decode_step(step, forward)
    }
}

/// Returns one thread for each element of a short row, in whole warps.
pub(super) fn thread_per_element(n: usize) -> LaunchGeometry {
    LaunchGeometry { grid: [1, 1, 1], threads: n.next_multiple_of(WARP).min(256), shared_bytes: 0 }
}
