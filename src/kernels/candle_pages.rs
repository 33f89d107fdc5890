//! Paged key-value store of candle tensors, for any device and precision.
//!
//! Pages are allocated in slabs of [`SLAB_PAGES`]. Consecutive pages of a sequence within a slab form a span, a view
//! that a matrix product reads without a copy: the scores over the spans are concatenated, and the weighted sums over
//! them are accumulated.

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor};

use super::Kernels;
use super::candle::CandleKernels;
use super::kv::{KvGeometry, KvStore, PAGE_LEN, PageId, StepLayout, StepRows, pages_for};

/// Pages of a slab, the unit of allocation: 1,024 positions.
const SLAB_PAGES: usize = 32;

/// Paged keys and values of all layers.
pub(crate) struct CandlePages {
    geometry: KvGeometry,
    dtype: DType,
    device: Device,
    kernels: &'static CandleKernels,
    /// Keys and values `(n_kv_heads, SLAB_PAGES * PAGE_LEN, d_head)` of each layer of each slab; `None` before the slab
    /// is allocated.
    slabs: Vec<Option<Vec<[Tensor; 2]>>>,
    step: Option<CandleStep>,
}

/// Current step.
struct CandleStep {
    sequences: Vec<StepRows>,
    /// Cosines and sines of the rotary angles: `(sum of n, d_head / 2)`.
    cos: Tensor,
    sin: Tensor,
}

/// Consecutive positions of a sequence within one slab.
struct SlabSpan {
    slab: usize,
    positions: Range<usize>,
}

impl CandlePages {
    /// Creates an empty store.
    ///
    /// # Errors
    /// When the geometry is invalid.
    pub(crate) fn new(geometry: KvGeometry, dtype: DType, device: &Device) -> Result<Self> {
        geometry.check()?;
        Ok(Self {
            geometry,
            dtype,
            device: device.clone(),
            kernels: CandleKernels::of(device, dtype),
            slabs: Vec::new(),
            step: None,
        })
    }

    fn slab(&self, slab: usize, layer: usize) -> Result<&[Tensor; 2]> {
        let found = self.slabs.get(slab).and_then(Option::as_ref).and_then(|layers| layers.get(layer));
        found
            .ok_or_else(|| candle_core::Error::msg(format!("attention: slab {slab} of layer {layer} is not allocated")))
    }

    /// Returns heads `first .. first + n` of `qkv`: `(1, n, sum of n, d_head)`.
    fn heads(&self, qkv: &Tensor, first: usize, n: usize) -> Result<Tensor> {
        let d = self.geometry.d_head;
        let part = qkv.narrow(1, first * d, n * d)?.reshape(((), n, d))?;
        part.transpose(0, 1)?.contiguous()?.unsqueeze(0)
    }

    /// Writes the keys and values of a step, `(n_kv_heads, sum of n, d_head)` each, to its pages.
    fn store(&self, layer: usize, step: &CandleStep, [keys, values]: [&Tensor; 2]) -> Result<()> {
        let mut row = 0;
        for rows in &step.sequences {
            for SlabSpan { slab, positions } in spans(&rows.pages, rows.start..rows.end()) {
                let n = positions.len();
                for (to, from) in self.slab(slab, layer)?.iter().zip([keys, values]) {
                    to.slice_set(&from.narrow(1, row, n)?.contiguous()?, 1, positions.start)?;
                }
                row += n;
            }
        }
        Ok(())
    }

    /// Computes the attention of one sequence's new rows: `queries (n_heads, n, d_head)` to `(n, n_heads d_head)`.
    fn attend_sequence(&self, layer: usize, rows: &StepRows, queries: &Tensor) -> Result<Tensor> {
        let KvGeometry { n_heads, n_kv_heads, d_head, .. } = self.geometry;
        let (n, n_keys, group) = (rows.n, rows.end(), self.geometry.group());
        let scale = 1.0 / (d_head as f64).sqrt();
        let queries = (queries.contiguous()? * scale)?.reshape((n_kv_heads, group * n, d_head))?;
        let spans = spans(&rows.pages, 0..n_keys);
        let view = |span: &SlabSpan, i: usize| {
            self.slab(span.slab, layer)?[i].narrow(1, span.positions.start, span.positions.len())
        };
        let scores =
            spans.iter().map(|span| self.kernels.matmul(&queries, &view(span, 0)?.t()?)).collect::<Result<Vec<_>>>()?;
        let scores = if let [scores] = scores.as_slice() { scores.clone() } else { Tensor::cat(&scores, D::Minus1)? };
        let scores = match n {
            1 => scores,
            _ => scores.reshape((n_heads, n, n_keys))?.broadcast_add(&causal_bias(n, n_keys, &scores)?)?,
        };
        let weights = self.kernels.softmax(&scores)?.reshape((n_kv_heads, group * n, n_keys))?;
        let (mut first, mut sum) = (0, None);
        for span in &spans {
            let part = weights.narrow(2, first, span.positions.len())?.contiguous()?;
            let part = self.kernels.matmul(&part, &view(span, 1)?)?; // (n_kv_heads, group n, d_head)
            sum = Some(match sum {
                None => part,
                Some(sum) => (sum + part)?,
            });
            first += span.positions.len();
        }
        let sum = sum.ok_or_else(|| candle_core::Error::msg("attention: no keys"))?;
        sum.reshape((n_heads, n, d_head))?.transpose(0, 1)?.reshape((n, n_heads * d_head))
    }
}

