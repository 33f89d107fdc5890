//! Limits of the system's allocator.
//!
//! glibc maps a block from a size on, which it raises to the largest block that was freed, if that is below 32 MiB. Larger
//! ones do not raise it, and activations are then mapped, cleared and unmapped at every layer.

/// Bytes from which on a block is mapped while a model runs: the most that glibc would raise it to.
const RUNNING: i32 = 32 << 20;
/// The same while one is loaded: weights that are freed once they are packed would leave holes which nothing fills.
const LOADING: i32 = 8 << 20;

/// Fixes the size from which on a block is mapped, and goes back to the system when it is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn map_from(n_bytes: i32) {
    let options = [
        ("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, n_bytes),
        // What is free at the end of the heap goes back from here on: several times what small networks free at once.
        ("MALLOC_TRIM_THRESHOLD_", libc::M_TRIM_THRESHOLD, n_bytes / 8),
    ];
    for (variable, option, value) in options {
        if std::env::var_os(variable).is_none() {
            // SAFETY: the allocator may be told so at any time. A refusal leaves the size as it is.
            let _ = unsafe { libc::mallopt(option, value) };
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn map_from(_: i32) {}

/// Settles the limits for a process that runs models.
pub fn settle() {
    map_from(RUNNING);
}

/// Runs `load`, which loads a model.
pub fn while_loading<T>(load: impl FnOnce() -> T) -> T {
    map_from(LOADING);
    let loaded = load();
    map_from(RUNNING);
    loaded
}
