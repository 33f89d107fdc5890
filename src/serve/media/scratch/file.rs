//! Files of a scratch: written with a limit and a hash, and removed when the last owner drops them. Bytes are reserved
//! before they are written, so that files in progress cannot fill the disk together. A small file may wait in memory
//! until it is read: a medium whose visual tokens are cached never is.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Kind, Result};
use crate::exec::lock;
use crate::serve::media::image_content::N_FIRST;
use crate::serve::media::key::ContentHash;

use super::space::{Growth, MemoryPlace, ScratchSpace};

/// Bytes that are reserved at once, one block of the disk. The smallest reservation of a file.
const STEP: u64 = 4096;

/// Bytes of a file up to which it may wait in memory.
const IN_MEMORY: usize = 64 << 10;

/// Bytes of a scratch that belong to one file.
#[derive(Debug)]
pub(super) struct Reservation {
    space: Arc<ScratchSpace>,
    bytes: u64,
    /// Scope of the client whose upload the file is.
    scope: Option<Arc<str>>,
}

impl Reservation {
    /// Makes an empty reservation.
    pub(super) fn new(space: &Arc<ScratchSpace>, scope: Option<Arc<str>>) -> Self {
        Self { space: space.clone(), bytes: 0, scope }
    }

    /// Grows to at least `bytes`.
    fn grow_to(&mut self, bytes: u64) -> Result<()> {
        let growth = self.growth(bytes);
        if growth.after > self.bytes {
            self.space.take(growth)?;
            self.bytes = growth.after;
        }
        Ok(())
    }

    /// Returns the bytes that other files must release before this one has `bytes`.
    pub(super) fn missing(&self, bytes: u64) -> u64 {
        self.space.missing(self.growth(bytes))
    }

    fn growth(&self, bytes: u64) -> Growth<'_> {
        let after = bytes.max(1).div_ceil(STEP).saturating_mul(STEP);
        Growth { before: self.bytes, after, scope: self.scope.as_ref() }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.release(self.bytes, self.scope.as_ref());
    }
}

/// Path of a file that is removed when dropped.
#[derive(Debug)]
struct RemovedPath(PathBuf);

impl Drop for RemovedPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Content of a file that is not created.
#[derive(Debug)]
struct SmallContent {
    bytes: Vec<u8>,
    _place: MemoryPlace,
}

/// Place of the bytes of a file that is being written.
#[derive(Debug)]
enum Storage {
    Disk(File),
    Memory(SmallContent),
}

/// A file that is being written. Dropped unfinished, it is removed.
#[derive(Debug)]
pub struct ScratchWriter {
    storage: Storage,
    path: RemovedPath,
    reservation: Reservation,
    hasher: blake3::Hasher,
    n_bytes: u64,
    max_bytes: u64,
    /// First bytes, by which images are recognized.
    first: Vec<u8>,
    /// Error behind the last error of [`Write::write`], which has no room for its kind.
    failure: Option<Error>,
}

impl ScratchWriter {
    /// Creates the file. Its first block is not reserved yet ([`Self::expect`] of 0 bytes does).
    pub(super) fn create(reservation: Reservation, path: PathBuf, max_bytes: u64) -> Result<Self> {
        let storage = Storage::Disk(created(&path)?);
        Ok(Self::new(storage, reservation, path, max_bytes))
    }

    /// Begins a file that is created once it is large, or by [`ScratchFile::store`]; at once, while too many others wait
    /// in memory.
    pub(super) fn in_memory(reservation: Reservation, path: PathBuf, max_bytes: u64) -> Result<Self> {
        match MemoryPlace::take(&reservation.space) {
            Some(place) => {
                let storage = Storage::Memory(SmallContent { bytes: Vec::new(), _place: place });
                Ok(Self::new(storage, reservation, path, max_bytes))
            }
            None => Self::create(reservation, path, max_bytes),
        }
    }

    fn new(storage: Storage, reservation: Reservation, path: PathBuf, max_bytes: u64) -> Self {
        Self {
            storage,
            path: RemovedPath(path),
            reservation,
            hasher: blake3::Hasher::new(),
            n_bytes: 0,
            max_bytes,
            first: Vec::new(),
            failure: None,
        }
    }

    /// Reserves the bytes of a file whose length is known.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] over the limit of the file or of the scratch, [`Kind::Busy`] while other files take the room.
    pub fn expect(&mut self, n_bytes: u64) -> Result<()> {
        if n_bytes > self.max_bytes {
            return Err(too_large(n_bytes, self.max_bytes));
        }
        self.reservation.grow_to(n_bytes)
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// As [`Self::expect`], [`Kind::Busy`] while the disk is full, and the operating system's.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let n_bytes = self.n_bytes.saturating_add(bytes.len() as u64);
        self.expect(n_bytes)?;
        match &mut self.storage {
            Storage::Disk(file) => file.write_all(bytes).map_err(disk_error)?,
            Storage::Memory(small) if small.bytes.len() + bytes.len() <= IN_MEMORY => {
                small.bytes.extend_from_slice(bytes);
            }
            Storage::Memory(small) => {
                let mut file = created(&self.path.0)?;
                file.write_all(&small.bytes).and_then(|()| file.write_all(bytes)).map_err(disk_error)?;
                self.storage = Storage::Disk(file);
            }
        }
        self.hasher.update(bytes);
        self.n_bytes = n_bytes;
        let n_missing = N_FIRST.saturating_sub(self.first.len());
        self.first.extend_from_slice(&bytes[..bytes.len().min(n_missing)]);
        Ok(())
    }

