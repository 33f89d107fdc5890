//! Limits of the machine: matrix products and copies of memory, on the CPU or on a GPU.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;
use serde::Serialize;

use super::random;
use crate::nn::linear::{Bias, Linear};

/// Side of the matrices of which the peak is measured, as in the peers' measurement.
const SIDE: usize = 2048;
const SIDE_ON_GPU: usize = 8192;
const RUNS: usize = 8;
/// Bytes that are copied: far more than any cache holds.
const COPIED: usize = 512 << 20;
const COPIED_ON_GPU: usize = 1 << 30;

/// Device and precision in which networks are timed.
#[derive(Debug, Clone)]
pub struct BenchPlace {
    /// The device.
    pub device: Device,
    /// The precision of weights and activations.
    pub dtype: DType,
}

impl BenchPlace {
    /// The CPU, in f32.
    pub fn cpu() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32 }
    }

    /// The kind of device: cpu, cuda, metal.
    pub fn name(&self) -> &'static str {
        match self.device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        }
    }

    /// Random normal values in this place, made on the device.
    pub(super) fn random(&self, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
        Tensor::randn(0f32, 1.0, shape, &self.device)?.to_dtype(self.dtype)
    }
}

/// The best rates of a device, measured beside what runs on it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DeviceLimits {
    /// Floating-point operations of a large matrix product a second, in the precision of the place.
    pub gemm_peak_gflops: f64,
    /// Memory that is copied a second, read and written.
    pub copy_gb_per_second: f64,
}

impl DeviceLimits {
    /// Measures the limits of a place.
    ///
    /// # Errors
    /// When candle fails.
    pub fn measure(place: &BenchPlace) -> Result<Self> {
        Ok(Self { gemm_peak_gflops: gemm_peak(place)?, copy_gb_per_second: copy_bandwidth(place)? })
    }
}

/// The seconds of the fastest of some runs on a device.
fn best(device: &Device, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        device.synchronize()?;
        let start = Instant::now();
        run()?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// The best rate of a matrix product, in GFLOP/s: by this program's kernel on the CPU, by the library's on a GPU.
///
/// # Errors
/// When candle fails.
pub fn gemm_peak(place: &BenchPlace) -> Result<f64> {
    let side = if place.device.is_cpu() { SIDE } else { SIDE_ON_GPU };
    let mut layer = Linear::load(side, side, Bias::Without, &random::weights(place))?;
    layer.pack()?;
    let x = place.random((side, side))?;
    let seconds = best(&place.device, || layer.forward(&x).map(drop))?;
    Ok(2.0 * (side as f64).powi(3) / seconds / 1e9)
}

/// The best rate at which a device copies its memory, in GB/s, read and written.
///
/// # Errors
/// When the device has no room for two gibibytes.
pub fn copy_bandwidth(place: &BenchPlace) -> Result<f64> {
    if place.device.is_cpu() {
        return Ok(copy_bandwidth_of_cpu());
    }
    let from = Tensor::zeros(COPIED_ON_GPU, DType::U8, &place.device)?;
    let seconds = best(&place.device, || from.copy().map(drop))?;
    Ok(2.0 * COPIED_ON_GPU as f64 / seconds / 1e9)
}

fn copy_bandwidth_of_cpu() -> f64 {
    let from = vec![1u8; COPIED];
    let mut to = vec![0u8; COPIED];
    let part = COPIED.div_ceil(rayon::current_num_threads());
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * COPIED as f64 / best / 1e9
}

/// The most memory that a process which this one started and waited for had, in bytes, where the system says it.
pub(super) fn children_memory_peak() -> Option<u64> {
    #[cfg(unix)]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: there is room for what the call writes.
        if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: zeros are a value, and the call has written one.
        let most = u64::try_from(unsafe { usage.assume_init() }.ru_maxrss).ok()?;
        // In kilobytes, but on Apple's systems.
        Some(if cfg!(target_vendor = "apple") { most } else { most * 1024 })
    }
    #[cfg(not(unix))]
    None
}

/// The most memory that this process had so far, in bytes, where the system says it.
pub fn memory_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?;
    kilobytes.parse::<u64>().ok().map(|n| n * 1024)
}
