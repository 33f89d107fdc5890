//! Destination of an output path: a regular file, or a stream that is already open or has a reader.
//!
//! Links are followed, so a link stays and its target is written. `/dev/stdout` and `/dev/fd/N` are the open files of
//! this process. Directories, sockets, block devices and pipes without a reader are refused; a pipe or a character
//! device, such as `/dev/null`, is opened as a stream.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Links that are followed before a cycle is assumed: the limit of Linux.
const MAX_LINKS: usize = 40;

/// Destination of an output path after its links.
pub(super) enum Destination {
    /// A regular file, which exists or is to be created.
    File(PathBuf),
    /// A pipe, a device, or an open file of this process.
    Stream(File),
}

/// Returns whether an output path is standard output.
pub fn is_standard_output(path: &Path) -> bool {
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        if descriptor(&target) == Some(1) {
            return true;
        }
        let Ok(next) = std::fs::read_link(&target) else { return false };
        target = link_target(&target, &next);
    }
    false
}

/// Follows the links of an output path, and opens a stream.
pub(super) fn resolve(path: &Path) -> io::Result<Destination> {
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        if let Some(number) = descriptor(&target) {
            return open_descriptor(number).map(Destination::Stream);
        }
        match std::fs::symlink_metadata(&target) {
            Ok(meta) if meta.is_symlink() => target = link_target(&target, &std::fs::read_link(&target)?),
            Ok(meta) if meta.is_file() => return Ok(Destination::File(target)),
            Ok(meta) => return open_stream(&target, &meta).map(Destination::Stream),
            Err(error) if error.kind() == io::ErrorKind::NotFound && target.file_name().is_some() => {
                return Ok(Destination::File(target));
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("links lead to each other in a ring"))
}

/// Returns the path that a link leads to. `..` is left to the operating system, which resolves it from the directory
/// of the link itself.
fn link_target(link: &Path, target: &Path) -> PathBuf {
    link.parent().unwrap_or(Path::new("")).join(target)
}

/// Returns the file descriptor of this process that a path names.
fn descriptor(path: &Path) -> Option<i32> {
    let dirs = ["/proc/self/fd", "/dev/fd"];
    let name = dirs.iter().find_map(|dir| path.strip_prefix(dir).ok())?;
    name.to_str()?.parse().ok()
}

#[cfg(unix)]
fn open_descriptor(number: i32) -> io::Result<File> {
    use std::os::fd::BorrowedFd;
    if number < 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: the descriptor is borrowed for a single `dup`, which fails if it is not open.
    let owned = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned();
    owned.map(File::from)
}

#[cfg(not(unix))]
fn open_descriptor(_: i32) -> io::Result<File> {
    Err(io::ErrorKind::NotFound.into())
}

/// Makes the error of a path that is not written to.
fn unwritable(noun: &str) -> io::Error {
    io::Error::other(Error::invalid(format!("{noun} cannot be written to")).with_hint("name a file"))
}

#[cfg(unix)]
fn open_stream(path: &Path, meta: &Metadata) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let kind = meta.file_type();
    let refused = |noun: &str| Err(unwritable(noun));
    if kind.is_dir() {
        return refused("a directory");
    }
    if kind.is_socket() {
        return refused("a socket");
    }
    if kind.is_block_device() {
        return refused("a block device");
    }
    // Without `O_NONBLOCK`, opening a pipe without a reader blocks for ever.
    let opened = File::options().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) && kind.is_fifo() => {
            return refused("a pipe that nobody reads");
        }
        opened => opened?,
    };
    // SAFETY: the descriptor is open, and `fcntl` changes only its flags.
    let cleared = unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        flags >= 0 && libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) >= 0
    };
    if cleared { Ok(file) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(unix))]
fn open_stream(path: &Path, meta: &Metadata) -> io::Result<File> {
    if meta.is_dir() {
        return Err(unwritable("a directory"));
    }
    File::options().write(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_this_process_are_recognized() {
        assert_eq!(descriptor(Path::new("/dev/fd/7")), Some(7));
        assert_eq!(descriptor(Path::new("/proc/self/fd/1")), Some(1));
        assert_eq!(descriptor(Path::new("/proc/self/fd")), None);
        assert_eq!(descriptor(Path::new("fd/1")), None);
    }
}
