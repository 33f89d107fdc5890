//! Limits of the system's allocator.

/// Bytes from which on a block is mapped on its own, and so goes back to the system as soon as it is freed: larger than
/// what small networks ask for between two layers, where a map each time costs page faults.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: libc::c_int = 8 << 20;

/// Fixes the size from which on blocks are mapped on their own. By default glibc raises it to the largest block that was
/// freed, up to 32 MiB; blocks of that size then leave holes that no other thread fills.
pub fn settle() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::env::var_os("MALLOC_MMAP_THRESHOLD_").is_none() {
        // SAFETY: the allocator may be told so at any time. A refusal leaves the default.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM) };
    }
}
