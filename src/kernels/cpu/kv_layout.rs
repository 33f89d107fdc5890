//! Layout of keys and values in the pages of the CPU's key-value store, and the writing of one position. `kv_pages`
//! owns the memory, `paged_attention` reads it.

use candle_core::{DType, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::gemm::{GemmKernel, PanelElements};
use super::half_precision::{halves, halves_mut};
use crate::device::DTypeSpec;
use crate::error::Error;
use crate::kernels::kv::{KvConfig, KvGeometry, PAGE_LEN};

/// Number of elements of a key that are converted at a time.
const CONVERTED: usize = 32;

/// Layout of keys and values in a page: for each layer, the key panels of all heads, then the value panels of all
/// heads.
///
/// A head's keys are `PAGE_LEN / width` panels `(d_head, width)`, one column a position; its values are
/// `ceil(d_head / width)` panels `(PAGE_LEN, width)`, one row a position.
///
/// Lengths and offsets are in f32 slots of the page: a slot holds one element in f32, or two in f16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageLayout {
    d_head: usize,
    n_kv_heads: usize,
    width: usize,
    precision: KvPrecision,
}

/// Precision of stored keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvPrecision {
    F32,
    F16,
}

impl KvPrecision {
    /// Resolves the precision that is asked for; by default f16 beside quantized weights, whose error is larger.
    pub(super) fn resolve(config: &KvConfig<'_>) -> Result<Self> {
        match (config.precision, config.quantization) {
            (DTypeSpec::Fixed(DType::F16), _) | (DTypeSpec::Auto, Some(_)) => Ok(Self::F16),
            (DTypeSpec::Fixed(DType::F32), _) | (DTypeSpec::Auto, None) => Ok(Self::F32),
            (DTypeSpec::Fixed(dtype), _) => {
                let rule = format!("keys and values in {} have no kernel on the CPU", dtype.as_str());
                Err(Error::invalid(rule).with_hint("f32, f16").into())
            }
        }
    }

    /// Elements of an f32 slot.
    fn per_slot(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::F16 => 2,
        }
    }
}

impl PageLayout {
    pub(super) fn new(geometry: &KvGeometry, kernel: &GemmKernel, precision: KvPrecision) -> Self {
        Self { d_head: geometry.d_head, n_kv_heads: geometry.n_kv_heads, width: kernel.width, precision }
    }

    /// Number of elements of a head's keys; a page has an even number of positions.
    fn n_keys(&self) -> usize {
        PAGE_LEN * self.d_head
    }

    /// Number of elements of a head's values.
    fn n_values(&self) -> usize {
        PAGE_LEN * self.d_head.next_multiple_of(self.width)
    }

    fn keys_len(&self) -> usize {
        self.n_keys() / self.precision.per_slot()
    }

    fn values_len(&self) -> usize {
        self.n_values() / self.precision.per_slot()
    }

    pub(super) fn layer_len(&self) -> usize {
        self.n_kv_heads * (self.keys_len() + self.values_len())
    }

    fn keys_at(&self, layer: usize, head: usize) -> usize {
        layer * self.layer_len() + head * self.keys_len()
    }

    fn values_at(&self, layer: usize, head: usize) -> usize {
        layer * self.layer_len() + self.n_kv_heads * self.keys_len() + head * self.values_len()
    }

    /// Returns the stored key panels of a head: see [`Self::elements`].
    pub(crate) fn keys<'p>(&self, page: &'p [f32], layer: usize, head: usize) -> &'p [f32] {
        &page[self.keys_at(layer, head)..][..self.keys_len()]
    }

    /// Returns the stored value panels of a head: see [`Self::elements`].
    pub(crate) fn values<'p>(&self, page: &'p [f32], layer: usize, head: usize) -> &'p [f32] {
        &page[self.values_at(layer, head)..][..self.values_len()]
    }

    /// Returns the elements of stored panels in their stored precision.
    pub(crate) fn elements<'p>(&self, stored: &'p [f32]) -> PanelElements<'p> {
        match self.precision {
            KvPrecision::F32 => PanelElements::F32(stored),
            KvPrecision::F16 => PanelElements::F16(halves(stored)),
        }
    }

    /// Stores a key and a value in a slot of a page.
    pub(super) fn store(&self, page: &mut [f32], slot: KvSlot, key: &[f32], value: &[f32]) {
        let KvSlot { layer, head, at } = slot;
        let keys = self.keys_at(layer, head)..;
        let values = self.values_at(layer, head)..;
        match self.precision {
            KvPrecision::F32 => {
                self.store_key(&mut page[keys], at, key, |x, to| to.copy_from_slice(x));
                self.store_value(&mut page[values], at, value, |x, to| to.copy_from_slice(x));
            }
            KvPrecision::F16 => {
                let convert = |x: &[f32], to: &mut [f16]| to.convert_from_f32_slice(x);
                self.store_key(halves_mut(&mut page[keys]), at, key, convert);
                self.store_value(halves_mut(&mut page[values]), at, value, convert);
            }
        }
    }

    /// Stores a key in a column. `convert` converts elements to as many in the stored precision.
    fn store_key<T: Copy + Default>(&self, keys: &mut [T], at: usize, key: &[f32], convert: impl Fn(&[f32], &mut [T])) {
        let column = at / self.width * self.d_head * self.width + at % self.width;
        let mut column = keys[column..].iter_mut().step_by(self.width);
        let mut converted = [T::default(); CONVERTED];
        for key in key.chunks(CONVERTED) {
            let converted = &mut converted[..key.len()];
            convert(key, converted);
            converted.iter().zip(column.by_ref()).for_each(|(&from, to)| *to = from);
        }
    }

    /// Stores a value in a row of each panel.
    fn store_value<T>(&self, values: &mut [T], at: usize, value: &[f32], convert: impl Fn(&[f32], &mut [T])) {
        for (panel, value) in value.chunks(self.width).enumerate() {
            convert(value, &mut values[(panel * PAGE_LEN + at) * self.width..][..value.len()]);
        }
    }
}

/// Slot of a page: a position of one head in one layer.
#[derive(Clone, Copy)]
pub(super) struct KvSlot {
    pub(super) layer: usize,
    pub(super) head: usize,
    /// Index of the position in the page.
    pub(super) at: usize,
}
