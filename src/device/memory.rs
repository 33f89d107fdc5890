//! Free and peak memory of a device, and release of cached memory. The engine sizes the key-value store by it; stages
//! retry with smaller batches after a release.

use candle_core::Device;

/// Returns the free bytes of a device, `None` where this build cannot query them. For the CPU this is the minimum of
/// the system's available memory and the remaining limit of this process's control group.
pub(crate) fn free_memory(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => {
            let kind = sysinfo::RefreshKind::nothing().with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram());
            let system = sysinfo::System::new_with_specifics(kind);
            // RSS excludes the page cache, which counts towards the control group but is reclaimable.
            let group = system.cgroup_limits().map(|group| group.total_memory.saturating_sub(group.rss));
            let free = system.available_memory();
            Some(group.map_or(free, |group| group.min(free))).filter(|&free| free > 0)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => super::cuda::memory(device).ok().map(|memory| memory.free),
        _ => None,
    }
}

/// Returns the peak bytes of tensors on an NVIDIA GPU, `None` for other devices.
pub fn peak_memory(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return super::cuda::memory(device).ok().map(|memory| memory.peak);
    }
    let _ = device;
    None
}

/// Releases memory that the allocator of a device caches, so that a large allocation may succeed. Failures are ignored:
/// the allocation reports them.
pub(crate) fn release_unused_memory(device: &Device) {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        let _ = super::cuda::release_unused(device);
    }
    // SAFETY: `malloc_trim` may be called from any thread; it returns free pages only.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if device.is_cpu() {
        let _ = unsafe { libc::malloc_trim(0) };
    }
    let _ = device;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_free_memory() {
        // Free memory of a machine is between a mebibyte and a pebibyte.
        let free = free_memory(&Device::Cpu).expect("the system reports it");
        assert!((1 << 20..1 << 50).contains(&free), "{free}");
    }
}
