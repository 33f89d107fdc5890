//! Visual tokens on disk: what was encoded once need not be decoded again to be asked something else.
//!
//! Entries are found by [`FeatureKey`]. Each is written beside and renamed, so several processes may share a directory; one that
//! is damaged is thrown away and made again. When they grow over the limit, those go first that were not used for longest.

mod entry;
mod identity;
mod key;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use candle_core::Device;
use walkdir::WalkDir;

pub use identity::identity;
pub use key::FeatureKey;

use super::EncodedVideo;
use crate::exec::lock;
use crate::files::output::{UNFINISHED, create_directory};
use crate::files::{Flush, output};
use crate::temporal::Temporal;

const ENDING: &str = "safetensors";
/// What was begun so long ago, nobody will finish.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A directory of entries.
pub struct FeatureCache {
    dir: PathBuf,
    /// Bytes that it may grow to.
    limit: u64,
    /// The model, and all choices that its visual tokens depend on.
    made_by: String,
    /// Bytes that it held when this process last looked, and those that it wrote since; none before it has looked.
    total: Mutex<Option<(u64, u64)>>,
    n_found: AtomicU64,
    n_damaged: AtomicU64,
    /// Why the last entry could not be written.
    refusal: Mutex<Option<String>>,
}

/// What a directory of entries holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Entries.
    pub n_entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the one was used last that was not used for longest.
    pub oldest: Option<SystemTime>,
}

struct CacheEntry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
    is_whole: bool,
}

