//! Peak rates of the machine: matrix products and copies of memory, on the CPU or on a GPU.
//!
//! Every benchmark prints them beside its own rates, so that results of different machines can be compared.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;
use serde::Serialize;

use super::random;
use crate::nn::linear::{Bias, Linear};

/// Side of the matrices by which the peak is measured on the CPU.
const SIDE: usize = 2048;
const SIDE_ON_GPU: usize = 8192;
const RUNS: usize = 8;
/// Bytes that are copied, far above the size of any cache.
const COPIED: usize = 512 << 20;
const COPIED_ON_GPU: usize = 1 << 30;

/// Device and precision in which networks are timed.
#[derive(Debug, Clone)]
pub struct BenchTarget {
    /// The device.
    pub device: Device,
    /// The precision of weights and activations.
    pub dtype: DType,
}

impl BenchTarget {
    /// Returns the CPU with f32.
    #[cfg(test)]
    pub(super) fn cpu() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32 }
    }

    /// Returns the kind of device: cpu, cuda, metal.
    pub fn name(&self) -> &'static str {
        match self.device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        }
    }

    /// Makes random normal values on the device, in the precision of the target.
    pub(super) fn random(&self, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
        Tensor::randn(0f32, 1.0, shape, &self.device)?.to_dtype(self.dtype)
    }
}

/// Peak rates of a device, measured in the process of a benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DeviceLimits {
    /// Floating-point operations of a large matrix product per second, in 10^9, in the precision of the target.
    pub gemm_peak_gflops: f64,
    /// Bytes that are read and written per second by a copy, in 10^9.
    pub copy_gb_per_second: f64,
}

impl DeviceLimits {
    /// Measures the peak rates of a target.
    ///
    /// # Errors
    /// When candle fails.
    pub fn measure(target: &BenchTarget) -> Result<Self> {
        Ok(Self { gemm_peak_gflops: gemm_peak(target)?, copy_gb_per_second: copy_bandwidth(target)? })
    }
}

/// Returns the seconds of the fastest run on a device.
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

/// Measures the peak rate of a matrix product, in GFLOP/s: with this crate's kernel on the CPU, the library's on a GPU.
///
/// # Errors
/// When candle fails.
pub(crate) fn gemm_peak(target: &BenchTarget) -> Result<f64> {
    let side = if target.device.is_cpu() { SIDE } else { SIDE_ON_GPU };
    let mut layer = Linear::load(side, side, Bias::Without, &random::weights(target))?;
    layer.pack()?;
    let x = target.random((side, side))?;
    let seconds = best(&target.device, || layer.forward(&x).map(drop))?;
    Ok(2.0 * (side as f64).powi(3) / seconds / 1e9)
}

/// Measures the peak rate at which a device copies its memory, in GB/s read and written.
///
/// # Errors
/// When the device has less than 2 GiB of free memory.
pub(crate) fn copy_bandwidth(target: &BenchTarget) -> Result<f64> {
    if target.device.is_cpu() {
        return Ok(copy_bandwidth_of_cpu());
    }
    let from = Tensor::zeros(COPIED_ON_GPU, DType::U8, &target.device)?;
    let seconds = best(&target.device, || from.copy().map(drop))?;
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

/// Returns the peak memory of the child processes that were waited for, in bytes; `None` where the system does not
/// report it.
pub(super) fn children_memory_peak() -> Option<u64> {
    #[cfg(unix)]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` has the size that the call writes.
        if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: zeros are valid, and the call succeeded.
        let most = u64::try_from(unsafe { usage.assume_init() }.ru_maxrss).ok()?;
        // In kilobytes, except on Apple's systems.
        Some(if cfg!(target_vendor = "apple") { most } else { most * 1024 })
    }
    #[cfg(not(unix))]
    None
}

/// Returns the peak memory of this process, in bytes; `None` where the system does not report it.
pub fn memory_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?;
    kilobytes.parse::<u64>().ok().map(|n| n * 1024)
}
