//! A vision tower of a released model's geometry.

use std::ops::ControlFlow;
use std::str::FromStr;

use candle_core::{Device, Result, Tensor};
use serde::Serialize;

use super::{gemm_peak, median_seconds, memory_peak, random};
use crate::vision::{Tower, TowerConfig};
use crate::vlm::config::{clip_l_336, siglip_so400m};

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
            // LLaVA's code deletes the last layer.
            Self::SiglipSo400m => TowerConfig { n_layers: 26, ..siglip_so400m() },
        }
    }
}

/// What a tower did.
#[derive(Debug, Clone, Serialize)]
pub struct TowerBench {
    /// Its name.
    pub tower: &'static str,
    /// Frames that went through it together.
    pub batch: usize,
    /// Runs of which the median is taken.
    pub runs: usize,
    /// The median.
    pub seconds_per_frame: f64,
    /// Products of matrices a second.
    pub gflops: f64,
    /// Of this machine, by this program's kernel.
    pub gemm_peak_gflops: f64,
    /// Of that peak.
    pub share_of_peak: f64,
    /// The most memory that was used.
    pub memory_peak_bytes: Option<u64>,
}

/// Times a tower with random weights, in f32 on the CPU, all of its layers.
///
/// # Errors
/// When candle fails.
pub fn bench_tower(name: TowerName, batch: usize, runs: usize) -> Result<TowerBench> {
    let config = name.config();
    let mut tower = Tower::load(&config, config.n_layers, &random::weights())?;
    tower.pack()?;
    let pixels = Tensor::randn(0f32, 1.0, (batch, 3, config.image_size, config.image_size), &Device::Cpu)?;
    let seconds = median_seconds(runs, || tower.hidden_states(&pixels, &mut |_, _| Ok(ControlFlow::Continue(()))))?;
    let memory_peak_bytes = memory_peak();
    let (gflops, peak) = (batch as f64 * flops(&config) / seconds / 1e9, gemm_peak()?);
    Ok(TowerBench {
        tower: name.name(),
        batch,
        runs,
        seconds_per_frame: seconds / batch as f64,
        gflops,
        gemm_peak_gflops: peak,
        share_of_peak: gflops / peak,
        memory_peak_bytes,
    })
}

/// Multiplications and additions of the products that one frame takes.
fn flops(config: &TowerConfig) -> f64 {
    let n = (config.n_patches() + config.n_class_tokens()) as f64;
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
