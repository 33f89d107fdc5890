//! Rotation of queries and keys by tables of cosines and sines, with its gradient.
//!
//! Halves of a head are rotated, `x cos + rotate_half(x) sin` (`modeling_llama.py`), not pairs. For whole sequences
//! without a cache, as in training; with a cache the kernels rotate as they store
//! ([`KvStore::attend`](crate::kernels::kv::KvStore::attend)).

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Device, Layout, MetalStorage, Result, Shape, Tensor};

use super::{Rope, RopeRow};

/// Cosines and sines for the positions from 0.
#[derive(Debug, Clone)]
pub(crate) struct RopeTable {
    /// `(capacity, d_head / 2)`.
    cos: Tensor,
    /// `(capacity, d_head / 2)`.
    sin: Tensor,
}

impl RopeTable {
    /// Makes the table of `capacity` positions, of a prompt of length 0: dynamic NTK keeps its base up to the original
    /// context.
    ///
    /// # Errors
    /// When candle fails.
    pub(crate) fn new(rope: &Rope, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        let (cos, sin) = rope.angles((0..capacity).map(|position| RopeRow { position, n_prompt: 0 }));
        let table = |angles| Tensor::from_vec(angles, (capacity, rope.d_head / 2), device)?.to_dtype(dtype);
        Ok(Self { cos: table(cos)?, sin: table(sin)? })
    }

    /// Returns the angles of positions in any order.
    ///
    /// # Shapes
    /// `positions (B, S)`, u32.
    ///
    /// # Errors
    /// When a position is beyond the table.
    pub(crate) fn at(&self, positions: &Tensor) -> Result<RopeAngles> {
        let (b, s) = positions.dims2()?;
        let pick = |table: &Tensor| table.index_select(&positions.flatten_all()?, 0)?.reshape((b, s, ()));
        Ok(RopeAngles { cos: pick(&self.cos)?, sin: pick(&self.sin)? })
    }
}

/// Cosines and sines for the positions of each sequence of a batch.
#[derive(Debug, Clone)]
pub(crate) struct RopeAngles {
    /// `(B, S, d_head / 2)`.
    cos: Tensor,
    /// Sines, shaped as `cos`.
    sin: Tensor,
}

impl RopeAngles {
    /// Rotates queries or keys.
    ///
    /// # Shapes
    /// `(B, n, S, d_head)`, contiguous, to the same.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(crate) fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let rotate = |x: &Tensor, sin: &Tensor| candle_nn::rotary_emb::rope(x, &self.cos, sin);
        if !x.track_op() {
            return rotate(x, &self.sin);
        }
        // Candle's kernel has no gradient. A rotation is orthogonal: its gradient is the rotation back.
        let forward = rotate(&x.detach(), &self.sin)?;
        let back = Self { cos: self.cos.clone(), sin: self.sin.neg()? };
        x.apply_op2(&forward, Rotated { back })
    }
}

/// Passes the rotated values on, and rotates gradients back.
struct Rotated {
    back: RopeAngles,
}

impl CustomOp2 for Rotated {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, y: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, y: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        y: &MetalStorage,
        layout: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(self.back.rotate(&dy.contiguous()?)?), None))
    }
}
