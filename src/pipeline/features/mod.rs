//! Cache of visual tokens on disk: a video that was encoded once is not decoded again for other questions.
//!
//! Entries are found by `FeatureKey`. Each is written to a temporary file and renamed, so several processes may share
//! a directory; a damaged entry is removed and made again. Over the size limit the least recently used entries are
//! removed. Called by the stages, and by `cache` for its statistics.

mod directory;
mod entry;
mod identity;
mod key;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use candle_core::Device;

pub use directory::{CacheStats, cache_stats, clear_cache};
pub use identity::{identity, identity_under};
pub(crate) use key::FeatureKey;

use self::directory::{EXTENSION, entries, shrink};
use super::EncodedVideo;
use crate::error::{Error, Kind};
use crate::exec::lock;
use crate::files::output::create_directory;
use crate::files::{Durability, output};
use crate::temporal::Temporal;

/// Cache of visual tokens in a directory.
pub struct FeatureCache {
    dir: PathBuf,
    /// Maximum number of bytes of all entries.
    limit: u64,
    /// Identity of the computation ([`identity`]).
    made_by: String,
    /// Size of the directory; `None` before the first listing.
    size: Mutex<Option<DirectorySize>>,
    /// Error of the last entry that could not be written.
    write_error: Mutex<Option<Error>>,
}

/// Size of a directory as this process knows it; others may write to it as well.
#[derive(Clone, Copy)]
struct DirectorySize {
    /// Bytes at the last listing.
    listed: u64,
    /// Bytes written by this process since then.
    written: u64,
}

