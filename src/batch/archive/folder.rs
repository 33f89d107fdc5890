//! Folders as archives: the videos of a folder, sorted, with links followed. A file is a video by its extension, or by
//! its content where the extension does not decide. Skipped files are listed with the reason. Called by
//! [`Archive::list`](super::Archive::list).

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use globset::GlobSet;
use walkdir::{DirEntry, IntoIter, WalkDir};

use super::{ArchiveEntry, FailedEntry, SkipReason, SkippedFile, UNREADABLE, item};
use crate::error::{Error, Kind};
use crate::files::{FileKind, kind_of};
use crate::video::detect::{FileContent, begins_as_text, content_of};

/// Extensions shared by videos and text files, such as TypeScript.
const SHARED_WITH_TEXT: [&str; 9] = ["drc", "mpv", "mts", "rv", "tod", "tp", "ts", "ty", "vdr"];

/// Extensions shared by whole videos and weights, disk images or segments.
const SHARED_WITH_DATA: [&str; 4] = ["bin", "cmfv", "img", "m4s"];

/// A folder and the filters of its files.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) root: PathBuf,
    /// Globs of the files to list; `None` for all videos.
    pub(super) only: Option<GlobSet>,
    pub(super) exclude: GlobSet,
    /// Canonical path of a directory that is not listed.
    pub(super) excluded_dir: Option<PathBuf>,
}

impl Folder {
    /// Lists the items and the skipped files.
    pub(super) fn list(self) -> impl Iterator<Item = ArchiveEntry> + Send {
        let walk = WalkDir::new(&self.root).follow_links(true).sort_by_file_name().into_iter();
        Walk { folder: self, walk, linked: HashSet::new() }
    }

    fn is_excluded_dir(&self, entry: &DirEntry) -> bool {
        let is_it = |dir: &PathBuf| {
            dir.file_name() == Some(entry.file_name()) && entry.path().canonicalize().is_ok_and(|path| path == *dir)
        };
        entry.file_type().is_dir() && self.excluded_dir.as_ref().is_some_and(is_it)
    }

    /// Returns the name of a path below the folder; that of the folder itself is `.`.
    fn relative(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.root).unwrap_or(path) {
            name if name.as_os_str().is_empty() => PathBuf::from("."),
            name => name.to_owned(),
        }
    }

    /// Returns whether a file of this name would be listed as a video.
    fn is_video_name(&self, name: &Path) -> bool {
        let chosen = match &self.only {
            Some(only) => only.is_match(name),
            None => kind_of(name) == Some(FileKind::Video),
        };
        chosen && !self.exclude.is_match(name)
    }

    /// Returns the entry of a file; `None` if the filters exclude it.
    fn file(&self, entry: DirEntry) -> Option<ArchiveEntry> {
        let name = self.relative(entry.path());
        if self.exclude.is_match(&name) {
            return None;
        }
        let reason = match &self.only {
            Some(only) if only.is_match(&name) => None,
            Some(_) => return None,
            None => skip_reason(&entry),
        };
        let name = name.as_os_str().as_encoded_bytes();
        Some(match reason {
            None => item(name, entry.into_path()),
            Some(reason) => ArchiveEntry::Skipped(SkippedFile::new(name, reason)),
        })
    }

    /// Returns the entry of an unreadable file or directory; `None` for a dead link that is not named as a video.
    fn error(&self, error: &walkdir::Error) -> Option<ArchiveEntry> {
        let name = self.relative(error.path().unwrap_or(&self.root));
        let is_dead_link = error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
        let ancestor = error.loop_ancestor().map(|path| self.relative(path));
        (!is_dead_link || self.is_video_name(&name)).then(|| failed(&name, error, ancestor.as_deref()))
    }
}

/// Iterator over the files of a folder.
struct Walk {
    folder: Folder,
    walk: IntoIter,
    /// Directories that were reached by a link. A second link is not followed: links between directories would multiply
    /// the paths.
    linked: HashSet<DirectoryId>,
}

impl Iterator for Walk {
    type Item = ArchiveEntry;

    fn next(&mut self) -> Option<ArchiveEntry> {
        loop {
            let listed = match self.walk.next()? {
                Err(error) => self.folder.error(&error),
                Ok(entry) if entry.depth() == 0 && entry.file_type().is_dir() => None,
                Ok(entry) if self.folder.is_excluded_dir(&entry) => {
                    self.walk.skip_current_dir();
                    None
                }
                Ok(entry) if is_hidden(&entry) => {
                    if entry.file_type().is_dir() {
                        self.walk.skip_current_dir();
                    }
                    // A glob does not ask for all files: skipped ones are not listed.
                    let name = self.folder.relative(entry.path());
                    let passed = SkippedFile::new(name.as_os_str().as_encoded_bytes(), SkipReason::Hidden);
                    self.folder.only.is_none().then_some(ArchiveEntry::Skipped(passed))
                }
                Ok(entry) if entry.file_type().is_dir() && entry.path_is_symlink() => {
                    let is_new = directory_id(entry.path()).is_none_or(|id| self.linked.insert(id));
                    if !is_new {
                        self.walk.skip_current_dir();
                    }
                    let name = self.folder.relative(entry.path());
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

/// Identity of a directory: device and inode, or the canonical path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum DirectoryId {
    #[cfg(unix)]
    Inode(u64, u64),
    #[cfg(not(unix))]
    Path(PathBuf),
}

#[cfg(unix)]
fn directory_id(path: &Path) -> Option<DirectoryId> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|meta| DirectoryId::Inode(meta.dev(), meta.ino()))
}

#[cfg(not(unix))]
fn directory_id(path: &Path) -> Option<DirectoryId> {
    path.canonicalize().ok().map(DirectoryId::Path)
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".")
}

/// Returns whether a path has one of the `extensions`, in any case.
fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| extensions.iter().any(|other| extension == *other))
}

