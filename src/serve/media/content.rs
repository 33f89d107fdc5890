//! Content of a medium on this machine: a file of the scratch, an upload, a directory of frames, or an open local file.
//! A small file of the scratch is created when it is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::scratch::{FrameDirectory, ScratchFile};
use crate::error::Result;

/// Content, kept as long as a request needs it.
#[derive(Debug)]
pub(super) enum MediaContent {
    /// A file of the scratch.
    File(ScratchFile),
    /// An upload.
    Upload(Arc<ScratchFile>),
    /// Frames of a list.
    Frames(FrameDirectory),
    /// A local file, read through its descriptor.
    #[cfg(target_os = "linux")]
    Local(LocalDescriptor),
    /// A file that a test owns.
    #[cfg(test)]
    Foreign(PathBuf),
    /// Nothing: the visual tokens are cached, and the client sent a `uuid` alone.
    Absent,
}

impl MediaContent {
    /// Stores a content that is in memory on disk, before it is read.
    ///
    /// # Errors
    /// As [`ScratchFile::store`].
    pub(super) fn store(&self) -> Result<()> {
        match self {
            Self::File(file) => file.store(),
            _ => Ok(()),
        }
    }

    /// Path from which a reader, of this process or of a decoding process, reads the content once it is stored.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File(file) => file.path(),
            Self::Upload(file) => file.path(),
            Self::Frames(directory) => directory.path(),
            #[cfg(target_os = "linux")]
            Self::Local(local) => &local.path,
            #[cfg(test)]
            Self::Foreign(path) => path,
            Self::Absent => Path::new(""),
        }
    }
}

/// An open file, and the path by which decoding processes open the same file, whatever has become of its name. Nothing
/// is copied, and nothing about the file changes.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(super) struct LocalDescriptor {
    /// Keeps the path valid.
    _file: std::fs::File,
    path: PathBuf,
}

#[cfg(target_os = "linux")]
impl LocalDescriptor {
    pub(super) fn new(file: std::fs::File) -> Self {
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
        let path = PathBuf::from(format!("/proc/{}/fd/{descriptor}", std::process::id()));
        Self { _file: file, path }
    }
}
