//! A folder as an archive: its media files, sorted, links followed, hidden ones left out.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use globset::GlobSet;
use walkdir::{DirEntry, Error, WalkDir};

use super::{Listed, UNREADABLE, Unlisted, item};

/// Endings of files that are taken for videos where no glob says which are.
const MEDIA: [&str; 34] = [
    "3g2", "3gp", "asf", "avi", "divx", "dv", "f4v", "flv", "gif", "h264", "h265", "hevc", "ivf", "m2ts", "m2v", "m4v",
    "mjpeg", "mkv", "mov", "mp4", "mpe", "mpeg", "mpg", "mts", "mxf", "nut", "obu", "ogm", "ogv", "qt", "rm", "ts",
    "webm", "wmv",
];

/// A folder, and what of it is wanted.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) root: PathBuf,
    /// Names that are wanted; without it those of media files.
    pub(super) only: Option<GlobSet>,
    pub(super) exclude: GlobSet,
    /// A directory, by its canonical path, that is not looked into.
    pub(super) aside: Option<PathBuf>,
}

impl Folder {
    /// Its items.
    pub(super) fn list(self) -> impl Iterator<Item = Listed> + Send {
        let Self { root, only, exclude, aside } = self;
        let is_left_out = move |entry: &DirEntry| {
            let is_hidden = entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".");
            let is_aside = |dir: &PathBuf| {
                entry.file_type().is_dir()
                    && dir.file_name() == Some(entry.file_name())
                    && entry.path().canonicalize().is_ok_and(|path| path == *dir)
            };
            is_hidden || (entry.depth() > 0 && aside.as_ref().is_some_and(is_aside))
        };
        let walk = WalkDir::new(&root).follow_links(true).sort_by_file_name().into_iter();
        walk.filter_entry(move |entry| !is_left_out(entry))
            .filter_map(move |found| listed(found, &root, &only, &exclude))
    }
}

fn listed(found: Result<DirEntry, Error>, root: &Path, only: &Option<GlobSet>, exclude: &GlobSet) -> Option<Listed> {
    let is_wanted = |name: &Path| {
        let chosen = only.as_ref().map_or_else(|| is_media(name), |only| only.is_match(name));
        chosen && !exclude.is_match(name)
    };
    // The folder itself has a name too.
    let below = |path: &Path| match path.strip_prefix(root).unwrap_or(path) {
        name if name.as_os_str().is_empty() => PathBuf::from("."),
        name => name.to_owned(),
    };
    match found {
        Ok(entry) if entry.file_type().is_dir() => None,
        Ok(entry) => {
            let name = below(entry.path());
            is_wanted(&name).then(|| item(name.as_os_str().as_encoded_bytes(), entry.into_path()))
        }
        Err(error) => {
            let name = below(error.path().unwrap_or(root));
            // A link to nothing is nothing, unless it would have been a video.
            let is_gone = error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
            let ancestor = error.loop_ancestor().map(below);
            (!is_gone || is_wanted(&name)).then(|| unlisted(&name, &error, ancestor.as_deref()))
        }
    }
}

fn unlisted(name: &Path, error: &Error, ancestor: Option<&Path>) -> Listed {
    let bytes = name.as_os_str().as_encoded_bytes();
    Listed::Unlisted(match (ancestor, error.io_error()) {
        (Some(ancestor), _) => {
            let cause = format!("a link back to {}, which it is in; hint: it is not followed", ancestor.display());
            Unlisted::new(bytes, "loop", cause)
        }
        (None, Some(error)) if error.kind() == io::ErrorKind::NotFound => {
            Unlisted::new(bytes, "not_found", "a link to nothing")
        }
        (None, Some(error)) => Unlisted::new(bytes, UNREADABLE, error.to_string()),
        (None, None) => Unlisted::new(bytes, UNREADABLE, error.to_string()),
    })
}

fn is_media(name: &Path) -> bool {
    let ending = name.extension().and_then(OsStr::to_str);
    ending.is_some_and(|ending| MEDIA.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::tests::names;
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

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
        let listed: Vec<Listed> =
            Folder { root: root.to_owned(), only: None, exclude: GlobSet::empty(), aside: Some(aside) }
                .list()
                .collect();
        assert_eq!(names(listed.iter().cloned()), ["a/back (loop)", "gone.mp4 (not_found)", "z\\xff.mp4"]);
        assert!(matches!(&listed[2], Listed::Item(item) if item.path == odd));
    }
}
