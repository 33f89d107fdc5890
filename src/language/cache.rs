//! The key-value cache: allocated once for a whole sequence, written in place, never copied.

use candle_core::{DType, Device, Result, Tensor};

use super::llama::LlamaConfig;
use super::rope::RopeTable;

/// Keys and values of all layers, for up to `capacity` positions.
#[derive(Debug)]
pub struct KvCache {
    /// `(1, n_kv_heads, capacity, d_head)` each.
    layers: Vec<(Tensor, Tensor)>,
    rope: RopeTable,
    /// What its frequencies were decided by.
    deciding_length: usize,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache with room for `capacity` positions, of a sequence that begins with a prompt of `prompt`
    /// positions.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(
        config: &LlamaConfig,
        (capacity, prompt): (usize, usize),
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let shape = (1, config.n_kv_heads, capacity, config.d_head);
        let zeros = || Tensor::zeros(shape, dtype, device);
        let layers = (0..config.n_layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        let scaling = config.rope_scaling;
        let rope = RopeTable::new(&config.rope(), (prompt, capacity), dtype, device)?;
        Ok(Self { layers, rope, deciding_length: scaling.deciding_length(prompt), len: 0, capacity })
    }

    /// Positions filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a sequence of up to `length` positions, of which `prompt` are its prompt, may go on in it.
    pub fn serves(&self, config: &LlamaConfig, prompt: usize, length: usize) -> bool {
        self.capacity >= length && self.deciding_length == config.rope_scaling.deciding_length(prompt)
    }

    /// Forgets everything from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes that a cache of `capacity` positions takes.
    pub fn bytes(config: &LlamaConfig, capacity: usize, dtype: DType) -> usize {
        2 * config.n_layers * config.n_kv_heads * capacity * config.d_head * dtype.size_in_bytes()
    }

    /// Makes sure that `new` positions still fit.
    pub(super) fn check_room(&self, new: usize) -> Result<()> {
        if self.len + new > self.capacity {
            candle_core::bail!("kv cache: {} + {new} positions, over its capacity of {}", self.len, self.capacity);
        }
        Ok(())
    }

    pub(super) fn rope(&self) -> &RopeTable {
        &self.rope
    }

    /// Writes the keys and values of new positions into a layer, and gives views of all that the layer holds.
    ///
    /// # Shapes
    /// `k`, `v` `(1, n_kv_heads, S, d_head)`, contiguous; the views `(1, n_kv_heads, len + S, d_head)`.
    pub(super) fn write(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let new = k.dim(2)?;
        let (keys, values) = &self.layers[layer];
        keys.slice_set(k, 2, self.len)?;
        values.slice_set(v, 2, self.len)?;
        Ok((keys.narrow(2, 0, self.len + new)?, values.narrow(2, 0, self.len + new)?))
    }

    /// Counts the new positions, once every layer has written them.
    pub(super) fn advance(&mut self, new: usize) {
        self.len += new;
    }
}
