//! A folder as an archive: its videos, sorted, links followed. A file is a video by the ending of its name; where that
//! says nothing, by its content. What is passed over is listed with the reason.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use globset::GlobSet;
use walkdir::{DirEntry, Error, IntoIter, WalkDir};

use super::{ArchiveEntry, FailedEntry, SkipReason, SkippedFile, UNREADABLE, item};
use crate::files::{FileKind, kind_of};
use crate::video::detect::{Content, begins_as_text, content_of};

/// Endings of videos that text has as well: TypeScript and others.
const SHARED_WITH_TEXT: [&str; 9] = ["drc", "mpv", "mts", "rv", "tod", "tp", "ts", "ty", "vdr"];

/// Endings of weights, disk images and segments that whole videos have as well.
const SHARED_WITH_DATA: [&str; 4] = ["bin", "cmfv", "img", "m4s"];

/// A folder, and what of it is wanted.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) root: PathBuf,
    /// Names that are wanted; without it those of videos.
    pub(super) only: Option<GlobSet>,
    pub(super) exclude: GlobSet,
    /// A directory, by its canonical path, that is not looked into.
    pub(super) aside: Option<PathBuf>,
}

impl Folder {
    /// Its items, and what is passed over.
    pub(super) fn list(self) -> impl Iterator<Item = ArchiveEntry> + Send {
        let walk = WalkDir::new(&self.root).follow_links(true).sort_by_file_name().into_iter();
        Walk { folder: self, walk, linked: HashSet::new() }
    }

    fn is_aside(&self, entry: &DirEntry) -> bool {
        let is_it = |dir: &PathBuf| {
            dir.file_name() == Some(entry.file_name()) && entry.path().canonicalize().is_ok_and(|path| path == *dir)
        };
        entry.file_type().is_dir() && self.aside.as_ref().is_some_and(is_it)
    }

    /// Its name below the folder; the folder itself has one too.
    fn below(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.root).unwrap_or(path) {
            name if name.as_os_str().is_empty() => PathBuf::from("."),
            name => name.to_owned(),
        }
    }

    /// Whether a name that leads to nothing would have been a video.
    fn is_wanted(&self, name: &Path) -> bool {
        let chosen = match &self.only {
            Some(only) => only.is_match(name),
            None => kind_of(name) == Some(FileKind::Video),
        };
        chosen && !self.exclude.is_match(name)
    }

    /// Returns the listing of a file; `None` if the user did not ask for it.
    fn file(&self, entry: DirEntry) -> Option<ArchiveEntry> {
        let name = self.below(entry.path());
        if self.exclude.is_match(&name) {
            return None;
        }
        let reason = match &self.only {
            Some(only) if only.is_match(&name) => None,
            Some(_) => return None,
            None => why_not(&entry),
        };
        let name = name.as_os_str().as_encoded_bytes();
        Some(match reason {
            None => item(name, entry.into_path()),
            Some(reason) => ArchiveEntry::Skipped(SkippedFile::new(name, reason)),
        })
    }

    /// Returns the listing of an entry that cannot be read.
    fn error(&self, error: &Error) -> Option<ArchiveEntry> {
        let name = self.below(error.path().unwrap_or(&self.root));
        // A link to nothing is nothing, unless it would have been a video.
        let is_gone = error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
        let ancestor = error.loop_ancestor().map(|path| self.below(path));
        (!is_gone || self.is_wanted(&name)).then(|| unlisted(&name, error, ancestor.as_deref()))
    }
}

/// The files of a folder, one after the other.
struct Walk {
    folder: Folder,
    walk: IntoIter,
    /// Directories that links led to: followed again, links that lead to each other's directories would multiply.
    linked: HashSet<DirectoryId>,
}

impl Iterator for Walk {
    type Item = ArchiveEntry;

    fn next(&mut self) -> Option<ArchiveEntry> {
        loop {
            let listed = match self.walk.next()? {
                Err(error) => self.folder.error(&error),
                Ok(entry) if entry.depth() == 0 && entry.file_type().is_dir() => None,
                Ok(entry) if self.folder.is_aside(&entry) => {
                    self.walk.skip_current_dir();
                    None
                }
                Ok(entry) if is_hidden(&entry) => {
                    if entry.file_type().is_dir() {
                        self.walk.skip_current_dir();
                    }
                    // Who names files by a glob has not asked for all of them.
                    let name = self.folder.below(entry.path());
                    let passed = SkippedFile::new(name.as_os_str().as_encoded_bytes(), SkipReason::Hidden);
                    self.folder.only.is_none().then_some(ArchiveEntry::Skipped(passed))
                }
                Ok(entry) if entry.file_type().is_dir() && entry.path_is_symlink() => {
                    let is_new = directory_id(entry.path()).is_none_or(|id| self.linked.insert(id));
                    if !is_new {
                        self.walk.skip_current_dir();
                    }
                    let name = self.folder.below(entry.path());
                    let passed = || SkippedFile::new(name.as_os_str().as_encoded_bytes(), SkipReason::Repeated);
                    (!is_new && self.folder.only.is_none()).then(|| ArchiveEntry::Skipped(passed()))
                }
                Ok(entry) if entry.file_type().is_dir() => None,
                Ok(entry) => self.folder.file(entry),
            };
            if listed.is_some() {
                return listed;
            }
        }
    }
}

