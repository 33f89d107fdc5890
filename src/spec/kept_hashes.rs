//! Hashes of large model files that were computed before, kept by path, length and times: a checkpoint of many
//! gigabytes is not read again before each answer.
//!
//! They stand in one JSON file in the user's cache. What cannot be read or written there costs time and nothing else.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::files::{self, Durability};

/// Smaller files are hashed as fast as they are looked up.
const SMALLEST: u64 = 8 << 20;
/// Files that are remembered; beyond, those that are gone are forgotten.
const MAX_FILES: usize = 4096;

/// Hashes by the file that they are of.
#[derive(Debug, Default)]
pub(super) struct KeptHashes {
    place: Option<PathBuf>,
    known: BTreeMap<PathBuf, KeptHash>,
    has_new: bool,
}

/// A hash, and what the file was like then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptHash {
    bytes: u64,
    /// Nanoseconds since 1970 at which the contents changed, and at which the file's entry did where the system knows.
    times: [u128; 2],
    blake3: String,
}

impl KeptHashes {
    /// Opens the hashes of the user: `vidense/model-hashes.json` in `$XDG_CACHE_HOME` or `~/.cache`.
    pub(super) fn of_user() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
        cache.map_or_else(Self::default, |cache| Self::open(&cache.join("vidense").join("model-hashes.json")))
    }

    /// Opens the hashes in a file; empty where the file cannot be read.
    pub(super) fn open(place: &Path) -> Self {
        let bytes = std::fs::read(place).unwrap_or_default();
        Self {
            place: Some(place.to_owned()),
            known: serde_json::from_slice(&bytes).unwrap_or_default(),
            has_new: false,
        }
    }

    /// The hash of a file that is as it was when it was hashed.
    pub(super) fn get(&self, path: &Path) -> Option<(u64, String)> {
        let (path, now) = identify(path)?;
        let kept = self.known.get(&path).filter(|kept| (kept.bytes, kept.times) == now)?;
        Some((kept.bytes, kept.blake3.clone()))
    }

    /// Remembers the hash of a file that is large.
    pub(super) fn put(&mut self, path: &Path, blake3: &str) {
        if let Some((path, (bytes, times))) = identify(path) {
            self.known.insert(path, KeptHash { bytes, times, blake3: blake3.to_owned() });
            self.has_new = true;
        }
    }

    /// Writes what is new.
    pub(super) fn save(mut self) {
        let Some(place) = self.place.filter(|_| self.has_new) else { return };
        if self.known.len() > MAX_FILES {
            self.known.retain(|path, _| path.exists());
        }
        let written = place.parent().map(files::output::create_directory).transpose();
        if let (Ok(_), Ok(bytes)) = (written, serde_json::to_vec(&self.known)) {
            let _ = files::output::replace(&place, &bytes, Durability::Renamed);
        }
    }
}

/// The resolved path of a large file with its length and times.
fn identify(path: &Path) -> Option<(PathBuf, (u64, [u128; 2]))> {
    let path = path.canonicalize().ok()?;
    let metadata = path.metadata().ok().filter(|metadata| metadata.len() >= SMALLEST)?;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    Some((path, (metadata.len(), [modified, changed(&metadata)])))
}

#[cfg(unix)]
fn changed(metadata: &Metadata) -> u128 {
    use std::os::unix::fs::MetadataExt;
    let nanoseconds = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    u128::try_from(nanoseconds).unwrap_or_default()
}

#[cfg(not(unix))]
fn changed(_: &Metadata) -> u128 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_kept_until_the_file_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (place, model) = (dir.path().join("cache/hashes.json"), dir.path().join("model.safetensors"));
        let small = dir.path().join("config.json");
        std::fs::write(&model, vec![1; SMALLEST as usize]).expect("written");
        std::fs::write(&small, "{}").expect("written");
        let mut kept = KeptHashes::open(&place);
        assert_eq!(kept.get(&model), None);
        kept.put(&model, "abc");
        kept.put(&small, "def");
        kept.save();
        let kept = KeptHashes::open(&place);
        assert_eq!((kept.get(&model), kept.get(&small)), (Some((SMALLEST, "abc".to_owned())), None));
        // The same length and another time.
        let file = std::fs::File::options().write(true).open(&model).expect("it is there");
        file.set_modified(UNIX_EPOCH + std::time::Duration::from_secs(5)).expect("set");
        assert_eq!(KeptHashes::open(&place).get(&model), None);
        std::fs::write(&place, "not JSON").expect("written");
        assert_eq!(KeptHashes::open(&place).get(&model), None);
    }
}
