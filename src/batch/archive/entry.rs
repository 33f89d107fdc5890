//! Entries of an archive: items, files that are not items, and entries that cannot be listed.

use crate::batch::item::{ArchiveItem, Id, readable};
use crate::error::Error;
use crate::files::FileKind;

/// Entry of an archive.
#[derive(Debug, Clone, PartialEq)]
pub enum ArchiveEntry {
    /// An item.
    Item(ArchiveItem),
    /// An entry that cannot be listed.
    Failed(FailedEntry),
    /// A file of a folder that is not an item.
    Skipped(SkippedFile),
    /// Columns or keys of a manifest that are not used, reported once.
    Ignored(Vec<String>),
}

/// A file of a folder that is not an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedFile {
    /// Identity, by which the file belongs to a shard.
    pub id: Id,
    /// Name in the archive.
    pub name: String,
    /// Reason.
    pub reason: SkipReason,
}

impl SkippedFile {
    pub(super) fn new(name: &[u8], reason: SkipReason) -> Self {
        Self { id: Id::of_item(name, None), name: readable(name), reason }
    }
}

/// Reason why a file is not an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// Extension or content of another kind of file.
    Kind(FileKind),
    /// Name that begins with a dot; of a directory, all its files.
    Hidden,
    /// A pipe, a device or a socket.
    NotRegular,
    /// A link to a directory that was reached by another link before.
    Repeated,
    /// An empty file of an unknown extension.
    Empty,
    /// An unreadable file of an unknown extension.
    Unreadable,
    /// Unknown extension and content.
    Unknown,
}

impl SkipReason {
    /// Returns the word by which files are counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kind(FileKind::Video) => "video",
            Self::Kind(FileKind::Image) => "image",
            Self::Kind(FileKind::Audio) => "audio",
            Self::Kind(FileKind::Text) => "text",
            Self::Kind(FileKind::Playlist) => "playlist",
            Self::Kind(FileKind::Segment) => "segment",
            Self::Kind(FileKind::Partial) => "unfinished",
            Self::Kind(FileKind::Archive) => "archive",
            Self::Kind(FileKind::Weights) => "weights",
            Self::Kind(FileKind::Data) => "data",
            Self::Hidden => "hidden",
            Self::NotRegular => "not_regular",
            Self::Repeated => "repeated",
            Self::Empty => "empty",
            Self::Unreadable => "unreadable",
            Self::Unknown => "unknown",
        }
    }
}

/// An entry that could not be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedEntry {
    /// Identity.
    pub id: Id,
    /// Name in the archive, or a line of a manifest.
    pub video: String,
    /// Kind of failure in one word.
    pub kind: &'static str,
    /// Message without the hint.
    pub cause: String,
    /// Hint for the user.
    pub hint: Option<String>,
}

impl FailedEntry {
    pub(in crate::batch) fn new(name: &[u8], kind: &'static str, error: &Error) -> Self {
        let (cause, hint) = (error.statement(), error.hint().map(str::to_owned));
        Self { id: Id::of_item(name, None), video: readable(name), kind, cause, hint }
    }
}
