//! Directory of cache entries: its listing, its statistics, and the removal of the least recently used entries.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use walkdir::WalkDir;

use crate::files::output::TEMPORARY_PREFIX;

/// File extension of an entry.
pub(super) const EXTENSION: &str = "safetensors";
/// Age after which an unfinished file counts as abandoned.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Statistics of a cache directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Number of entries.
    pub n_entries: u64,
    /// Bytes of all entries.
    pub bytes: u64,
    /// Time of the last use of the least recently used entry.
    pub oldest: Option<SystemTime>,
}

/// File of a directory.
pub(super) struct CacheEntry {
    path: PathBuf,
    pub(super) bytes: u64,
    used: SystemTime,
    /// Whether the file is an entry, not an unfinished one.
    is_whole: bool,
}

/// Returns the statistics of a directory; a missing directory is empty.
pub fn cache_stats(dir: &Path) -> CacheStats {
    entries(dir).filter(|entry| entry.is_whole).fold(CacheStats::default(), |stats, entry| CacheStats {
        n_entries: stats.n_entries + 1,
        bytes: stats.bytes + entry.bytes,
        oldest: Some(stats.oldest.map_or(entry.used, |oldest| oldest.min(entry.used))),
    })
}

/// Removes all entries of a directory, and no other files. Returns the statistics of the removed entries.
///
/// # Errors
/// When an entry cannot be removed.
pub fn clear_cache(dir: &Path) -> io::Result<CacheStats> {
    let stats = cache_stats(dir);
    shrink(dir, 0).map(|_| stats)
}

/// Removes the least recently used entries until at most `limit` bytes are left. Returns the bytes that are left.
pub(super) fn shrink(dir: &Path, limit: u64) -> io::Result<u64> {
    let mut all: Vec<CacheEntry> = entries(dir).collect();
    let mut left: u64 = all.iter().map(|entry| entry.bytes).sum();
    all.sort_by_key(|entry| entry.used);
    for entry in all {
        let is_abandoned = !entry.is_whole && entry.used.elapsed().is_ok_and(|age| age > ABANDONED);
        if (left > limit && entry.is_whole) || is_abandoned {
            match std::fs::remove_file(&entry.path) {
                // Another process may have removed it first.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => left -= entry.bytes,
            }
        }
    }
    Ok(left)
}

/// Lists the files of a directory that are entries or unfinished entries; other files are not listed.
pub(super) fn entries(dir: &Path) -> impl Iterator<Item = CacheEntry> {
    let is_ours = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let shard = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let key = name.strip_suffix(EXTENSION).and_then(|name| name.strip_suffix('.'));
        let is_hex = |text: &str| text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let is_entry = key.is_some_and(|key| key.len() == 32 && is_hex(key) && key.starts_with(&*shard));
        (is_entry || (name.starts_with(TEMPORARY_PREFIX) && shard.len() == 2 && is_hex(&shard))).then_some(is_entry)
    };
    WalkDir::new(dir).min_depth(2).max_depth(2).into_iter().filter_map(move |found| {
        let found = found.ok()?;
        let is_whole = is_ours(found.path())?;
        let meta = found.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(CacheEntry { path: found.into_path(), bytes: meta.len(), used: meta.modified().ok()?, is_whole })
    })
}
