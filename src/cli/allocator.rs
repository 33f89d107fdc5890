//! Limits of the system's allocator while a model is loaded.
//!
//! glibc maps a block from a size on, which it raises to the largest block that was freed, up to 32 MiB. Weights below it
//! that are freed once they are packed leave holes which nothing fills.

/// Fixes the size from which on a block is mapped, and goes back to the system when it is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn map_from(n_bytes: libc::c_int) {
    if std::env::var_os("MALLOC_MMAP_THRESHOLD_").is_none() {
        // SAFETY: the allocator may be told so at any time. A refusal leaves the size as it is.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, n_bytes) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn map_from(_: i32) {}

/// Runs what loads a model: large blocks are mapped.
pub fn while_loading<T>(load: impl FnOnce() -> T) -> T {
    map_from(8 << 20);
    let loaded = load();
    // Activations come and go at every layer: to map them each time would cost page faults.
    map_from(32 << 20);
    loaded
}
