//! Several sequences that go on from one cached prefix, each for itself: the weights are read once for all of them.
//!
//! Whatever is beside it, a sequence comes out the same: its attention is computed alone, over the prefix and its own positions,
//! and the rows of a product do not touch each other.

use candle_core::{Result, Tensor};

use super::{KvCache, Llama, LlamaConfig};

/// Positions that a branch has room for at first; it doubles when they are full.
const FIRST_ROOM: usize = 64;

/// What one sequence has of its own: keys and values of the positions after the prefix.
#[derive(Debug, Default)]
pub struct Branch {
    /// `(1, n_kv_heads, room, d_head)` each, one pair a layer.
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
    room: usize,
}

impl Branch {
    /// A sequence that has nothing but the prefix.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its own positions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has nothing but the prefix.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `new` more positions.
    fn make_room(&mut self, new: usize, config: &LlamaConfig, like: &Tensor) -> Result<()> {
        let needed = self.len + new;
        if needed <= self.room {
            return Ok(());
        }
        self.room = needed.max(2 * self.room).max(FIRST_ROOM);
        let shape = (1, config.n_kv_heads, self.room, config.d_head);
        let zeros = || Tensor::zeros(shape, like.dtype(), like.device());
        let grown = (0..config.n_layers).map(|i| {
            let pair = (zeros()?, zeros()?);
            if let Some((keys, values)) = self.layers.get(i).filter(|_| self.len > 0) {
                pair.0.slice_set(&keys.narrow(2, 0, self.len)?.contiguous()?, 2, 0)?;
                pair.1.slice_set(&values.narrow(2, 0, self.len)?.contiguous()?, 2, 0)?;
            }
            Ok(pair)
        });
        self.layers = grown.collect::<Result<_>>()?;
        Ok(())
    }

    /// Writes the keys and values of new positions into a layer, and gives all that the layer holds.
    pub(super) fn write(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let (keys, values) = &self.layers[layer];
        let n = self.len + k.dim(2)?;
        keys.slice_set(k, 2, self.len)?;
        values.slice_set(v, 2, self.len)?;
        Ok((keys.narrow(2, 0, n)?.contiguous()?, values.narrow(2, 0, n)?.contiguous()?))
    }
}

impl Llama {
    /// Runs new positions of several branches through all layers, after the prefix that `cache` holds and their own. Its
    /// positions after the prefix serve as scratch.
    ///
    /// # Shapes
    /// `embeds (R, H)`, the positions of one branch after those of the other, as many as `parts` says; to `(R, H)`, before the
    /// final norm.
    ///
    /// # Errors
    /// When the cache has no room for the longest of them.
    pub fn forward_branches(
        &self,
        embeds: &Tensor,
        parts: &mut [(&mut Branch, usize)],
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        for (branch, n) in parts.iter_mut() {
            cache.check_room(branch.len + *n)?;
            branch.make_room(*n, self.config(), embeds)?;
        }
        let x = self.on_workers(|| {
            self.through_layers(embeds, |attention, x, layer| attention.forward_branches(x, layer, parts, cache))
        })?;
        for (branch, n) in parts.iter_mut() {
            branch.len += *n;
        }
        Ok(x)
    }
}
