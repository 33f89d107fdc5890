//! Items of a batch: a video or a window of one, with an identity that is the same on every machine, and shards of
//! them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::questions::BatchQuestion;
use crate::error::Error;
use crate::text::Subtitle;
use crate::video::{ImageRate, Window};

/// Identity of an item or of a question: 128 bits of BLAKE3, written as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u128);

impl Id {
    fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut first = [0; 16];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(u128::from_be_bytes(first))
    }

    /// Returns the identity of an item: the hash of its name in the archive, byte by byte, and of its window.
    pub(crate) fn of_item(name: &[u8], window: Option<&Window>) -> Self {
        let bits = |time: Option<crate::units::Seconds>| time.map_or(u64::MAX, |time| time.0.to_bits()).to_le_bytes();
        let window = window.copied().unwrap_or_default();
        Self::of(&[name, &bits(window.start), &bits(window.end)])
    }

    /// Returns the identity of an item whose images have a rate.
    #[must_use]
    pub(crate) fn with_image_rate(self, rate: ImageRate) -> Self {
        Self::of(&[&self.0.to_be_bytes(), b"image_rate", &rate.per_second().to_bits().to_le_bytes()])
    }

    /// Returns the identity of an item with subtitles between its frames.
    #[must_use]
    pub(crate) fn with_subtitles(self, subtitles: &[Subtitle]) -> Self {
        let id = self.0.to_be_bytes();
        let times: Vec<[[u8; 8]; 2]> =
            subtitles.iter().map(|shown| [shown.start, shown.end].map(|time| time.0.to_bits().to_le_bytes())).collect();
        let parts = times.iter().zip(subtitles).flat_map(|([start, end], shown)| [start, end, shown.text.as_bytes()]);
        Self::of(&[&id[..], b"subtitles"].into_iter().chain(parts).collect::<Vec<&[u8]>>())
    }

    /// Returns the identity of a question about this item.
    #[must_use]
    pub(crate) fn with_question(self, question: &str) -> Self {
        Self::of(&[&self.0.to_be_bytes(), question.as_bytes()])
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let digits = Some(&*text).filter(|text| text.len() == 32).and_then(|text| u128::from_str_radix(text, 16).ok());
        digits.map(Self).ok_or_else(|| D::Error::custom("expected 32 hex digits"))
    }
}

/// A video of an archive or a window of one, with its questions.
#[derive(Debug, Clone, PartialEq)]
pub struct ArchiveItem {
    /// Identity, the same on every machine.
    pub id: Id,
    /// Name in the archive: a path below the folder, or as written in the manifest.
    pub video: String,
    /// Path on this machine.
    pub path: PathBuf,
    /// Window of the video to read, if not the plan's.
    pub window: Option<Window>,
    /// Rate of the images of a directory, if not the plan's.
    pub image_rate: Option<ImageRate>,
    /// Subtitles that stand between the frames; none for a video without.
    pub subtitles: Arc<[Subtitle]>,
    /// Questions about this item alone.
    pub questions: Vec<BatchQuestion>,
}

impl ArchiveItem {
    /// Creates an item with the identity of its name in the archive and its window.
    pub(crate) fn new(name: &[u8], path: PathBuf, window: Option<Window>) -> Self {
        let (id, video) = (Id::of_item(name, window.as_ref()), readable(name));
        Self { id, video, path, window, image_rate: None, subtitles: Arc::default(), questions: Vec::new() }
    }

    /// Sets the rate of the item's images, which is part of its identity.
    #[must_use]
    pub(crate) fn with_image_rate(self, image_rate: Option<ImageRate>) -> Self {
        let id = image_rate.map_or(self.id, |rate| self.id.with_image_rate(rate));
        Self { id, image_rate, ..self }
    }

    /// Sets the subtitles between the item's frames, which are part of its identity.
    #[must_use]
    pub(crate) fn with_subtitles(self, subtitles: &Arc<[Subtitle]>) -> Self {
        let id = if subtitles.is_empty() { self.id } else { self.id.with_subtitles(subtitles) };
        Self { id, subtitles: subtitles.clone(), ..self }
    }

    /// Returns the number of bytes of the item's file; 0 if the file cannot be read.
    pub(super) fn file_size(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |meta| meta.len())
    }
}

