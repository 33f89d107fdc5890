//! Rotary position embeddings (arXiv 2104.09864) and the scalings that released checkpoints use.
//!
//! Reference: `modeling_rope_utils.py` of Hugging Face transformers; halves are rotated, not pairs.

use std::f32::consts::PI;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Device, Layout, MetalStorage, Result, Shape, Tensor};

/// Scaling of the frequencies beyond the length of the pretraining.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by a factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Dynamic NTK: the base grows once a sequence is longer than the original context. All positions of a prompt have
    /// the frequencies of its length, each later position those of the length that it makes.
    DynamicNtk {
        /// The factor.
        factor: f32,
        /// The context of the pretraining, in positions.
        original_context: f32,
    },
    /// YaRN (arXiv 2309.00071): long waves divided by a factor, short ones kept, a ramp over the channels between;
    /// queries and keys are multiplied by a factor too.
    Yarn {
        /// The factor.
        factor: f32,
        /// Waves with more turns than this over the original context are kept.
        beta_fast: f32,
        /// Waves with fewer turns than this over the original context are divided.
        beta_slow: f32,
        /// Factor of the cosines and sines.
        attention_factor: f32,
        /// The context of the pretraining, in positions.
        original_context: f32,
        /// Rounding of the ends of the ramp.
        ramp: RampEnds,
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

/// Ends of the ramp of YaRN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RampEnds {
    /// At the whole channels outside of it.
    Whole,
    /// Between channels.
    Exact,
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
    /// Makes the tables for `capacity` positions; dynamic NTK keeps its base up to the original context.
    ///
    /// # Errors
    /// When candle fails.
    pub fn new(rope: &Rope, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        let (cos, sin) = rope.angles((0..capacity).map(|position| (position, 0)));
        let table = |angles| Tensor::from_vec(angles, (capacity, rope.d_head / 2), device)?.to_dtype(dtype);
        Ok(Self { cos: table(cos)?, sin: table(sin)? })
    }

    /// Returns the angles of any positions.
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

/// Cosines and sines for the positions of each sequence of a batch.
#[derive(Debug, Clone)]
pub struct RopeAngles {
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

/// The rotary frequencies of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Width of a head.
    pub d_head: usize,
    /// The base.
    pub theta: f32,
    /// The scaling.
    pub scaling: RopeScaling,
}

impl Rope {
    /// Returns the `d_head / 2` angular frequencies for a sequence of `length` positions, which dynamic NTK alone
    /// depends on.
    pub fn inverse_frequencies(&self, length: usize) -> Vec<f32> {
        let theta = self.scaling.base(self.theta, self.d_head, length);
        let plain = |i: usize| 1.0 / theta.powf((2 * i) as f32 / self.d_head as f32);
        let (low, high) = self.ramp();
        let frequency = |i: usize| match self.scaling {
            RopeScaling::Yarn { factor, .. } => {
                // 1 where the wave is kept, 0 where it is divided.
                let kept = 1.0 - ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                plain(i) / factor * (1.0 - kept) + plain(i) * kept
            }
            scaling => scaling.apply(plain(i)),
        };
        (0..self.d_head / 2).map(frequency).collect()
    }

    /// Returns cosines and sines of rows, each with its position and the length of the prompt.
    ///
    /// # Shapes
    /// `(position, prompt)` of each of `S` rows to `(S, d_head / 2)`, row-major, twice.
    pub fn angles(&self, rows: impl Iterator<Item = (usize, usize)>) -> (Vec<f32>, Vec<f32>) {
        let factor = self.scaling.attention_factor();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        let mut known: Option<(usize, Vec<f32>)> = None;
        for (position, prompt) in rows {
            let deciding = self.scaling.deciding_length(prompt);
            let length = if self.scaling.is_dynamic() { deciding.max(position + 1) } else { deciding };
            let (_, frequencies) = match known.take().filter(|(of, _)| *of == length) {
                Some(known) => known,
                None => (length, self.inverse_frequencies(length)),
            };
            for frequency in &frequencies {
                let angle = position as f32 * frequency;
                cos.push(angle.cos() * factor);
                sin.push(angle.sin() * factor);
            }
            known = Some((length, frequencies));
        }
        (cos, sin)
    }

    /// Returns the channels between which YaRN's ramp lies (paper, section 3.2: `find_correction_range`).
    fn ramp(&self) -> (f32, f32) {
        let RopeScaling::Yarn { beta_fast, beta_slow, original_context, ramp, .. } = self.scaling else {
            return (0.0, 1.0);
        };
        let d = self.d_head as f64;
        let channel = |turns: f32| {
            let ratio = f64::from(original_context) / (f64::from(turns) * 2.0 * std::f64::consts::PI);
            d * ratio.ln() / (2.0 * f64::from(self.theta).ln())
        };
        let (low, high) = match ramp {
            RampEnds::Whole => (channel(beta_fast).floor(), channel(beta_slow).ceil()),
            RampEnds::Exact => (channel(beta_fast), channel(beta_slow)),
        };
        let (low, high) = (low.max(0.0), high.min(d - 1.0));
        (low as f32, if low == high { high + 0.001 } else { high } as f32)
    }
}

impl RopeScaling {
    /// Returns the length that decides the frequencies of a prompt of `prompt` positions: of dynamic NTK the prompt's,
    /// but not below the original context. Keys of prompts for which it differs do not go together.
    pub fn deciding_length(self, prompt: usize) -> usize {
        match self {
            Self::DynamicNtk { original_context, .. } => prompt.max(original_context as usize),
            _ => 0,
        }
    }

    /// Returns the factor of the cosines and sines.
    pub fn attention_factor(self) -> f32 {
        match self {
            Self::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    fn is_dynamic(self) -> bool {
        matches!(self, Self::DynamicNtk { .. })
    }

    /// Returns the base; of dynamic NTK `base (s len / ctx - (s - 1)) ^ (d / (d - 2))` once `len` is above `ctx`.
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
            Self::None | Self::DynamicNtk { .. } | Self::Yarn { .. } => frequency,
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

    fn rope(d_head: usize, scaling: RopeScaling) -> Rope {
        Rope { d_head, theta: 100.0, scaling }
    }

    #[test]
    fn rotations_have_their_gradients_at_any_positions() {
        use crate::nn::finite_difference::{assert_gradients, random};
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.5,
            original_context: 8.0,
            ramp: RampEnds::Whole,
        };
        for scaling in [RopeScaling::None, yarn] {
            let table = RopeTable::new(&rope(4, scaling), 9, DType::F32, &Device::Cpu).expect("small");
            let positions = Tensor::new(&[[0u32, 5, 2], [8, 1, 1]], &Device::Cpu).expect("small");
            let angles = table.at(&positions).expect("all below 9");
            assert_gradients(&[random((2, 2, 3, 4), 1)], |t| angles.rotate(&t[0]));
        }
    }

    #[test]
    fn linear_scaling_divides_and_llama3_keeps_the_short_waves() {
        let frequencies = |scaling| rope(4, scaling).inverse_frequencies(64);
        assert_eq!(frequencies(RopeScaling::None), [1.0, 0.1]);
        assert_eq!(frequencies(RopeScaling::Linear { factor: 4.0 }), [0.25, 0.025]);
        let llama3 =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 40.0 };
        // Waves of 6.3 (under 40 / 4) and 62.8 (over 40 / 1) positions.
        assert_eq!(frequencies(llama3), [1.0, 0.1 / 8.0]);
    }

    #[test]
    fn dynamic_ntk_grows_the_base_beyond_the_original_context() {
        let ntk = RopeScaling::DynamicNtk { factor: 2.0, original_context: 40.0 };
        assert_eq!(rope(4, ntk).inverse_frequencies(40), [1.0, 0.1]);
        // Twice the context: 100 (2 x 2 - 1) ^ (4 / 2) = 900.
        let grown = rope(4, ntk).inverse_frequencies(80);
        assert!(grown[0] == 1.0 && (grown[1] - 1.0 / 30.0).abs() < 1e-6, "{grown:?}");
        assert_eq!([10, 40, 41].map(|n| ntk.deciding_length(n)), [40, 40, 41]);
        assert_eq!(RopeScaling::None.deciding_length(9), 0);
    }

    #[test]
    fn dynamic_ntk_turns_a_prompt_at_its_own_length_and_each_later_position_at_its_own() {
        let ntk = rope(4, RopeScaling::DynamicNtk { factor: 2.0, original_context: 4.0 });
        let angle = |prompt, position: usize| ntk.angles(std::iter::once((position, prompt))).1[1].asin();
        let at_length = |length, position: usize| position as f32 * ntk.inverse_frequencies(length)[1];
        for (prompt, position, length) in [(3, 2, 4), (3, 3, 4), (3, 4, 5), (6, 1, 6), (6, 5, 6), (6, 7, 8)] {
            let (found, expected) = (angle(prompt, position), at_length(length, position));
            assert!((found - expected).abs() < 1e-6, "{prompt} {position}: {found} {expected}");
        }
    }

    #[test]
    fn yarn_is_that_of_transformers() {
        // _compute_yarn_parameters of transformers 5.24: head_dim 16, rope_theta 10000, factor 4, original 64.
        let yarn = |ramp| RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 4.0,
            beta_slow: 0.5,
            attention_factor: 1.0,
            original_context: 64.0,
            ramp,
        };
        let frequencies = |ramp| Rope { d_head: 16, theta: 10_000.0, scaling: yarn(ramp) }.inverse_frequencies(0);
        for (ramp, expected) in [(RampEnds::Whole, YARN_WHOLE), (RampEnds::Exact, YARN_EXACT)] {
            let found = frequencies(ramp);
            let worst = found.iter().zip(expected).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f32::max);
            assert!(found.len() == 8 && worst < 1e-5, "{found:?}");
        }
    }

    const YARN_WHOLE: [f32; 8] = [1.0, 2.371708e-1, 5e-2, 7.905695e-3, 2.5e-3, 7.905695e-4, 2.5e-4, 7.905695e-5];
    const YARN_EXACT: [f32; 8] = [1.0, 2.915256e-1, 5.06644e-2, 7.905695e-3, 2.5e-3, 7.905695e-4, 2.5e-4, 7.905695e-5];
}
