//! Rotary position embeddings (arXiv 2104.09864): frequencies, and the angles of positions.
//!
//! Channel `i` of the `d_head / 2` turns by `position theta^(-2 i / d_head)`, the frequency changed by a scaling
//! (`rope/scaling.rs`). The cosines and sines of a step go to the key-value store, those of whole sequences to
//! `rope/rotation.rs`. Reference: `modeling_rope_utils.py` of Hugging Face transformers. Called by the language model.

mod rotation;
mod scaling;
#[cfg(test)]
mod tests;

pub(crate) use rotation::{RopeAngles, RopeTable};
pub use scaling::{RampEnds, RopeScaling};

/// Rotary frequencies of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Width of a head.
    pub d_head: usize,
    /// The base.
    pub theta: f32,
    /// The scaling.
    pub scaling: RopeScaling,
}

/// A position whose angles are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RopeRow {
    /// The position in its sequence, from 0.
    pub position: usize,
    /// Length of the sequence's prompt, which dynamic NTK alone depends on.
    pub n_prompt: usize,
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

    /// Returns the cosines and sines of rows, times the scaling's attention factor.
    ///
    /// # Shapes
    /// `S` rows to cosines and sines, each `(S, d_head / 2)`, row-major.
    pub(crate) fn angles(&self, rows: impl Iterator<Item = RopeRow>) -> (Vec<f32>, Vec<f32>) {
        let factor = self.scaling.attention_factor();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        let mut known: Option<(usize, Vec<f32>)> = None;
        for RopeRow { position, n_prompt } in rows {
            let deciding = self.scaling.deciding_length(n_prompt);
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
