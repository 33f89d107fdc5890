//! Memory of a device, and waiting for it: what the engine and the stages ask of a device besides operations.

use candle_core::Device;

/// Bytes of memory that a device has left, as far as this build can ask. Of the CPU the least of what the system and
/// the control group of this process have.
pub fn free_memory(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => {
            let kind = sysinfo::RefreshKind::nothing().with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram());
            let system = sysinfo::System::new_with_specifics(kind);
            // Files that the system caches count as used in a control group, but give way.
            let group = system.cgroup_limits().map(|group| group.total_memory.saturating_sub(group.rss));
            let free = system.available_memory();
            Some(group.map_or(free, |group| group.min(free))).filter(|&free| free > 0)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => super::cuda::memory(device).ok().map(|memory| memory.free),
        _ => None,
    }
}

/// The most bytes that tensors on a GPU took at once so far; none of other devices.
pub fn peak_memory(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return super::cuda::memory(device).ok().map(|memory| memory.peak);
    }
    let _ = device;
    None
}

/// Gives memory that a device keeps for later back, so that a large request may find room. Failing is no error: the
/// request will tell.
pub fn release_unused_memory(device: &Device) {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        let _ = super::cuda::release_unused(device);
    }
    // SAFETY: the allocator may be called from any thread.
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
    fn the_machine_has_memory_left() {
        // What the system tells of a whole machine is between a mebibyte and a pebibyte.
        let free = free_memory(&Device::Cpu).expect("the system tells it");
        assert!((1 << 20..1 << 50).contains(&free), "{free}");
    }
}
