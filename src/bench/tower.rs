//! A vision tower of a released model's geometry.

use std::ops::ControlFlow;
use std::str::FromStr;

use candle_core::Result;
use serde::Serialize;

use super::{BenchPlace, DeviceLimits, median_seconds, memory_peak, random};
use crate::device::peak_memory;
use crate::nn::Purpose;
use crate::vision::{Tower, TowerConfig};
use crate::vlm::config::{clip_l_336, siglip_so400m, siglip_so400m_llava};

/// A tower by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TowerName {
    /// `openai/clip-vit-large-patch14-336`.
    ClipL336,
    /// `google/siglip-so400m-patch14-384`.
    SiglipSo400m,
}

impl FromStr for TowerName {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        match text {
            "clip-l-336" => Ok(Self::ClipL336),
            "siglip-so400m" => Ok(Self::SiglipSo400m),
            _ => Err(format!("`{text}` is no tower; hint: clip-l-336, siglip-so400m")),
        }
    }
}

impl TowerName {
    fn name(self) -> &'static str {
        match self {
            Self::ClipL336 => "clip-l-336",
            Self::SiglipSo400m => "siglip-so400m",
        }
    }

    fn config(self) -> TowerConfig {
        match self {
            Self::ClipL336 => clip_l_336(),
            Self::SiglipSo400m => siglip_so400m_llava(),
        }
    }

    /// The geometry of its checkpoint, all layers.
    pub fn stored(self) -> TowerConfig {
        match self {
            Self::ClipL336 => clip_l_336(),
            Self::SiglipSo400m => siglip_so400m(),
        }
    }
}

/// What a tower did.
#[derive(Debug, Clone, Serialize)]
pub struct TowerBench {
    /// Its name.
    pub tower: &'static str,
    /// The kind of device: cpu, cuda, metal.
    pub device: &'static str,
    /// The precision.
    pub dtype: &'static str,
    /// Frames that went through it together.
    pub batch: usize,
    /// Runs of which the median is taken.
    pub runs: usize,
    /// The median.
    pub seconds_per_frame: f64,
    /// Products of matrices a second.
    pub gflops: f64,
    /// Of the device.
    #[serde(flatten)]
    pub limits: DeviceLimits,
    /// Of the peak of products.
    pub share_of_peak: f64,
    /// The most of the host's memory that was used.
    pub memory_peak_bytes: Option<u64>,
    /// The most of the device's memory that tensors took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory_peak_bytes: Option<u64>,
}

/// Times a tower with random weights, all of its layers, until the last one is done.
///
/// # Errors
/// When candle fails.
pub fn bench_tower(name: TowerName, place: &BenchPlace, batch: usize, runs: usize) -> Result<TowerBench> {
    let config = name.config();
    let tower = Tower::load(&config, config.n_layers, &random::weights(place), Purpose::Inference)?;
    let pixels = place.random((batch, 3, config.image_size, config.image_size))?;
    let seconds = median_seconds(runs, || {
        tower.hidden_states(&pixels, &mut |_, _| Ok(ControlFlow::Continue(())))?;
        place.device.synchronize()
    })?;
    let (memory_peak_bytes, device_memory_peak_bytes) = (memory_peak(), peak_memory(&place.device));
    let limits = DeviceLimits::measure(place)?;
    let gflops = batch as f64 * flops(&config) / seconds / 1e9;
    Ok(TowerBench {
        tower: name.name(),
        device: place.name(),
        dtype: place.dtype.as_str(),
        batch,
        runs,
        seconds_per_frame: seconds / batch as f64,
        gflops,
        limits,
        share_of_peak: gflops / limits.gemm_peak_gflops,
        memory_peak_bytes,
        device_memory_peak_bytes,
    })
}

/// Multiplications and additions of the products that one frame takes.
fn flops(config: &TowerConfig) -> f64 {
    let n = config.n_state_tokens() as f64;
    let (d, wide, p) = (config.d_hidden as f64, config.d_intermediate as f64, config.patch_size as f64);
    let layer = 2.0 * n * (4.0 * d * d + 2.0 * d * wide) + 4.0 * n * n * d;
    config.n_layers as f64 * layer + 2.0 * config.n_patches() as f64 * 3.0 * p * p * d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_takes_what_its_shapes_say() {
        // 577 tokens: 24 (2 x 577 (4 x 1024^2 + 2 x 1024 x 4096) + 4 x 577^2 x 1024) and the patches, 2 x 576 x 588 x
        // 1024.
        let clip = flops(&TowerName::ClipL336.config());
        assert!((clip / 1e9 - 381.92).abs() < 0.01, "{clip}");
    }
}