/// Returns why a file is not an item; `None` for an item. Pipes and devices are never opened; those with a video's name
/// are items, whose reading fails.
fn skip_reason(entry: &DirEntry) -> Option<SkipReason> {
    let (path, is_file) = (entry.path(), entry.file_type().is_file());
    match kind_of(path) {
        Some(FileKind::Video) => {
            let is_text = || has_extension(path, &SHARED_WITH_TEXT) && begins_as_text(path).unwrap_or(false);
            (is_file && is_text()).then_some(SkipReason::Kind(FileKind::Text))
        }
        _ if !is_file => Some(SkipReason::NotRegular),
        // Dumps of players and fragmented MP4 files are whole videos.
        Some(_) if has_extension(path, &SHARED_WITH_DATA) && content_of(path).ok() == Some(FileContent::Video) => None,
        Some(kind) => Some(SkipReason::Kind(kind)),
        None => match content_of(path) {
            Ok(FileContent::Video) => None,
            Ok(FileContent::Audio) => Some(SkipReason::Kind(FileKind::Audio)),
            Ok(FileContent::Image) => Some(SkipReason::Kind(FileKind::Image)),
            Ok(FileContent::Text) => Some(SkipReason::Kind(FileKind::Text)),
            Ok(FileContent::Empty) => Some(SkipReason::Empty),
            Ok(FileContent::Unknown) => Some(SkipReason::Unknown),
            Err(_) => Some(SkipReason::Unreadable),
        },
    }
}

fn failed(name: &Path, error: &walkdir::Error, ancestor: Option<&Path>) -> ArchiveEntry {
    let bytes = name.as_os_str().as_encoded_bytes();
    let unreadable = |cause: String| FailedEntry::new(bytes, UNREADABLE, &Error::new(Kind::Unreadable, cause));
    ArchiveEntry::Failed(match (ancestor, error.io_error()) {
        (Some(ancestor), _) => {
            let error = Error::invalid(format!("a link to {}, a directory above it", ancestor.display()));
            FailedEntry::new(bytes, "loop", &error.with_hint("the link is not followed"))
        }
        (None, Some(error)) if error.kind() == io::ErrorKind::NotFound => {
            FailedEntry::new(bytes, "not_found", &Error::new(Kind::NotFound, "a link to a missing file"))
        }
        (None, Some(error)) => unreadable(error.to_string()),
        (None, None) => unreadable(error.to_string()),
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
    fn a_directory_is_listed_by_one_link_only() {
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
        let folder = Folder { root: dir.path().to_owned(), only: None, exclude: GlobSet::empty(), excluded_dir: None };
        let listed = names(folder.list());
        let deepest = format!("d00/{}x.mp4", "a/".repeat(20));
        let videos: Vec<&str> = listed.iter().map(String::as_str).filter(|name| name.ends_with(".mp4")).collect();
        assert_eq!(videos, [&deepest, "d20/x.mp4"]);
        assert!(listed.contains(&"d00/b - repeated".to_owned()) && listed.len() < 100, "{}", listed.len());
    }

    #[test]
    fn loops_are_reported_and_names_may_have_any_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        std::fs::create_dir(root.join("a")).expect("ours");
        symlink("..", root.join("a").join("back")).expect("ours");
        symlink("nowhere", root.join("gone.mp4")).expect("ours");
        symlink("nowhere", root.join("gone.txt")).expect("ours");
        std::fs::create_dir(root.join("results")).expect("ours");
        std::fs::write(root.join("results/x.mp4"), "").expect("ours");
        let excluded_dir = root.join("results").canonicalize().expect("ours");
        let odd = root.join(OsStr::from_bytes(b"z\xff.mp4"));
        std::fs::write(&odd, "").expect("ours");
        let listed: Vec<ArchiveEntry> =
            Folder { root: root.to_owned(), only: None, exclude: GlobSet::empty(), excluded_dir: Some(excluded_dir) }
                .list()
                .collect();
        assert_eq!(names(listed.iter().cloned()), ["a/back (loop)", "gone.mp4 (not_found)", "z\\xff.mp4"]);
        assert!(matches!(&listed[2], ArchiveEntry::Item(item) if item.path == odd));
    }
}
