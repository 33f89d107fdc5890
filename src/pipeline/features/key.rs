//! Key of cached visual tokens: a hash of the model, the choices and the file that they were computed from.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::video::{FrameRequest, Window};

/// Bytes at either end of a file that are hashed: copies and renamed files keep their key, and other files of the same
/// length and time get another one.
const END: u64 = 64 << 10;
/// Number of hex digits of a key.
const DIGITS: usize = 32;

/// Name of a cache entry: 32 hex digits of BLAKE3.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FeatureKey(String);

impl FeatureKey {
    /// Returns the key of a model's visual tokens of a window of a video. `made_by` identifies the model and all
    /// choices but the window ([`identity`](super::identity)); `own` is a request for other frames than the plan's.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn of(made_by: &str, path: &Path, window: &Window, own: Option<&FrameRequest>) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(made_by.as_bytes());
        for end in [window.start, window.end] {
            let bits = end.map_or(u64::MAX, |seconds| seconds.0.to_bits());
            hasher.update(&bits.to_le_bytes());
        }
        if let Some(own) = own {
            hasher.update(&serde_json::to_vec(own)?);
        }
        let meta = std::fs::metadata(path)?;
        if meta.is_dir() {
            add_directory(&mut hasher, path)?
        } else {
            add_file(&mut hasher, path, &meta)?
        }
        Ok(Self(hasher.finalize().to_hex()[..DIGITS].to_owned()))
    }

    /// Returns the hex digits.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn add_file(hasher: &mut blake3::Hasher, path: &Path, meta: &Metadata) -> io::Result<()> {
    // Opening a pipe would block.
    if !meta.is_file() {
        return Err(io::Error::other("neither a regular file nor a directory"));
    }
    add_facts(hasher, meta);
    let mut file = File::open(path)?;
    hasher.update_reader((&mut file).take(END))?;
    if meta.len() > END {
        file.seek(SeekFrom::Start(meta.len().saturating_sub(END).max(END)))?;
        hasher.update_reader(file.take(END))?;
    }
    Ok(())
}

/// Hashes the length and the modification time.
fn add_facts(hasher: &mut blake3::Hasher, meta: &Metadata) {
    let changed = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    hasher.update(&meta.len().to_le_bytes());
    hasher.update(&changed.as_nanos().to_le_bytes());
}

/// Hashes the names, lengths and times of the files of a directory of images.
fn add_directory(hasher: &mut blake3::Hasher, path: &Path) -> io::Result<()> {
    let mut entries = std::fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_encoded_bytes());
        add_facts(hasher, &std::fs::metadata(entry.path())?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Seconds;
    use crate::video::{ImageRate, Sample};
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_key_follows_the_bytes_and_the_choices_not_the_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).expect("a small file");
            File::options().append(true).open(&path).expect("it is there").set_modified(time).expect("it is ours");
            path
        };
        let whole = Window::default();
        let part = Window { start: Some(Seconds(1.0)), end: None };
        let key = |made_by, path: &Path, window| FeatureKey::of(made_by, path, window, None).expect("it is there");
        let (a, same) = (write("a", b"12345"), write("b", b"12345"));
        assert_eq!(key("m", &a, &whole), key("m", &same, &whole));
        assert_ne!(key("m", &a, &whole), key("m", &a, &part));
        assert_ne!(key("m", &a, &whole), key("n", &a, &whole));
        let other = |frames| {
            let own = FrameRequest::new(Sample::uniform(frames), whole);
            FeatureKey::of("m", &a, &whole, Some(&own)).expect("it is there")
        };
        assert_ne!(other(4), key("m", &a, &whole));
        assert_ne!(other(4), other(5));
        let own = FrameRequest::new(Sample::uniform(4), whole);
        let rated = FrameRequest { image_rate: ImageRate::new(3.0).ok(), ..own };
        assert_ne!(FeatureKey::of("m", &a, &whole, Some(&rated)).expect("it is there"), other(4));
        assert_ne!(key("m", &a, &whole), key("m", &write("c", b"12346"), &whole));
        // Only the last byte of a long file differs.
        let mut long = vec![0; 200 << 10];
        let first = key("m", &write("d", &long), &whole);
        *long.last_mut().expect("not empty") = 1;
        assert_ne!(first, key("m", &write("d", &long), &whole));
        assert_ne!(key("m", dir.path(), &whole), {
            write("e", b"more");
            key("m", dir.path(), &whole)
        });
    }
}
