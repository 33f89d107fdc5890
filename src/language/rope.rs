//! Rotary position embeddings (arXiv 2104.09864) and the scalings that released checkpoints use.
//!
//! Reference: `modeling_rope_utils.py` of Hugging Face transformers; halves are rotated, not pairs.

use std::f32::consts::PI;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Device, Layout, MetalStorage, Result, Shape, Tensor};

/// How frequencies are changed to reach beyond the length of the pretraining.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by a factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Dynamic NTK: the base grows once a sequence is longer than the original context.
    DynamicNtk {
        /// The factor.
        factor: f32,
        /// The context of the pretraining, in positions.
        original_context: f32,
    },
    /// Llama 3.1's: long waves divided by a factor, short ones kept, a smooth passage between.
    Llama3 {
        /// The factor.
        factor: f32,
        /// Waves longer than the original context over this are scaled.
        low_freq_factor: f32,
        /// Waves shorter than the original context over this are kept.
        high_freq_factor: f32,
        /// The context of the pretraining, in positions.
        original_context: f32,
    },
}

/// Cosines and sines for the positions from 0.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// `(capacity, d_head / 2)`.
    cos: Tensor,
    /// `(capacity, d_head / 2)`.
    sin: Tensor,
}

impl RopeTable {
    /// Tables for `capacity` positions.
    ///
    /// # Errors
    /// When candle fails.
    pub fn new(inv_freq: &[f32], capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        let half = inv_freq.len();
        let inv_freq = Tensor::from_slice(inv_freq, (1, half), device)?;
        let positions = Tensor::arange(0u32, capacity as u32, device)?.to_dtype(DType::F32)?.reshape((capacity, 1))?;
        let angles = positions.matmul(&inv_freq)?; // (capacity, d_head / 2)
        Ok(Self { cos: angles.cos()?.to_dtype(dtype)?, sin: angles.sin()?.to_dtype(dtype)? })
    }

    /// The angles of `s` positions from `position` on.
    ///
    /// # Errors
    /// When a position is beyond the table.
    pub fn range(&self, position: usize, s: usize) -> Result<RopeAngles> {
        Ok(RopeAngles { cos: self.cos.narrow(0, position, s)?, sin: self.sin.narrow(0, position, s)? })
    }

    /// The angles of any positions.
    ///
    /// # Shapes
    /// `positions (B, S)`, u32.
    ///
    /// # Errors
    /// When a position is beyond the table.
    pub fn at(&self, positions: &Tensor) -> Result<RopeAngles> {
        let (b, s) = positions.dims2()?;
        let pick = |table: &Tensor| table.index_select(&positions.flatten_all()?, 0)?.reshape((b, s, ()));
        Ok(RopeAngles { cos: pick(&self.cos)?, sin: pick(&self.sin)? })
    }
}

/// Cosines and sines for the positions of a sequence, or of each sequence of a batch.
#[derive(Debug, Clone)]
pub struct RopeAngles {
    /// `(S, d_head / 2)` or `(B, S, d_head / 2)`.
    cos: Tensor,
    /// As `cos`.
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
    pub fn rotate(&self, x: &Tensor) -> Result<Tensor> {
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

/// Hands on the rotated values, and rotates gradients back.
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

/// The `d_head / 2` angular frequencies of a base and a scaling, for a sequence of up to `length` positions.
pub fn inverse_frequencies(d_head: usize, theta: f32, scaling: RopeScaling, length: usize) -> Vec<f32> {
    let theta = scaling.base(theta, d_head, length);
    let plain = (0..d_head / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / d_head as f32));
    plain.map(|frequency| scaling.apply(frequency)).collect()
}

impl RopeScaling {
    /// The length that decides the frequencies: of dynamic NTK the sequence's, but not below the original context. Keys of
    /// sequences for which it differs do not go together.
    pub fn deciding_length(self, length: usize) -> usize {
        match self {
            Self::DynamicNtk { original_context, .. } => length.max(original_context as usize),
            _ => 0,
        }
    }

    /// Of dynamic NTK `base (s len / ctx - (s - 1)) ^ (d / (d - 2))` once `len` is above `ctx`.
    fn base(self, theta: f32, d_head: usize, length: usize) -> f32 {
        match self {
            Self::DynamicNtk { factor, original_context } if length as f32 > original_context => {
                let grown = f64::from(factor) * length as f64 / f64::from(original_context) - (f64::from(factor) - 1.0);
                let power = d_head as f64 / (d_head as f64 - 2.0).max(1.0);
                (f64::from(theta) * grown.powf(power)) as f32
            }
            _ => theta,
        }
    }

    fn apply(self, frequency: f32) -> f32 {
        match self {
            Self::None | Self::DynamicNtk { .. } => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let wavelength = 2.0 * PI / frequency;
                if wavelength < original_context / high_freq_factor {
                    frequency
                } else if wavelength > original_context / low_freq_factor {
                    frequency / factor
                } else {
                    let smooth =
                        (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_have_their_gradients_at_any_positions() {
        use crate::nn::finite_difference::{assert_gradients, random};
        let table = RopeTable::new(&[1.0, 0.3], 9, DType::F32, &Device::Cpu).expect("small");
        let positions = Tensor::new(&[[0u32, 5, 2], [8, 1, 1]], &Device::Cpu).expect("small");
        let angles = table.at(&positions).expect("all below 9");
        assert_gradients(&[random((2, 2, 3, 4), 1)], |t| angles.rotate(&t[0]));
    }

    #[test]
    fn a_range_of_positions_is_those_positions() {
        let table = RopeTable::new(&[1.0, 0.3], 9, DType::F32, &Device::Cpu).expect("small");
        let x = crate::nn::finite_difference::random((1, 2, 3, 4), 1);
        let positions = Tensor::new(&[[4u32, 5, 6]], &Device::Cpu).expect("small");
        let rotated = |angles: Result<RopeAngles>| {
            angles.and_then(|angles| angles.rotate(&x)?.flatten_all()?.to_vec1::<f32>()).expect("fits")
        };
        assert_eq!(rotated(table.range(4, 3)), rotated(table.at(&positions)));
    }

    #[test]
    fn linear_scaling_divides_and_llama3_keeps_the_short_waves() {
        assert_eq!(inverse_frequencies(4, 100.0, RopeScaling::None, 64), [1.0, 0.1]);
        assert_eq!(inverse_frequencies(4, 100.0, RopeScaling::Linear { factor: 4.0 }, 64), [0.25, 0.025]);
        let llama3 =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 40.0 };
        // Waves of 6.3 (under 40 / 4) and 62.8 (over 40 / 1) positions.
        assert_eq!(inverse_frequencies(4, 100.0, llama3, 64), [1.0, 0.1 / 8.0]);
    }

    #[test]
    fn dynamic_ntk_grows_the_base_beyond_the_original_context() {
        let ntk = RopeScaling::DynamicNtk { factor: 2.0, original_context: 40.0 };
        assert_eq!(inverse_frequencies(4, 100.0, ntk, 40), [1.0, 0.1]);
        // Twice the context: 100 (2 x 2 - 1) ^ (4 / 2) = 900.
        let grown = inverse_frequencies(4, 100.0, ntk, 80);
        assert!(grown[0] == 1.0 && (grown[1] - 1.0 / 30.0).abs() < 1e-6, "{grown:?}");
        assert_eq!([10, 40, 41].map(|n| ntk.deciding_length(n)), [40, 40, 41]);
        assert_eq!(RopeScaling::None.deciding_length(9), 0);
    }
}
