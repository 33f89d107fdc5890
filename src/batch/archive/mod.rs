//! Archives: a folder, a glob, a manifest or a single video, listed entry by entry without keeping entries in memory.
//! An entry that cannot be listed becomes a failed one. Called by [`run`](super::run).

mod entry;
mod folder;
mod manifest;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use strum::{EnumString, VariantNames};

pub use self::entry::{ArchiveEntry, FailedEntry, SkipReason, SkippedFile};
use self::folder::Folder;
use self::manifest::ManifestPaths;
use super::item::ArchiveItem;
use crate::choice;
use crate::error::{Error, Kind};
use crate::fetch::{check_url, is_web_url};
use crate::files::{FileKind, kind_of, url_error};

/// Kind of failure of an unreadable file or directory.
pub(crate) const UNREADABLE: &str = "unreadable";
/// Characters that make a path without a file a glob.
const GLOB_SIGNS: [char; 4] = ['*', '?', '[', '{'];

/// Format of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = unknown_manifest_format)]
pub enum ManifestFormat {
    /// A table with a header: `video`, and optionally `start`, `end`, `question`, `question_id`, separated by commas,
    /// semicolons or tabs.
    #[strum(to_string = "csv", serialize = "tsv")]
    Csv,
    /// One JSON object per line with these keys, and a list `questions`.
    #[strum(to_string = "jsonl", serialize = "ndjson")]
    Jsonl,
    /// A JSON array of such objects, or of paths.
    Json,
    /// One path per line.
    Lines,
}

impl ManifestFormat {
    /// Returns the format of a file with this extension.
    fn from_extension(extension: &str) -> Option<Self> {
        match extension {
            "csv" | "tsv" | "tab" => Some(Self::Csv),
            "json" => Some(Self::Json),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "txt" | "lst" | "list" => Some(Self::Lines),
            _ => None,
        }
    }
}

fn unknown_manifest_format(name: &str) -> Error {
    choice::unknown_name("manifest format", name, ManifestFormat::VARIANTS)
}

/// Meaning of URLs of `http` and `https` in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArchiveUrls {
    /// Paths, under which there is no file.
    #[default]
    Paths,
    /// Videos to be downloaded when their turn comes.
    Videos,
}

impl ArchiveUrls {
    /// Returns the URL that a name is, if it is the name of a video to be downloaded.
    fn url(self, name: &[u8]) -> Option<&str> {
        let name = std::str::from_utf8(name).ok().filter(|name| is_web_url(name));
        name.filter(|_| self == Self::Videos)
    }
}

/// Options of listing an archive.
#[derive(Debug, Clone, Default)]
pub struct ArchiveOptions {
    /// Globs of excluded files, relative to the folder.
    pub exclude: Vec<String>,
    /// Directory of a manifest's relative paths, if not that of the manifest.
    pub root: Option<PathBuf>,
    /// Format of a manifest, if not to be detected.
    pub format: Option<ManifestFormat>,
    /// Directory that is not listed: that of the results.
    pub excluded_dir: Option<PathBuf>,
    /// Meaning of URLs in a manifest, and of one as the archive.
    pub urls: ArchiveUrls,
}

/// An archive of videos.
#[derive(Debug, Clone)]
pub struct Archive {
    kind: ArchiveKind,
}

#[derive(Debug, Clone)]
enum ArchiveKind {
    Folder(Folder),
    Manifest { source: Option<PathBuf>, paths: ManifestPaths, format: Option<ManifestFormat> },
    Video(PathBuf),
    Url(String),
    Items(Arc<[ArchiveItem]>),
}

