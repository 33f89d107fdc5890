//! What the machine can do: products of matrices, copies of memory.

use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::random;
use crate::nn::linear::{Bias, Linear};

/// Side of the matrices of which the peak is measured, as in the peers' measurement.
const SIDE: usize = 2048;
const RUNS: usize = 8;
/// Bytes that are copied: far more than any cache holds.
const COPIED: usize = 512 << 20;

/// The best rate of a product of matrices, in GFLOP/s.
///
/// # Errors
/// When candle fails.
pub fn gemm_peak() -> Result<f64> {
    let mut layer = Linear::load(SIDE, SIDE, Bias::Without, &random::weights())?;
    layer.pack()?;
    let x = Tensor::randn(0f32, 1.0, (SIDE, SIDE), &Device::Cpu)?;
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        layer.forward(&x)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (SIDE as f64).powi(3) / best / 1e9)
}

/// The best rate at which memory is copied by all threads, in GB/s, read and written.
pub fn copy_bandwidth() -> f64 {
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