    /// Returns the error behind the last failed [`Write::write`].
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Number of bytes so far.
    pub(super) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Returns the bytes that other files must release before this one has `n_bytes`.
    pub(super) fn missing(&self, n_bytes: u64) -> u64 {
        self.reservation.missing(n_bytes)
    }

    /// First bytes of the file, as many as decide the format of an image.
    pub(in crate::serve::media) fn first(&self) -> &[u8] {
        &self.first
    }

    /// Renames the unfinished file.
    pub(in crate::serve::media) fn rename(&mut self, path: PathBuf) -> Result<()> {
        std::fs::rename(&self.path.0, &path).map_err(disk_error)?;
        self.path.0 = path;
        Ok(())
    }

    /// Ends the file. One that was not created stays in memory until it is stored.
    ///
    /// # Errors
    /// [`Kind::Empty`] without a byte, and the operating system's.
    pub fn finish(self) -> Result<ScratchFile> {
        let Self { storage, path, reservation, hasher, n_bytes, .. } = self;
        if n_bytes == 0 {
            return Err(Error::new(Kind::Empty, "no data"));
        }
        let hash = ContentHash::of_bytes(&hasher);
        let in_memory = match storage {
            Storage::Disk(file) => {
                file.set_modified(hash.time()).map_err(disk_error)?;
                None
            }
            Storage::Memory(small) => Some(small),
        };
        Ok(ScratchFile { path, in_memory: Mutex::new(in_memory), reservation, hash, n_bytes })
    }
}

impl Write for ScratchWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.push(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.failure = Some(error.clone());
                Err(io::Error::other(error))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A finished file, removed when dropped. Its time of modification stands for its content.
#[derive(Debug)]
pub struct ScratchFile {
    path: RemovedPath,
    /// Content that is not stored yet.
    in_memory: Mutex<Option<SmallContent>>,
    reservation: Reservation,
    hash: ContentHash,
    n_bytes: u64,
}

impl ScratchFile {
    /// Creates the file, if its content is in memory.
    ///
    /// # Errors
    /// [`Kind::Busy`] while the disk is full, and the operating system's.
    pub(in crate::serve::media) fn store(&self) -> Result<()> {
        let mut in_memory = lock(&self.in_memory);
        if let Some(SmallContent { bytes, .. }) = &*in_memory {
            let mut file = created(&self.path.0)?;
            let written = file.write_all(bytes).and_then(|()| file.set_modified(self.hash.time()));
            written.map_err(|error| {
                // Another request for the same content may try again.
                let _ = std::fs::remove_file(&self.path.0);
                disk_error(error)
            })?;
            *in_memory = None;
        }
        Ok(())
    }

    /// Path of the file, once it is created.
    pub fn path(&self) -> &Path {
        &self.path.0
    }

    /// Hash of the bytes.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Number of bytes.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Number of bytes that are free once the file is removed.
    pub(super) fn n_reserved(&self) -> u64 {
        self.reservation.bytes
    }
}

/// Creates a file for its owner alone.
fn created(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(disk_error)
}

/// Returns the error of a file over a limit.
pub(in crate::serve::media) fn too_large(n_bytes: u64, limit: u64) -> Error {
    Error::new(Kind::TooLarge, format!("{n_bytes} bytes or more, over the limit of {limit}"))
}

/// Returns the error of a file operation. A full disk is a state of the server that passes, not a fault of the medium.
pub(super) fn disk_error(error: io::Error) -> Error {
    let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let kind = if is_full { Kind::Busy } else { Kind::Unreadable };
    Error::caused_by(kind, error).with_hint_if(is_full.then_some("try again later")).about("scratch")
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::Scratch;
    use super::*;

    #[test]
    fn a_full_disk_is_no_fault_of_the_medium() {
        let root = tempfile::tempdir().expect("room");
        let scratch = Scratch::open(root.path(), 1 << 20).expect("room");
        let mut writer = scratch.create(1 << 20).expect("room");
        writer.storage = Storage::Disk(File::options().write(true).open("/dev/full").expect("Linux has it"));
        let error = writer.push(b"video").expect_err("full");
        assert_eq!(error.kind(), Kind::Busy);
        assert_eq!(error.to_string(), "scratch: No space left on device (os error 28); hint: try again later");
    }
}
