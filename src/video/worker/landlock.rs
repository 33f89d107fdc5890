//! Landlock of Linux: file access and connections of the calling thread, and of the threads that it starts later.
//!
//! A system without Landlock, or with an older version of it, restricts less; that is no error. Called by `confine`.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::null;

/// Access rights of files, by the header `linux/landlock.h`.
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// Access rights of files of each version: those of the first, moves, truncation, and control of devices.
const FILE_RIGHTS: [(i64, u64); 4] = [(1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15)];
/// Version that restricts binding and connecting by TCP.
const TCP_VERSION: i64 = 4;
/// Rights to bind and to connect by TCP.
const TCP_RIGHTS: u64 = 0b11;
/// Version that restricts abstract sockets and signals to the process itself.
const SCOPE_VERSION: i64 = 6;
/// Restriction of abstract sockets and signals.
const SCOPES: u64 = 0b11;
/// Flag of `landlock_create_ruleset` that asks for the version.
const ASK_VERSION: libc::c_uint = 1;
/// Kind of a rule about a file or a directory and what is below.
const PATH_BENEATH: libc::c_uint = 1;

/// Rights that a set of rules restricts (`struct landlock_ruleset_attr`). Older systems take the first fields.
#[repr(C)]
struct RestrictedRights {
    files: u64,
    network: u64,
    scopes: u64,
}

/// Rule that allows access below a path (`struct landlock_path_beneath_attr`).
#[repr(C, packed)]
struct PathRule {
    rights: u64,
    descriptor: RawFd,
}

/// Returns the version of Landlock, 0 where there is none.
pub(super) fn version() -> i64 {
    // SAFETY: with this flag, the address is null and the length 0.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, null::<u8>(), 0_usize, ASK_VERSION) };
    version.max(0)
}

/// Restricts the calling thread to reading a file, or the files of a directory, as far as the system can. The process
/// must have given up new privileges before. Returns whether the system restricts it.
pub(super) fn allow_reading_only(path: &Path) -> bool {
    restrict(path, version()).is_some()
}

fn restrict(path: &Path, version: i64) -> Option<()> {
    let files = FILE_RIGHTS.iter().filter(|(since, _)| *since <= version).fold(0, |all, (_, rights)| all | rights);
    let network = if version >= TCP_VERSION { TCP_RIGHTS } else { 0 };
    let scopes = if version >= SCOPE_VERSION { SCOPES } else { 0 };
    let restricted = RestrictedRights { files, network, scopes };
    let n_fields = 1 + usize::from(version >= TCP_VERSION) + usize::from(version >= SCOPE_VERSION);
    let no_flags: libc::c_uint = 0;
    // SAFETY: the structure outlives the call, and has at least as many fields as the length says.
    let rules = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const restricted, n_fields * size_of::<u64>(), no_flags)
    };
    let rules = RawFd::try_from(rules).ok().filter(|rules| *rules >= 0)?;
    // SAFETY: the descriptor is new and ours.
    let rules = unsafe { OwnedFd::from_raw_fd(rules) };
    // A path that is not there is the reader's error.
    if let Ok(allowed) = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path) {
        let is_dir = allowed.metadata().is_ok_and(|meta| meta.is_dir());
        let rights = if is_dir { READ_FILE | READ_DIR } else { READ_FILE };
        let rule = PathRule { rights, descriptor: allowed.as_raw_fd() };
        // SAFETY: both descriptors are open, and the structure outlives the call.
        let added = unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), PATH_BENEATH, &raw const rule, no_flags)
        };
        (added == 0).then_some(())?;
    }
    // SAFETY: the descriptor is open; the call takes no address.
    let entered = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), no_flags) };
    (entered == 0).then_some(())
}