/// Identity of a directory, whatever its names: its device and its inode, or its canonical path.
#[cfg(unix)]
type DirectoryId = (u64, u64);
#[cfg(not(unix))]
type DirectoryId = PathBuf;

#[cfg(unix)]
fn directory_id(path: &Path) -> Option<DirectoryId> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(not(unix))]
fn directory_id(path: &Path) -> Option<DirectoryId> {
    path.canonicalize().ok()
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".")
}

/// Whether a name ends in one of the `endings`, whatever the case of its letters.
fn is_shared(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
    ending.is_some_and(|ending| endings.iter().any(|shared| ending == *shared))
}

/// Why a file is no item. Pipes and devices are never opened; of those that are named as videos it is told when they
/// are read.
fn why_not(entry: &DirEntry) -> Option<SkipReason> {
    let (path, is_file) = (entry.path(), entry.file_type().is_file());
    match kind_of(path) {
        Some(FileKind::Video) => {
            let is_shared = is_shared(path, &SHARED_WITH_TEXT);
            (is_file && is_shared && begins_as_text(path).unwrap_or(false)).then_some(SkipReason::Kind(FileKind::Text))
        }
        _ if !is_file => Some(SkipReason::NotRegular),
        // Whole videos have them too: players' dumps, fragmented MP4 files.
        Some(_) if is_shared(path, &SHARED_WITH_DATA) && content_of(path).ok() == Some(Content::Video) => None,
        Some(kind) => Some(SkipReason::Kind(kind)),
        None => match content_of(path) {
            Ok(Content::Video) => None,
            Ok(Content::Audio) => Some(SkipReason::Kind(FileKind::Audio)),
            Ok(Content::Image) => Some(SkipReason::Kind(FileKind::Image)),
            Ok(Content::Text) => Some(SkipReason::Kind(FileKind::Text)),
            Ok(Content::Empty) => Some(SkipReason::Empty),
            Ok(Content::Unknown) => Some(SkipReason::Unknown),
            Err(_) => Some(SkipReason::Unreadable),
        },
    }
}

fn unlisted(name: &Path, error: &Error, ancestor: Option<&Path>) -> ArchiveEntry {
    let bytes = name.as_os_str().as_encoded_bytes();
    ArchiveEntry::Failed(match (ancestor, error.io_error()) {
        (Some(ancestor), _) => {
            let cause = format!("a link back to {}, which it is in; hint: it is not followed", ancestor.display());
            FailedEntry::new(bytes, "loop", cause)
        }
        (None, Some(error)) if error.kind() == io::ErrorKind::NotFound => {
            FailedEntry::new(bytes, "not_found", "a link to nothing")
        }
        (None, Some(error)) => FailedEntry::new(bytes, UNREADABLE, error.to_string()),
        (None, None) => FailedEntry::new(bytes, UNREADABLE, error.to_string()),
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::tests::names;
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_directory_is_looked_into_by_one_link_only() {
        let dir = tempfile::tempdir().expect("a directory");
        // Twenty levels, each with two links to the next one: a million paths lead to the last.
        for level in 0..20 {
            std::fs::create_dir(dir.path().join(format!("d{level:02}"))).expect("ours");
            for link in ["a", "b"] {
                let link = dir.path().join(format!("d{level:02}/{link}"));
                symlink(format!("../d{:02}", level + 1), link).expect("ours");
            }
        }
        std::fs::create_dir(dir.path().join("d20")).expect("ours");
        std::fs::write(dir.path().join("d20/x.mp4"), "").expect("ours");
        let folder = Folder { root: dir.path().to_owned(), only: None, exclude: GlobSet::empty(), aside: None };
        let listed = names(folder.list());
        let deepest = format!("d00/{}x.mp4", "a/".repeat(20));
        let videos: Vec<&str> = listed.iter().map(String::as_str).filter(|name| name.ends_with(".mp4")).collect();
        assert_eq!(videos, [&deepest, "d20/x.mp4"]);
        assert!(listed.contains(&"d00/b - repeated".to_owned()) && listed.len() < 100, "{}", listed.len());
    }

    #[test]
    fn loops_are_told_and_odd_names_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        std::fs::create_dir(root.join("a")).expect("ours");
        symlink("..", root.join("a").join("back")).expect("ours");
        symlink("nowhere", root.join("gone.mp4")).expect("ours");
        symlink("nowhere", root.join("gone.txt")).expect("ours");
        std::fs::create_dir(root.join("results")).expect("ours");
        std::fs::write(root.join("results/x.mp4"), "").expect("ours");
        let aside = root.join("results").canonicalize().expect("ours");
        let odd = root.join(OsStr::from_bytes(b"z\xff.mp4"));
        std::fs::write(&odd, "").expect("ours");
        let listed: Vec<ArchiveEntry> =
            Folder { root: root.to_owned(), only: None, exclude: GlobSet::empty(), aside: Some(aside) }
                .list()
                .collect();
        assert_eq!(names(listed.iter().cloned()), ["a/back (loop)", "gone.mp4 (not_found)", "z\\xff.mp4"]);
        assert!(matches!(&listed[2], ArchiveEntry::Item(item) if item.path == odd));
    }
}