impl FeatureCache {
    /// Opens a directory for visual tokens of the identity `made_by` ([`identity`]), and creates it if it does not
    /// exist.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn open(dir: &Path, limit: u64, made_by: String) -> io::Result<Self> {
        create_directory(dir)?;
        Ok(Self { dir: dir.to_owned(), limit, made_by, size: Mutex::new(None), write_error: Mutex::new(None) })
    }

    /// Identity of the computation.
    pub(super) fn made_by(&self) -> &str {
        &self.made_by
    }

    /// Returns the entry of a key, if it exists and is not damaged.
    pub(super) fn get(&self, key: &FeatureKey, temporal: Temporal, device: &Device) -> Option<EncodedVideo> {
        let path = self.path(key);
        let bytes = std::fs::read(&path).ok()?;
        match entry::read(&bytes, temporal) {
            Ok(video) => {
                // A device out of memory is no damage to the entry.
                let visual = video.visual.to_device(device).ok()?;
                // The time of the last use; a read-only cache is read all the same.
                let _ = std::fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                Some(EncodedVideo { visual, ..video })
            }
            Err(_) => {
                let _ = std::fs::remove_file(&path);
                None
            }
        }
    }

    /// Writes a video's tokens. A failed write is not an error: see [`Self::take_write_error`].
    pub(super) fn put(&self, key: &FeatureKey, video: &EncodedVideo) {
        let in_dir = |error: io::Error| Error::caused_by(Kind::Unreadable, error);
        let written = entry::write(video).and_then(|bytes| self.write(key, &bytes).map_err(in_dir));
        if let Err(error) = written {
            *lock(&self.write_error) = Some(error.about(&self.dir));
        }
    }

    fn write(&self, key: &FeatureKey, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        if length > self.limit {
            return Ok(());
        }
        let path = self.path(key);
        create_directory(path.parent().unwrap_or(&self.dir))?;
        output::replace(&path, bytes, Durability::Renamed)?;
        self.make_room(length)
    }

    /// Counts new bytes, and removes the least recently used entries once they are over the limit. Other processes may
    /// write as well, so the directory is listed again after every tenth of the limit.
    fn make_room(&self, new: u64) -> io::Result<()> {
        let slack = self.limit / 10;
        let mut known = lock(&self.size);
        let size = match *known {
            Some(DirectorySize { listed, written }) if written + new <= slack => {
                DirectorySize { listed, written: written + new }
            }
            _ => DirectorySize { listed: entries(&self.dir).map(|entry| entry.bytes).sum(), written: 0 },
        };
        *known = Some(size);
        if size.listed + size.written > self.limit {
            // More than needed is removed: listing all entries is slow.
            *known = Some(DirectorySize { listed: shrink(&self.dir, self.limit - slack)?, written: 0 });
        }
        Ok(())
    }

    /// Takes the error of the last failed write, if there was one since the last call.
    pub(crate) fn take_write_error(&self) -> Option<Error> {
        lock(&self.write_error).take()
    }

    fn path(&self, key: &FeatureKey) -> PathBuf {
        let digits = key.as_str();
        self.dir.join(&digits[..2]).join(digits).with_extension(EXTENSION)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pipeline::Timings;
    use crate::video::{ReadReport, Window};
    use candle_core::{DType, Tensor};

    fn video(n_rows: usize) -> EncodedVideo {
        EncodedVideo {
            visual: Tensor::zeros((n_rows, 4), DType::F32, &Device::Cpu).expect("small"),
            frames: Vec::new(),
            report: ReadReport::default(),
            temporal: Temporal::D2,
            timings: Timings::default(),
            thumbnail: None,
            is_cached: false,
        }
    }

    /// A cache, and the keys of `n` files.
    fn cache(dir: &Path, limit: u64, n: usize) -> (FeatureCache, Vec<FeatureKey>) {
        let key = |i: usize| {
            let path = dir.join(format!("video-{i}"));
            std::fs::write(&path, i.to_le_bytes()).expect("a small file");
            FeatureKey::of("m", &path, &Window::default(), None).expect("it is there")
        };
        let keys = (0..n).map(key).collect();
        (FeatureCache::open(&dir.join("cache"), limit, "m".to_owned()).expect("a directory"), keys)
    }

    #[test]
    fn an_entry_is_found_until_it_is_damaged() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cache, keys) = cache(dir.path(), 1 << 20, 2);
        let get = |key| cache.get(key, Temporal::D2, &Device::Cpu);
        assert!(get(&keys[0]).is_none());
        cache.put(&keys[0], &video(3));
        assert_eq!(get(&keys[0]).expect("just put").visual.dims(), [3, 4]);
        assert!(get(&keys[1]).is_none());
        let path = cache.path(&keys[0]);
        let mut bytes = std::fs::read(&path).expect("it is there");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(&path, bytes).expect("ours");
        assert!(get(&keys[0]).is_none() && !path.exists());
    }

    #[test]
    fn the_least_recently_used_entries_are_removed_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let one = entry::write(&video(50)).expect("small").len() as u64;
        let (cache, keys) = cache(dir.path(), 3 * one + one / 2, 4);
        for (i, key) in keys.iter().take(3).enumerate() {
            cache.put(key, &video(50));
            let used = SystemTime::now() - Duration::from_secs(100 - i as u64);
            let file = std::fs::File::options().append(true).open(cache.path(key)).expect("just put");
            file.set_modified(used).expect("ours");
        }
        assert_eq!(cache_stats(&dir.path().join("cache")).n_entries, 3);
        // The first is used again, so the second is the oldest.
        assert!(cache.get(&keys[0], Temporal::D2, &Device::Cpu).is_some());
        cache.put(&keys[3], &video(50));
        let left: Vec<bool> = keys.iter().map(|key| cache.path(key).exists()).collect();
        assert_eq!(left, [true, false, true, true]);
        // An entry over the limit is not written.
        cache.put(&keys[1], &video(5000));
        assert!(!cache.path(&keys[1]).exists());
    }

    #[test]
    fn clearing_leaves_other_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cache, keys) = cache(dir.path(), 1 << 20, 1);
        cache.put(&keys[0], &video(3));
        let (other, near) = (cache.dir.join("ab").join("notes.safetensors"), cache.dir.join("README"));
        std::fs::create_dir_all(other.parent().expect("a parent")).expect("ours");
        std::fs::write(&other, "x").expect("ours");
        std::fs::write(&near, "x").expect("ours");
        assert_eq!(clear_cache(&cache.dir).expect("ours").n_entries, 1);
        assert!(!cache.path(&keys[0]).exists() && other.exists() && near.exists());
        assert_eq!(clear_cache(Path::new("/nonexistent/cache")).expect("nothing"), CacheStats::default());
    }
}
