//! Look-up of a question's video below the data directory.
//!
//! A key is a file name with or without extension. It is tried as written, then with the extensions of the original
//! scripts (.mp4 .avi .mov .mkv, and .webm .gif), each also with the prefix `v_` of ActivityNet; a directory of frames
//! only if there is no such file. A key never leaves its directory.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Extensions in the order of the look-up.
const EXTENSIONS: [&str; 7] = ["mp4", "avi", "mov", "mkv", "webm", "gif", "MP4"];

/// Maximum number of missing videos that a message names.
const MAX_NAMED: usize = 10;

/// Look-up key of a video: a directory below the data directory, and a name in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VideoLookup {
    /// Directory, relative to the data directory.
    pub dir: PathBuf,
    /// Name of the file or of a directory of frames, with or without extension.
    pub name: String,
}

impl VideoLookup {
    /// Makes a key.
    pub fn new(dir: &Path, name: impl Into<String>) -> Self {
        Self { dir: dir.to_owned(), name: name.into() }
    }

    /// Returns the name as it stands in messages and records.
    pub fn shown(&self) -> String {
        self.dir.join(&self.name).to_string_lossy().into_owned()
    }

    /// Returns whether the name is of something below the directory, whatever links there are.
    pub fn is_below(&self) -> bool {
        let is_inner = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        !self.name.is_empty() && Path::new(&self.name).components().all(is_inner)
    }

    /// Returns the path of the video, if it is there.
    pub fn find(&self, data: &Path) -> Option<PathBuf> {
        let name = Path::new(&self.name);
        if !self.is_below() {
            return None;
        }
        let dir = data.join(&self.dir);
        let file = name.file_name()?.to_string_lossy().into_owned();
        let stems = [file.clone(), format!("v_{file}")];
        let candidates = stems.iter().flat_map(|stem| {
            let path = dir.join(name.with_file_name(stem));
            let with = |extension: &str| {
                let mut name = path.clone().into_os_string();
                name.push(format!(".{extension}"));
                PathBuf::from(name)
            };
            let with_extensions: Vec<PathBuf> = EXTENSIONS.iter().map(|extension| with(extension)).collect();
            std::iter::once(path).chain(with_extensions)
        });
        let candidates: Vec<PathBuf> = candidates.collect();
        let file = candidates.iter().find(|path| path.is_file());
        file.or_else(|| candidates.iter().find(|path| path.exists())).cloned()
    }
}

/// Share of the videos that are there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VideoCoverage {
    /// Number of different videos.
    pub n_videos: usize,
    /// Keys of the missing ones.
    pub missing: BTreeSet<VideoLookup>,
}

impl VideoCoverage {
    /// Returns the share of videos that are there, in percent.
    pub fn percent(&self) -> f64 {
        100.0 * (self.n_videos - self.missing.len()) as f64 / self.n_videos.max(1) as f64
    }

    /// Formats the first missing videos and their number.
    pub fn missing_names(&self) -> String {
        let named: Vec<String> = self.missing.iter().take(MAX_NAMED).map(VideoLookup::shown).collect();
        let more = self.missing.len() - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", named.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn videos_are_found_by_extension_and_prefix_and_never_outside() {
        let data = tempfile::tempdir().expect("a directory");
        let dir = data.path().join("videos");
        std::fs::create_dir_all(dir.join("frames")).expect("ours");
        for name in ["a.mp4", "b.webm", "v_c.mkv", "d.e.gif"] {
            std::fs::write(dir.join(name), "").expect("ours");
        }
        std::fs::write(data.path().join("secret.mp4"), "").expect("ours");
        let find = |name: &str| VideoLookup::new(Path::new("videos"), name).find(data.path());
        for (key, file) in [("a", "a.mp4"), ("b", "b.webm"), ("c", "v_c.mkv"), ("d.e", "d.e.gif"), ("a.mp4", "a.mp4")] {
            assert_eq!(find(key), Some(dir.join(file)), "{key}");
        }
        assert_eq!(find("frames"), Some(dir.join("frames")));
        std::fs::create_dir(dir.join("a")).expect("ours");
        assert_eq!(find("a"), Some(dir.join("a.mp4")), "a file comes before a directory");
        for key in ["", "x", "../secret", "../secret.mp4", "/etc/passwd", "a/../../secret"] {
            assert_eq!(find(key), None, "{key}");
        }
    }

    #[test]
    fn the_first_ten_missing_videos_are_named() {
        let missing = (0..12).map(|i| VideoLookup::new(Path::new("v"), format!("{i:02}"))).collect();
        let coverage = VideoCoverage { n_videos: 48, missing };
        assert_eq!(coverage.percent(), 75.0);
        let names = coverage.missing_names();
        assert!(names.starts_with("v/00, v/01, ") && names.ends_with("v/09 and 2 more"), "{names}");
    }
}
