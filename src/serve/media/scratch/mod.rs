//! Scratch: the temporary files of a server (uploads, and the media of requests in progress) in one directory, limited
//! in bytes and removed with the process. The files of a killed process are removed by the next process.
//!
//! Files are written through [`ScratchWriter`], which reserves bytes first and hashes the content as it comes in.
//! Called by the resolver of media and by the server's uploads.

mod file;
mod frame_directory;
mod process;
mod space;
mod uploads;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use file::Reservation;
pub(super) use file::too_large;
pub use file::{ScratchFile, ScratchWriter};
pub(super) use frame_directory::{FrameDirectory, FrameFacts};
pub use uploads::{Upload, UploadWriter};

use self::process::ProcessDirectory;
use self::space::ScratchSpace;
use self::uploads::UploadTable;
use crate::error::Result;
use crate::exec::lock;

/// Directory of a server's temporary files. Clones share it.
#[derive(Debug, Clone)]
pub struct Scratch {
    space: Arc<ScratchSpace>,
    uploads: Arc<Mutex<UploadTable>>,
}

/// Use of a scratch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScratchUsage {
    /// Bytes of all files, those in progress included.
    pub n_bytes: u64,
    /// Limit of these bytes.
    pub limit: u64,
    /// Number of uploads.
    pub n_uploads: usize,
}

impl Scratch {
    /// Opens a scratch of at most `limit` bytes in a directory of its own below `root`, and removes the directories of
    /// processes that have ended.
    ///
    /// # Errors
    /// When the directory cannot be created, or its file system has no locks.
    pub fn open(root: &Path, limit: u64) -> Result<Self> {
        let space = ScratchSpace::new(ProcessDirectory::create(root)?, limit);
        Ok(Self { space: Arc::new(space), uploads: Arc::default() })
    }

    /// Begins a file of at most `max_bytes`.
    ///
    /// # Errors
    /// [`Kind::Busy`](crate::error::Kind::Busy) while the scratch is full, and the operating system's.
    pub fn create(&self, max_bytes: u64) -> Result<ScratchWriter> {
        self.expire();
        let mut writer = ScratchWriter::create(Reservation::new(&self.space, None), self.space.path(), max_bytes)?;
        writer.expect(0)?;
        Ok(writer)
    }

    /// Begins a file like [`Self::create`], which is created once it is large, or by [`ScratchFile::store`].
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(super) fn create_in_memory(&self, max_bytes: u64) -> Result<ScratchWriter> {
        self.expire();
        let mut writer = ScratchWriter::in_memory(Reservation::new(&self.space, None), self.space.path(), max_bytes)?;
        writer.expect(0)?;
        Ok(writer)
    }

    /// Begins an upload of at most `max_bytes` for the client of a scope, in whose place older uploads of that scope
    /// are removed where there is no room.
    ///
    /// # Errors
    /// As [`Self::create`], and [`Kind::Busy`](crate::error::Kind::Busy) over the share of uploads.
    pub fn upload(&self, scope: &str, max_bytes: u64) -> Result<UploadWriter> {
        self.expire();
        UploadWriter::create(&self.space, &self.uploads, scope, max_bytes)
    }

    /// Returns the file of an upload, and marks the upload as used.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind::NotFound) for an id that is expired, of another scope, or of nobody.
    pub fn get(&self, id: &str, scope: &str) -> Result<Arc<ScratchFile>> {
        lock(&self.uploads).get(id, scope, Instant::now())
    }

    /// Removes an upload. Requests in progress keep its file.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn remove(&self, id: &str, scope: &str) -> Result<()> {
        lock(&self.uploads).remove(id, scope)
    }

    /// Returns the use of the scratch.
    pub fn usage(&self) -> ScratchUsage {
        ScratchUsage { n_bytes: self.space.n_bytes(), limit: self.space.limit(), n_uploads: lock(&self.uploads).len() }
    }

    /// Begins a directory of frames.
    pub(super) fn frame_directory(&self) -> Result<FrameDirectory> {
        self.expire();
        FrameDirectory::create(&self.space, self.space.path())
    }

    /// Removes the uploads that are expired.
    pub fn expire(&self) {
        lock(&self.uploads).expire(Instant::now());
    }
}