/// Returns a name of bytes as text; bytes that are not UTF-8 are written as `\xNN`.
pub(crate) fn readable(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text += chunk.valid();
        chunk.invalid().iter().for_each(|byte| text += &format!("\\x{byte:02x}"));
    }
    text
}

/// One of the parts of an archive that are spread over machines, by the hash of each item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    of: u64,
}

impl Default for Shard {
    /// Returns the whole archive.
    fn default() -> Self {
        Self { index: 0, of: 1 }
    }
}

impl Shard {
    /// Returns whether the shard is the whole archive.
    pub(crate) fn is_whole(&self) -> bool {
        self.of == 1
    }

    /// Number of shards of the archive.
    pub fn of(&self) -> u64 {
        self.of
    }

    /// Index of the shard.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Returns whether an item belongs to the shard.
    pub(crate) fn contains(&self, id: Id) -> bool {
        id.0 % u128::from(self.of) == u128::from(self.index)
    }
}

impl FromStr for Shard {
    type Err = Error;

    /// Parses `i/n`. The shards of all `i` are the same whether `i` counts from 0 or from 1: `n/n` is `0/n`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse::<u64>().ok()?, n.parse::<u64>().ok()?)));
        match parts {
            Some((i, n)) if n > 0 && i <= n => Ok(Self { index: i % n, of: n }),
            _ => Err(Error::invalid(format!("invalid shard `{text}`")).with_hint("0/3, 1/3, 2/3 (3/3 is 0/3)")),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Seconds;

    #[test]
    fn shards_cover_everything_once_and_never_change() {
        let ids: Vec<Id> = (0..1000).map(|i| Id::of_item(format!("{i}.mp4").as_bytes(), None)).collect();
        let shards: Vec<Shard> = ["1/3", "2/3", "3/3"].iter().map(|text| text.parse().expect("a shard")).collect();
        assert_eq!(shards[2], "0/3".parse().expect("a shard"));
        for id in &ids {
            assert_eq!(shards.iter().filter(|shard| shard.contains(*id)).count(), 1);
        }
        let sizes: Vec<usize> =
            shards.iter().map(|shard| ids.iter().filter(|id| shard.contains(**id)).count()).collect();
        assert!(sizes.iter().all(|size| (270..400).contains(size)), "{sizes:?}");
        // Pinned: machines with different builds must agree.
        assert_eq!(Id::of_item(b"a/b.mp4", None).to_string(), "fd13e081dc96c00b9521d32358c4f2a5");
        for text in ["", "3", "4/3", "-1/3", "0/0", "a/b"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_identity_depends_on_name_window_and_question() {
        let window = Window { start: Some(Seconds(1.0)), end: None };
        let (whole, part) = (Id::of_item(b"a", None), Id::of_item(b"a", Some(&window)));
        assert_eq!(whole, Id::of_item(b"a", Some(&Window::default())));
        assert!(whole != part && whole != Id::of_item(b"b", None));
        assert_ne!(whole.with_question("x"), whole.with_question("y"));
        let rate = |rate| Some(ImageRate::new(rate).expect("above 0"));
        let item = |rate| ArchiveItem::new(b"a", "a".into(), None).with_image_rate(rate).id;
        let said = |text: &str| {
            let subtitle = Subtitle { start: Seconds(0.0), end: Seconds(1.0), text: text.to_owned() };
            ArchiveItem::new(b"a", "a".into(), None).with_subtitles(&[subtitle].into()).id
        };
        assert!(said("x") != whole && said("x") != said("y"));
        assert_eq!(ArchiveItem::new(b"a", "a".into(), None).with_subtitles(&Arc::default()).id, whole);
        assert!(item(None) == whole && item(rate(3.0)) != whole && item(rate(3.0)) != item(rate(4.0)));
        let text = serde_json::to_string(&part).expect("a text");
        assert_eq!(serde_json::from_str::<Id>(&text).expect("its own words"), part);
    }

    #[test]
    fn names_that_are_not_utf_8_are_readable() {
        assert_eq!(readable("ä b".as_bytes()), "ä b");
        assert_eq!(readable(b"a\xff\xfe.mp4"), "a\\xff\\xfe.mp4");
    }
}
