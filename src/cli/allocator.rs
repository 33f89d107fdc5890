//! Limits of the system's allocator.
//!
//! glibc maps a block from a size on, which it raises to the largest block that was freed, if that is below 32 MiB.
//! Larger ones do not raise it, and activations are then mapped, cleared and unmapped at every layer.

use vidense::bench::memory_peak;

/// Smallest block that is mapped while a model runs: the largest that glibc would raise it to.
const RUNNING: i32 = 32 << 20;
/// Smallest block that is mapped while a model is loaded: freed weights would leave holes in the heap.
const LOADING: i32 = 8 << 20;
/// Free bytes at the end of the heap that return to the system: several times the activations of a small network.
const MIN_TRIM: u64 = 4 << 20;
/// Maximum of the same limit, beside a large model, whose memory dwarfs the activations'.
const MAX_TRIM: u64 = 64 << 20;
/// Part of a loaded model's memory that may stay free at the end of the heap.
const TRIM_PART: u64 = 128;

/// Fixes the smallest block that is mapped, and the free bytes at the end of the heap that return to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn set_limits(map_from: i32, trim_from: u64) {
    let options = [
        ("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, map_from),
        ("MALLOC_TRIM_THRESHOLD_", libc::M_TRIM_THRESHOLD, i32::try_from(trim_from).unwrap_or(i32::MAX)),
    ];
    for (variable, option, value) in options {
        if std::env::var_os(variable).is_none() {
            // SAFETY: mallopt may be called at any time. A refusal leaves the limit as it is.
            let _ = unsafe { libc::mallopt(option, value) };
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn set_limits(_: i32, _: u64) {}

/// Sets the limits of a process that runs models.
pub fn settle() {
    set_limits(RUNNING, MIN_TRIM);
}

/// Sets the limits for running what has been loaded.
pub fn settle_for_loaded() {
    set_limits(RUNNING, (memory_peak().unwrap_or_default() / TRIM_PART).clamp(MIN_TRIM, MAX_TRIM));
}

/// Runs `load`, which loads a model.
pub fn while_loading<T>(load: impl FnOnce() -> T) -> T {
    set_limits(LOADING, LOADING as u64 / 8);
    let loaded = load();
    settle_for_loaded();
    loaded
}