impl KvStore for CandlePages {
    fn page_bytes(&self) -> usize {
        self.geometry.position_bytes(self.dtype) * PAGE_LEN
    }

    fn pages_at_once(&self) -> usize {
        SLAB_PAGES
    }

    fn allocate(&mut self, page: PageId) -> Result<()> {
        let slab = page.index() / SLAB_PAGES;
        if self.slabs.len() <= slab {
            self.slabs.resize_with(slab + 1, || None);
        }
        if self.slabs[slab].is_none() {
            let shape = (self.geometry.n_kv_heads, SLAB_PAGES * PAGE_LEN, self.geometry.d_head);
            let zeros = || Tensor::zeros(shape, self.dtype, &self.device);
            let layers = (0..self.geometry.n_layers).map(|_| Ok([zeros()?, zeros()?])).collect::<Result<_>>()?;
            self.slabs[slab] = Some(layers);
        }
        Ok(())
    }

    fn begin(&mut self, layout: StepLayout) -> Result<()> {
        layout.check(&self.geometry)?;
        let (n, half) = (layout.n_rows(), self.geometry.d_head / 2);
        let angles = |values| Tensor::from_vec(values, (n, half), &self.device)?.to_dtype(self.dtype);
        let StepLayout { sequences, cos, sin } = layout;
        self.step = Some(CandleStep { sequences, cos: angles(cos)?, sin: angles(sin)? });
        Ok(())
    }

    fn attend(&mut self, layer: usize, qkv: &Tensor) -> Result<Tensor> {
        let Some(step) = &self.step else { candle_core::bail!("attention: no current step") };
        let KvGeometry { n_heads, n_kv_heads, .. } = self.geometry;
        let rotate = |x: Tensor| candle_nn::rotary_emb::rope(&x, &step.cos, &step.sin)?.squeeze(0);
        let queries = rotate(self.heads(qkv, 0, n_heads)?)?;
        let keys = rotate(self.heads(qkv, n_heads, n_kv_heads)?)?;
        let values = self.heads(qkv, n_heads + n_kv_heads, n_kv_heads)?.squeeze(0)?;
        self.store(layer, step, [&keys, &values])?;
        let mut first = 0;
        let parts = step.sequences.iter().map(|rows| {
            let part = self.attend_sequence(layer, rows, &queries.narrow(1, first, rows.n)?);
            first += rows.n;
            part
        });
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
    }
}

/// Returns the spans of a range of positions of a block table.
fn spans(pages: &[PageId], positions: Range<usize>) -> Vec<SlabSpan> {
    let mut spans: Vec<SlabSpan> = Vec::new();
    let mut position = positions.start;
    while position < positions.end {
        let (page, offset) = (pages[position / PAGE_LEN].index(), position % PAGE_LEN);
        let n = (PAGE_LEN - offset).min(positions.end - position);
        let (slab, first) = (page / SLAB_PAGES, page % SLAB_PAGES * PAGE_LEN + offset);
        match spans.last_mut() {
            Some(span) if span.slab == slab && span.positions.end == first => span.positions.end += n,
            _ => spans.push(SlabSpan { slab, positions: first..first + n }),
        }
        position += n;
    }
    debug_assert!(pages.len() >= pages_for(positions.end));
    spans
}

/// Returns the additive causal mask `(S, K)` of the last `s` of `n_keys` positions: 0 for visible keys, minus infinity
/// elsewhere.
fn causal_bias(s: usize, n_keys: usize, like: &Tensor) -> Result<Tensor> {
    let past = n_keys - s;
    let bias: Vec<f32> =
        (0..s).flat_map(|i| (0..n_keys).map(move |j| if j <= past + i { 0.0 } else { f32::NEG_INFINITY })).collect();
    Tensor::from_vec(bias, (s, n_keys), like.device())?.to_dtype(like.dtype())
}
