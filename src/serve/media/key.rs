//! Keys of media. Two requests with equal keys share visual tokens.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Kind, Result};
use crate::video::FrameRequest;

use super::FrameTiming;

/// Bytes at either end of a local file that identify it, beside its inode, length and times.
const END: u64 = 64 << 10;

/// Identity of a content: BLAKE3 of its bytes, or of the facts of a local file, which may be too long to read twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Returns the hash of bytes that a hasher has seen.
    pub(super) fn of_bytes(hasher: &blake3::Hasher) -> Self {
        Self(*hasher.finalize().as_bytes())
    }

    /// Returns the hash of a list of contents.
    pub(super) fn of_list(contents: &[Self]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"list");
        for content in contents {
            hasher.update(&content.0);
        }
        Self::of_bytes(&hasher)
    }

    /// Returns the identity of an open local file: device, inode, length, times of the last changes, both ends.
    ///
    /// # Errors
    /// The operating system's.
    #[cfg(unix)]
    pub(super) fn of_local(mut file: &File) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let meta = file.metadata()?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"local file");
        for fact in [meta.dev(), meta.ino(), meta.len()] {
            hasher.update(&fact.to_le_bytes());
        }
        for time in [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()] {
            hasher.update(&time.to_le_bytes());
        }
        for at in [0, meta.len().saturating_sub(END)] {
            file.seek(SeekFrom::Start(at))?;
            hasher.update_reader(file.take(END))?;
        }
        Ok(Self::of_bytes(&hasher))
    }

    /// Returns a time of modification that stands for the content. The cache of visual tokens on disk goes by length,
    /// time and ends of a file, so equal content is found again under any name and after a restart.
    pub(super) fn time(self) -> SystemTime {
        const NANOSECONDS: u32 = 1_000_000_000;
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        // Seconds that every file system can store, to 2038.
        let seconds = u32::from_le_bytes([a, b, c, d]) >> 1;
        let nanoseconds = u32::from_le_bytes([e, f, g, h]) % NANOSECONDS;
        SystemTime::UNIX_EPOCH + Duration::new(u64::from(seconds), nanoseconds)
    }
}

/// Key of a medium: its content, the frames that are taken of it and their times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MediaKey([u8; 32]);

impl MediaKey {
    /// Returns a key of its own for some bytes.
    #[cfg(test)]
    pub(crate) fn of_content(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the key of the frames of a content. Of a list, `positions` are those of the frames that are taken.
    ///
    /// # Errors
    /// Never for requests that were parsed: their keys are texts.
    pub(super) fn of(content: ContentHash, frames: &FrameRequest, list: Option<&ListFrames>) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&content.0);
        let list = list.map(|list| (&list.positions, &list.timing));
        let json = serde_json::to_vec(&(frames, list)).map_err(|error| Error::caused_by(Kind::Defect, error))?;
        hasher.update(&json);
        Ok(Self(*hasher.finalize().as_bytes()))
    }
}

impl fmt::Display for MediaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// Frames that are taken of a list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ListFrames {
    /// Positions in the list, ascending.
    pub(super) positions: Vec<usize>,
    /// Times of these frames, if the client gave any.
    pub(super) timing: Option<FrameTiming>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::{Sample, Window};

    fn content(bytes: &[u8]) -> ContentHash {
        ContentHash::of_bytes(blake3::Hasher::new().update(bytes))
    }

    #[test]
    fn a_key_follows_content_frames_and_times() {
        let request = |n| FrameRequest::new(Sample::uniform(n), Window::default());
        let key = |bytes, n, list: Option<&ListFrames>| MediaKey::of(content(bytes), &request(n), list).expect("plain");
        assert_eq!(key(b"a", 4, None), key(b"a", 4, None));
        let list = |positions: &[usize], fps| ListFrames {
            positions: positions.to_vec(),
            timing: Some(FrameTiming { fps, ..FrameTiming::default() }),
        };
        let (two, faster) = (list(&[0, 1], Some(1.0)), list(&[0, 1], Some(2.0)));
        let other = list(&[0, 2], Some(1.0));
        let untimed = ListFrames { timing: None, ..two.clone() };
        let lists = [None, Some(&two), Some(&faster), Some(&other), Some(&untimed)];
        let mut keys: Vec<MediaKey> = lists.iter().map(|list| key(b"a", 4, *list)).collect();
        keys.extend([key(b"b", 4, None), key(b"a", 5, None)]);
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(keys[0].to_string().len(), 64);
    }

    #[test]
    fn a_list_is_not_its_bytes() {
        let [ab, c] = [content(b"ab"), content(b"c")];
        assert_ne!(ContentHash::of_list(&[ab, c]), ContentHash::of_list(&[c, ab]));
        assert_ne!(ContentHash::of_list(&[ab]), ab);
    }

    #[test]
    fn the_time_of_a_content_can_be_stored_by_any_file_system() {
        let largest = ContentHash([0xff; 32]).time().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        assert_eq!(largest.as_secs(), (1 << 31) - 1);
        assert_eq!(content(b"a").time(), content(b"a").time());
        assert_ne!(content(b"a").time(), content(b"b").time());
    }
}