/// Returns 32 hex digits that others cannot guess: the standard library keys its hashers by the operating system's
/// random numbers.
pub fn random_name() -> String {
    let digits = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", digits(), digits())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::pipeline::FeatureKey;
    use crate::video::Window;

    fn write(scratch: &Scratch, n_bytes: usize) -> Result<ScratchFile> {
        let mut writer = scratch.create(1 << 20)?;
        writer.push(&vec![7; n_bytes])?;
        writer.finish()
    }

    #[test]
    fn bytes_are_reserved_before_they_are_written_and_released_with_the_file() {
        let root = tempfile::tempdir().expect("room");
        let scratch = Scratch::open(root.path(), 64 << 10).expect("room");
        let mut first = scratch.create(1 << 20).expect("room");
        first.expect(40 << 10).expect("room");
        let error = write(&scratch, 32 << 10).expect_err("over the limit together");
        assert_eq!(error.kind(), Kind::Busy);
        assert_eq!(error.to_string(), "scratch: 45056 of 65536 bytes are in use; hint: try again later");
        let error = first.expect(65 << 10).expect_err("over the limit alone");
        assert_eq!(
            (error.kind(), error.to_string()),
            (Kind::TooLarge, "scratch: 69632 bytes or more, over the limit of 65536".to_owned())
        );
        drop(first);
        let file = write(&scratch, 32 << 10).expect("the room is free again");
        assert_eq!(scratch.usage(), ScratchUsage { n_bytes: 32 << 10, limit: 64 << 10, n_uploads: 0 });
        let path = file.path().to_owned();
        drop(file);
        assert!(!path.exists() && scratch.usage().n_bytes == 0);
    }

    #[test]
    fn a_file_ends_at_its_own_limit() {
        let root = tempfile::tempdir().expect("room");
        let scratch = Scratch::open(root.path(), 1 << 20).expect("room");
        let mut writer = scratch.create(10).expect("room");
        writer.push(b"12345").expect("five of ten");
        let error = std::io::Write::write_all(&mut writer, b"678901").expect_err("eleven of ten");
        assert_eq!(error.to_string(), "11 bytes or more, over the limit of 10");
        assert_eq!(writer.take_failure().map(|error| error.kind()), Some(Kind::TooLarge));
        let empty = scratch.create(10).expect("room").finish().expect_err("no byte");
        assert_eq!(empty.kind(), Kind::Empty);
    }

    #[test]
    fn a_small_file_waits_in_memory_until_it_is_stored() {
        let root = tempfile::tempdir().expect("room");
        let scratch = Scratch::open(root.path(), 1 << 30).expect("room");
        let written = |n_bytes: usize| {
            let mut writer = scratch.create_in_memory(1 << 20).expect("room");
            vec![7; n_bytes].chunks(1 << 12).for_each(|piece| writer.push(piece).expect("room"));
            writer.finish().expect("bytes")
        };
        let (small, large, same) = (written(9), written(100_000), write(&scratch, 9).expect("room"));
        assert_eq!((small.path().exists(), large.path().exists(), small.hash()), (false, true, same.hash()));
        assert_eq!(std::fs::read(large.path()).expect("created"), [7; 100_000]);
        (0..2).for_each(|_| small.store().expect("room"));
        assert_eq!(std::fs::read(small.path()).expect("created"), [7; 9]);
        let time = |file: &ScratchFile| std::fs::metadata(file.path()).expect("there").modified().expect("a time");
        assert_eq!(time(&small), time(&same));
        let path = small.path().to_owned();
        drop(small);
        assert!(!path.exists());
        // The memory of all small files is bounded: further ones are created at once.
        let waiting: Vec<ScratchFile> = (0..1100).map(|_| written(9)).collect();
        assert_eq!(waiting.iter().filter(|file| file.path().exists()).count(), 1100 - 1024);
        drop(waiting);
        assert!(!written(9).path().exists());
    }

    #[test]
    fn equal_contents_have_equal_times() {
        let root = tempfile::tempdir().expect("room");
        let scratch = Scratch::open(root.path(), 1 << 20).expect("room");
        let time = |file: &ScratchFile| std::fs::metadata(file.path()).expect("there").modified().expect("a time");
        let (a, same, other) = (write(&scratch, 9), write(&scratch, 9), write(&scratch, 8));
        let (a, same, other) = (a.expect("room"), same.expect("room"), other.expect("room"));
        assert_eq!((time(&a), a.hash()), (time(&same), same.hash()));
        assert_ne!(time(&a), time(&other));
        assert_eq!(time(&a), a.hash().time());
    }

    #[test]
    fn equal_contents_have_equal_keys_in_the_cache_of_visual_tokens_after_a_restart() {
        let key = |bytes: &[&[u8]]| {
            let root = tempfile::tempdir().expect("room");
            let scratch = Scratch::open(root.path(), 1 << 20).expect("room");
            // A restarted server counts anew, and other requests came before.
            let _before = write(&scratch, bytes.len());
            let mut directory = scratch.frame_directory().expect("room");
            for bytes in bytes {
                let mut writer = directory.begin(1 << 10).expect("room");
                writer.push(bytes).expect("room");
                directory.add(writer, "jpg").expect("room");
            }
            let of = |path: &Path| FeatureKey::of("model", path, &Window::default(), None).expect("it is there");
            let file = directory.path().join("000000.jpg");
            [of(directory.path()), of(&file)]
        };
        assert_eq!(key(&[b"one", b"two"]), key(&[b"one", b"two"]));
        let ([list, file], [other_list, other_file]) = (key(&[b"one", b"two"]), key(&[b"one", b"six"]));
        assert!(list != other_list && file == other_file);
    }

    #[test]
    fn files_outlive_the_scratch_that_made_them() {
        let root = tempfile::tempdir().expect("room");
        let scratch = Scratch::open(root.path(), 1 << 20).expect("room");
        let file = write(&scratch, 9).expect("room");
        drop(scratch);
        assert!(file.path().exists());
        drop(file);
        assert_eq!(std::fs::read_dir(root.path()).expect("there").count(), 0);
    }

    #[test]
    fn random_names_differ() {
        let names: std::collections::HashSet<_> = (0..1000).map(|_| random_name()).collect();
        assert!(names.len() == 1000 && names.iter().all(|name| name.len() == 32));
    }
}