impl Archive {
    /// Opens the archive of an argument; `-` is a manifest on standard input.
    ///
    /// # Errors
    /// A missing file, or an invalid glob.
    pub fn open(argument: &Path, options: &ArchiveOptions) -> Result<Self, Error> {
        let text = argument.to_string_lossy();
        let extension = argument.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let format = options.format.or_else(|| ManifestFormat::from_extension(&extension));
        let manifest = |source: Option<&Path>| {
            // The paths of a stream are relative to the working directory.
            let file = source.filter(|path| path.is_file());
            let beside = file.and_then(Path::parent).unwrap_or(Path::new("")).to_owned();
            let root = options.root.clone().unwrap_or(beside);
            ArchiveKind::Manifest {
                source: source.map(Path::to_owned),
                paths: ManifestPaths { root, urls: options.urls },
                format,
            }
        };
        let folder = |root: &Path, only: Option<&str>| -> Result<ArchiveKind, Error> {
            let only = only.map(|only| globs(std::slice::from_ref(&only))).transpose()?;
            let (root, exclude, excluded_dir) =
                (root.to_owned(), globs(&options.exclude)?, options.excluded_dir.clone());
            Ok(ArchiveKind::Folder(Folder {
                root,
                only,
                exclude,
                excluded_dir: excluded_dir.and_then(|dir| canonical(&dir)),
            }))
        };
        let kind = match std::fs::metadata(argument) {
            _ if text == "-" => manifest(None),
            Ok(meta) if meta.is_dir() => folder(argument, None)?,
            Ok(meta) if !meta.is_file() && format.is_none() && kind_of(argument) == Some(FileKind::Video) => {
                let error = Error::new(Kind::Unreadable, "not a regular file");
                return Err(error.with_hint("write the video to a file, and name that").about(argument));
            }
            // A pipe may be a manifest: `<(find ...)`.
            Ok(meta) if format.is_some() || !meta.is_file() => manifest(Some(argument)),
            Ok(_) => ArchiveKind::Video(argument.to_owned()),
            Err(_) if let Some(url) = options.urls.url(argument.as_os_str().as_encoded_bytes()) => {
                check_url(url)?;
                ArchiveKind::Url(url.to_owned())
            }
            Err(_) if let Some(error) = url_error(argument) => {
                return Err(error.with_kind(Kind::Unreadable).about(argument));
            }
            Err(_) if text.contains(GLOB_SIGNS) => {
                let (root, pattern) = split_glob(&text);
                std::fs::metadata(root).map_err(Error::io(root))?;
                folder(root, Some(pattern))?
            }
            Err(error) => return Err(Error::io(argument)(error)),
        };
        Ok(Self { kind })
    }

    /// Returns the archive of items that are known already, in their order.
    pub fn of_items(items: impl Into<Arc<[ArchiveItem]>>) -> Self {
        Self { kind: ArchiveKind::Items(items.into()) }
    }

    /// Lists the entries, in an order that does not change.
    ///
    /// # Errors
    /// When a manifest cannot be opened, or a table has no column of videos.
    pub fn list(&self) -> Result<Box<dyn Iterator<Item = ArchiveEntry> + Send>, Error> {
        match &self.kind {
            ArchiveKind::Folder(folder) => Ok(Box::new(folder.clone().list())),
            ArchiveKind::Manifest { source, paths, format } => {
                manifest::list(source.as_deref(), paths.clone(), *format)
            }
            ArchiveKind::Items(items) => {
                let items = items.clone();
                Ok(Box::new((0..items.len()).map(move |index| ArchiveEntry::Item(items[index].clone()))))
            }
            ArchiveKind::Url(url) => Ok(Box::new(std::iter::once(item(url.as_bytes(), PathBuf::from(url))))),
            ArchiveKind::Video(path) => {
                let name = path.file_name().unwrap_or(path.as_os_str()).as_encoded_bytes();
                Ok(Box::new(std::iter::once(item(name, path.clone()))))
            }
        }
    }

    /// Returns whether items may have questions of their own.
    pub fn may_have_questions(&self) -> bool {
        match &self.kind {
            ArchiveKind::Manifest { format, .. } => *format != Some(ManifestFormat::Lines),
            ArchiveKind::Items(items) => items.iter().any(|item| !item.questions.is_empty()),
            ArchiveKind::Folder(_) | ArchiveKind::Video(_) | ArchiveKind::Url(_) => false,
        }
    }

    /// Returns whether a second listing gives the same items: that of a stream does not.
    pub(crate) fn is_lasting(&self) -> bool {
        match &self.kind {
            ArchiveKind::Manifest { source, .. } => source.as_ref().is_some_and(|path| path.is_file()),
            ArchiveKind::Folder(_) | ArchiveKind::Video(_) | ArchiveKind::Url(_) | ArchiveKind::Items(_) => true,
        }
    }
}

/// Returns an item without a window or questions of its own.
fn item(name: &[u8], path: PathBuf) -> ArchiveEntry {
    ArchiveEntry::Item(ArchiveItem::new(name, path, None))
}

