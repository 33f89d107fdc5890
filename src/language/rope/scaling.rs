//! Scalings of the rotary frequencies: linear, dynamic NTK, YaRN, Llama 3.1.
//!
//! A scaling extends the context beyond that of the pretraining. YaRN's ramp over the channels depends on the base and
//! is in [`Rope`](super::Rope). Values come from `config.json` (`vlm/config/rope.rs`) and are compared with those of
//! GGUF files (`vlm/gguf/check.rs`). Reference: `modeling_rope_utils.py` of Hugging Face transformers.

use std::f32::consts::PI;

/// Scaling of the frequencies beyond the length of the pretraining.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
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

impl RopeScaling {
    /// Returns the length that decides the frequencies of a prompt of `prompt` positions: for dynamic NTK the length of
    /// the prompt, at least the original context; else 0. Prompts with different lengths share no keys.
    pub(crate) fn deciding_length(self, prompt: usize) -> usize {
        match self {
            Self::DynamicNtk { original_context, .. } => prompt.max(original_context as usize),
            _ => 0,
        }
    }

    /// Returns the factor of the cosines and sines.
    pub(crate) fn attention_factor(self) -> f32 {
        match self {
            Self::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// Returns whether the frequencies of a position depend on the length of its sequence.
    pub(super) fn is_dynamic(self) -> bool {
        matches!(self, Self::DynamicNtk { .. })
    }

    /// Returns the base; for dynamic NTK `base (s len / ctx - (s - 1)) ^ (d / (d - 2))` once `len` is above `ctx`.
    pub(super) fn base(self, theta: f32, d_head: usize, length: usize) -> f32 {
        match self {
            Self::DynamicNtk { factor, original_context } if length as f32 > original_context => {
                let grown = f64::from(factor) * length as f64 / f64::from(original_context) - (f64::from(factor) - 1.0);
                let power = d_head as f64 / (d_head as f64 - 2.0).max(1.0);
                (f64::from(theta) * grown.powf(power)) as f32
            }
            _ => theta,
        }
    }

    /// Returns the scaled frequency of a channel; those of dynamic NTK and YaRN are scaled by [`Rope`](super::Rope).
    pub(super) fn apply(self, frequency: f32) -> f32 {
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