impl FeatureCache {
    /// Opens a directory for the tokens that `made_by` stands for ([`identity`]), and makes it if there is none.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path, limit: u64, made_by: String) -> io::Result<Self> {
        create_directory(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            limit,
            made_by,
            total: Mutex::new(None),
            n_found: AtomicU64::new(0),
            n_damaged: AtomicU64::new(0),
            refusal: Mutex::new(None),
        })
    }

    /// What its entries are made by.
    pub(super) fn made_by(&self) -> &str {
        &self.made_by
    }

    /// An entry, if there is one that is whole.
    pub(super) fn get(&self, key: &FeatureKey, temporal: Temporal, device: &Device) -> Option<EncodedVideo> {
        let path = self.path(key);
        let bytes = std::fs::read(&path).ok()?;
        match entry::read(&bytes, temporal) {
            Ok(video) => {
                // A device that has no room says nothing of the entry.
                let visual = video.visual.to_device(device).ok()?;
                self.n_found.fetch_add(1, Ordering::Relaxed);
                // Used last just now; a cache that cannot be written to is read all the same.
                let _ = std::fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                Some(EncodedVideo { visual, ..video })
            }
            Err(_) => {
                self.n_damaged.fetch_add(1, Ordering::Relaxed);
                let _ = std::fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps a video's tokens. What cannot be written is only missed: see [`Self::take_refusal`].
    pub(super) fn put(&self, key: &FeatureKey, video: &EncodedVideo) {
        let written = entry::write(video).map_err(io::Error::other).and_then(|bytes| self.write(key, &bytes));
        if let Err(error) = written {
            *lock(&self.refusal) = Some(format!("{}: {error}", self.dir.display()));
        }
    }

    fn write(&self, key: &FeatureKey, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        if length > self.limit {
            return Ok(());
        }
        let path = self.path(key);
        create_directory(path.parent().unwrap_or(&self.dir))?;
        output::write(&path, bytes, Flush::Rename)?;
        self.make_room(length)
    }

    /// Counts new bytes, and removes what was not used for longest once there are too many. Others may write as well, so it
    /// looks again now and then.
    fn make_room(&self, new: u64) -> io::Result<()> {
        let slack = self.limit / 10;
        let mut total = lock(&self.total);
        let (held, written) = match *total {
            Some((held, written)) if written + new <= slack => (held, written + new),
            _ => (entries(&self.dir).map(|entry| entry.bytes).sum(), 0),
        };
        *total = Some((held, written));
        if held + written > self.limit {
            // Some more than is needed: to look at all entries takes long.
            *total = Some((shrink(&self.dir, self.limit - slack)?, 0));
        }
        Ok(())
    }

    /// Entries that were found.
    pub fn n_found(&self) -> u64 {
        self.n_found.load(Ordering::Relaxed)
    }

    /// Entries that were damaged, and thrown away.
    pub fn n_damaged(&self) -> u64 {
        self.n_damaged.load(Ordering::Relaxed)
    }

    /// Why an entry could not be written, if that happened since this was last asked.
    pub fn take_refusal(&self) -> Option<String> {
        lock(&self.refusal).take()
    }

    fn path(&self, key: &FeatureKey) -> PathBuf {
        let digits = key.as_str();
        self.dir.join(&digits[..2]).join(digits).with_extension(ENDING)
    }
}

/// What a directory holds. One that is not there holds nothing.
pub fn cache_stats(dir: &Path) -> CacheStats {
    entries(dir).filter(|entry| entry.is_whole).fold(CacheStats::default(), |stats, entry| CacheStats {
        n_entries: stats.n_entries + 1,
        bytes: stats.bytes + entry.bytes,
        oldest: Some(stats.oldest.map_or(entry.used, |oldest| oldest.min(entry.used))),
    })
}

/// Removes all entries of a directory, and nothing else. Says what was removed.
///
/// # Errors
/// When one cannot be removed.
pub fn clear_cache(dir: &Path) -> io::Result<CacheStats> {
    let stats = cache_stats(dir);
    shrink(dir, 0).map(|_| stats)
}

/// Removes entries until at most `limit` bytes are left, and says how many those are.
fn shrink(dir: &Path, limit: u64) -> io::Result<u64> {
    let mut all: Vec<CacheEntry> = entries(dir).collect();
    let mut left: u64 = all.iter().map(|entry| entry.bytes).sum();
    all.sort_by_key(|entry| entry.used);
    for entry in all {
        let is_abandoned = !entry.is_whole && entry.used.elapsed().is_ok_and(|age| age > ABANDONED);
        if (left > limit && entry.is_whole) || is_abandoned {
            match std::fs::remove_file(&entry.path) {
                // Another process may have been quicker.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => left -= entry.bytes,
            }
        }
    }
    Ok(left)
}

/// The files of a directory that are entries, or were to become one; others are not ours.
fn entries(dir: &Path) -> impl Iterator<Item = CacheEntry> {
    let is_ours = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let shard = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let key = name.strip_suffix(ENDING).and_then(|name| name.strip_suffix('.'));
        let is_hex = |text: &str| text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let is_entry = key.is_some_and(|key| key.len() == 32 && is_hex(key) && key.starts_with(&*shard));
        (is_entry || (name.starts_with(UNFINISHED) && shard.len() == 2 && is_hex(&shard))).then_some(is_entry)
    };
    WalkDir::new(dir).min_depth(2).max_depth(2).into_iter().filter_map(move |found| {
        let found = found.ok()?;
        let is_whole = is_ours(found.path())?;
        let meta = found.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(CacheEntry { path: found.into_path(), bytes: meta.len(), used: meta.modified().ok()?, is_whole })
    })
}

#[cfg(test)]
mod tests {
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
            is_found: false,
        }
    }

    /// A cache, and the keys of `n` files.
    fn cache(dir: &Path, limit: u64, n: usize) -> (FeatureCache, Vec<FeatureKey>) {
        let key = |i: usize| {
            let path = dir.join(format!("video-{i}"));
            std::fs::write(&path, i.to_le_bytes()).expect("a small file");
            FeatureKey::of("m", &path, &Window::default()).expect("it is there")
        };
        let keys = (0..n).map(key).collect();
        (FeatureCache::open(&dir.join("cache"), limit, "m".to_owned()).expect("a directory"), keys)
    }

    #[test]
    fn what_is_put_is_found_and_what_is_damaged_is_not() {
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
        assert_eq!((cache.n_found(), cache.n_damaged()), (1, 1));
    }

    #[test]
    fn those_go_first_that_were_not_used_for_longest() {
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
        // What is larger than all room is not kept.
        cache.put(&keys[1], &video(5000));
        assert!(!cache.path(&keys[1]).exists());
    }

    #[test]
    fn clearing_leaves_what_is_not_ours() {
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