/// Returns the canonical path of a directory, also of one that does not exist yet.
fn canonical(dir: &Path) -> Option<PathBuf> {
    dir.canonicalize().ok().or_else(|| {
        let dir = std::path::absolute(dir).ok()?;
        Some(canonical(dir.parent()?)?.join(dir.file_name()?))
    })
}

/// Splits a glob into the directory before the first pattern and the rest.
fn split_glob(glob: &str) -> (&Path, &str) {
    let signs = glob.find(GLOB_SIGNS).unwrap_or(glob.len());
    match glob[..signs].rfind('/') {
        Some(0) => (Path::new("/"), &glob[1..]),
        Some(slash) => (Path::new(&glob[..slash]), &glob[slash + 1..]),
        None => (Path::new("."), glob),
    }
}

/// Returns the error of a pattern of names.
fn not_a_glob(glob: &str, cause: &str) -> Error {
    Error::invalid(format!("invalid glob `{glob}`: {cause}"))
}

fn globs(patterns: &[impl AsRef<str>]) -> Result<GlobSet, Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let invalid = |error: globset::Error| not_a_glob(pattern.as_ref(), &error.kind().to_string());
        let glob: Glob = GlobBuilder::new(pattern.as_ref()).literal_separator(true).build().map_err(invalid)?;
        set.add(glob);
    }
    set.build().map_err(|error| not_a_glob("", &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn names(listed: impl Iterator<Item = ArchiveEntry>) -> Vec<String> {
        let name = |listed| match listed {
            ArchiveEntry::Item(item) => item.video,
            ArchiveEntry::Failed(FailedEntry { video, kind, .. }) => format!("{video} ({kind})"),
            ArchiveEntry::Skipped(SkippedFile { name, reason, .. }) => format!("{name} - {}", reason.name()),
            ArchiveEntry::Ignored(keys) => format!("ignored {}", keys.join(" ")),
        };
        listed.map(name).collect()
    }

    fn open(argument: &Path, exclude: &[&str]) -> Result<Vec<String>, String> {
        let exclude = exclude.iter().map(|&glob| glob.to_owned()).collect();
        let options = ArchiveOptions { exclude, ..ArchiveOptions::default() };
        let archive = Archive::open(argument, &options).map_err(|error| error.to_string())?;
        Ok(names(archive.list().map_err(|error| error.to_string())?))
    }

    #[test]
    fn results_below_the_folder_are_excluded_before_they_exist() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a.mp4"), "").expect("ours");
        let options = ArchiveOptions { excluded_dir: Some(at("new/results")), ..ArchiveOptions::default() };
        let archive = Archive::open(dir.path(), &options).expect("a folder");
        std::fs::create_dir_all(at("new/results")).expect("ours");
        std::fs::write(at("new/results/b.mp4"), "").expect("ours");
        assert_eq!(names(archive.list().expect("a folder")), ["a.mp4"]);
    }

    #[test]
    fn an_archive_is_a_folder_a_glob_a_manifest_or_one_video() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("b/c")).expect("ours");
        for name in ["b/2.mp4", "b/c/3.MKV", "1.webm", "b/notes.txt", ".hidden.mp4", "b/c/x y.mp4"] {
            std::fs::write(at(name), "").expect("ours");
        }
        let found = |argument: &Path, exclude: &[&str]| open(argument, exclude).expect("it is there");
        let all = [".hidden.mp4 - hidden", "1.webm", "b/2.mp4", "b/c/3.MKV", "b/c/x y.mp4", "b/notes.txt - text"];
        assert_eq!(found(dir.path(), &[]), all);
        assert_eq!(found(dir.path(), &["**/c/**", "1.*", "**/*.txt"]), [".hidden.mp4 - hidden", "b/2.mp4"]);
        assert_eq!(found(&at("b/*.mp4"), &[]), ["2.mp4"]);
        assert_eq!(found(&at("**/*.mp4"), &[]), ["b/2.mp4", "b/c/x y.mp4"]);
        assert_eq!(found(&at("b/2.mp4"), &[]), ["2.mp4"]);
        std::fs::write(at("list.txt"), "b/2.mp4\n\nnot there.mp4\r\n").expect("ours");
        assert_eq!(found(&at("list.txt"), &[]), ["b/2.mp4", "not there.mp4"]);
        assert!(open(&at("nothing"), &[]).expect_err("not there").contains("nothing: No such file"));
        assert!(open(&at("b/[.mp4"), &[]).expect_err("invalid").contains("invalid glob `[.mp4`"));
    }
}
