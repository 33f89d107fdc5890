//! Benchmark of a vision tower of a released model's geometry, with random weights.

use std::ops::ControlFlow;

use candle_core::Result;
use serde::Serialize;
use strum::{EnumString, IntoStaticStr, VariantNames};

use super::{BenchTarget, DeviceLimits, median_seconds, memory_peak, random};
use crate::choice;
use crate::device::peak_memory;
use crate::error::Error;
use crate::nn::Purpose;
use crate::vision::{Tower, TowerConfig};
use crate::vlm::config::{clip_l_336, siglip_so400m, siglip_so400m_llava};

/// Name of a vision tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr, VariantNames)]
#[strum(parse_err_ty = Error, parse_err_fn = unknown_tower)]
pub enum TowerName {
    /// `openai/clip-vit-large-patch14-336`.
    #[strum(serialize = "clip-l-336")]
    ClipL336,
    /// `google/siglip-so400m-patch14-384`.
    #[strum(serialize = "siglip-so400m")]
    SiglipSo400m,
}

fn unknown_tower(name: &str) -> Error {
    choice::unknown_name("vision tower", name, TowerName::VARIANTS)
}

impl TowerName {
    fn name(self) -> &'static str {
        self.into()
    }

    fn config(self) -> TowerConfig {
        match self {
            Self::ClipL336 => clip_l_336(),
            Self::SiglipSo400m => siglip_so400m_llava(),
        }
    }

    /// Returns the geometry of the released checkpoint, with all layers.
    pub fn stored(self) -> TowerConfig {
        match self {
            Self::ClipL336 => clip_l_336(),
            Self::SiglipSo400m => siglip_so400m(),
        }
    }
}

/// Measurements of a tower.
#[derive(Debug, Clone, Serialize)]
pub struct TowerBench {
    /// Name of the tower.
    pub tower: &'static str,
    /// The kind of device: cpu, cuda, metal.
    pub device: &'static str,
    /// The precision.
    pub dtype: &'static str,
    /// Frames of a batch.
    pub batch: usize,
    /// Runs of which the median is taken.
    pub runs: usize,
    /// Median seconds of a batch, divided by its frames.
    pub seconds_per_frame: f64,
    /// Floating-point operations of matrix products per second, in 10^9.
    pub gflops: f64,
    /// Peak rates of the device.
    #[serde(flatten)]
    pub limits: DeviceLimits,
    /// `gflops` as a share of the peak rate of matrix products.
    pub share_of_peak: f64,
    /// Peak memory of the host.
    pub memory_peak_bytes: Option<u64>,
    /// Peak memory of tensors on the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory_peak_bytes: Option<u64>,
}

/// Times all layers of a tower with random weights, until the device has finished the last layer.
///
/// # Errors
/// When candle fails.
pub fn bench_tower(name: TowerName, target: &BenchTarget, batch: usize, runs: usize) -> Result<TowerBench> {
    let config = name.config();
    let tower = Tower::load(&config, config.n_layers, &random::weights(target), Purpose::Inference)?;
    let pixels = target.random((batch, 3, config.image_size, config.image_size))?;
    let seconds = median_seconds(runs, || {
        tower.hidden_states(&pixels, &mut |_, _| Ok(ControlFlow::Continue(())))?;
        target.device.synchronize()
    })?;
    let (memory_peak_bytes, device_memory_peak_bytes) = (memory_peak(), peak_memory(&target.device));
    let limits = DeviceLimits::measure(target)?;
    let gflops = batch as f64 * flops(&config) / seconds / 1e9;
    Ok(TowerBench {
        tower: name.name(),
        device: target.name(),
        dtype: target.dtype.as_str(),
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

/// Returns the multiplications and additions of a frame's matrix products.
fn flops(config: &TowerConfig) -> f64 {
    let n = config.n_state_tokens() as f64;
    let (d, d_intermediate, p) = (config.d_hidden as f64, config.d_intermediate as f64, config.patch_size as f64);
    let layer = 2.0 * n * (4.0 * d * d + 2.0 * d * d_intermediate) + 4.0 * n * n * d;
    config.n_layers as f64 * layer + 2.0 * config.n_patches() as f64 * 3.0 * p * p * d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_of_a_frame_follow_from_its_shapes() {
        // 577 tokens: 24 (2 x 577 (4 x 1024^2 + 2 x 1024 x 4096) + 4 x 577^2 x 1024) and the patches, 2 x 576 x 588 x
        // 1024.
        let clip = flops(&TowerName::ClipL336.config());
        assert!((clip / 1e9 - 381.92).abs() < 0.01, "{clip}");
    }
}
