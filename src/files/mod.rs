//! Files: those of a model, on disk or inside the binary; outputs; kinds of files by their names and first bytes.
//!
//! The model `vidense-mini`, which the binary contains, has paths that begin with `builtin:`. Every reader of a model's
//! files reads through this module, so such a path works wherever a directory does, and errors name it. [`output`]
//! writes and replaces files, `kind` knows the endings of names, `diagnosis` recognizes what is often mistaken for a
//! video or a model. Nothing here knows a format's contents.

pub(crate) mod destination;
pub(crate) mod diagnosis;
mod kind;
pub mod output;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use destination::is_standard_output;
pub(crate) use diagnosis::{diagnose, placeholder, url_error};
pub use kind::{FileKind, kind_of};
pub use output::{Durability, OutputFile};

use crate::error::Error;

/// Name of the model inside the binary.
pub const MINI: &str = "vidense-mini";
/// Largest file of a model that is read as a whole, in bytes: configurations, vocabularies, indices.
const MAX_MODEL_FILE: u64 = 1 << 30;
/// Prefix of the paths of the built-in model.
const BUILTIN: &str = "builtin:vidense-mini";

/// Files of the built-in model by their path in its directory.
#[cfg(feature = "mini")]
const FILES: [(&str, &[u8]); 6] = [
    ("config.json", include_bytes!("../../samples/mini/config.json")),
    ("model.safetensors", include_bytes!("../../samples/mini/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../samples/mini/tokenizer.json")),
    ("vision_tower/config.json", include_bytes!("../../samples/mini/vision_tower/config.json")),
    ("vision_tower/model.safetensors", include_bytes!("../../samples/mini/vision_tower/model.safetensors")),
    (
        "vision_tower/preprocessor_config.json",
        include_bytes!("../../samples/mini/vision_tower/preprocessor_config.json"),
    ),
];
#[cfg(not(feature = "mini"))]
const FILES: [(&str, &[u8]); 0] = [];

/// Returns the directory of the model inside this binary, if there is one.
pub(crate) fn builtin_directory() -> Option<PathBuf> {
    (!FILES.is_empty()).then(|| PathBuf::from(BUILTIN))
}

/// Returns the bytes of a file inside the binary, or `None` for any other path.
pub(crate) fn builtin(path: &Path) -> Option<&'static [u8]> {
    let inside = path.strip_prefix(BUILTIN).ok()?;
    FILES.iter().find(|(name, _)| Path::new(name) == inside).map(|(_, bytes)| *bytes)
}

/// Returns whether `path` is a file, on disk or inside the binary.
pub fn is_file(path: &Path) -> bool {
    builtin(path).is_some() || path.is_file()
}

/// Returns whether `path` is a directory, on disk or inside the binary.
pub fn is_dir(path: &Path) -> bool {
    let contains = |inside: &Path| FILES.iter().any(|(name, _)| Path::new(name).starts_with(inside));
    path.strip_prefix(BUILTIN).is_ok_and(contains) || path.is_dir()
}

/// Reads a file of a model.
///
/// # Errors
/// The operating system's error, or a placeholder: see [`check`].
pub fn read(path: &Path) -> io::Result<Cow<'static, [u8]>> {
    if let Some(bytes) = builtin(path) {
        return Ok(Cow::Borrowed(bytes));
    }
    let bytes = read_bounded(path, MAX_MODEL_FILE)?;
    if bytes.is_empty() {
        return Err(io::Error::other(empty()));
    }
    Ok(Cow::Owned(bytes))
}

/// Reads a regular file of at most `limit` bytes. Pipes and devices, which may never end, are not opened.
///
/// # Errors
/// The operating system's error; a file that is not regular, too long, or a placeholder (a Git LFS pointer, a web
/// page).
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (file, n_bytes) = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let n_bytes = n_bytes.max(bytes.len() as u64);
        return Err(io::Error::other(format!("{n_bytes} bytes, over the {limit} bytes that are read")));
    }
    match placeholder(&bytes) {
        Some(error) => Err(io::Error::other(error)),
        None => Ok(bytes),
    }
}

/// Opens a regular file, and returns its length in bytes. Pipes and devices, which may never end, are not opened.
///
/// # Errors
/// The operating system's error, or a file that is not regular.
pub(crate) fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let meta = diagnosis::metadata(path)?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Err(io::Error::other(
            Error::invalid("not a regular file").with_hint("write it to a file, and name that"),
        ));
    }
    Ok((File::open(path)?, meta.len()))
}

/// Makes the error for an empty file of a model.
fn empty() -> Error {
    Error::invalid("the file is empty (0 bytes)").with_hint("copy or download it again")
}

/// Refuses a placeholder for a model's file: a Git LFS pointer, a web page, an empty file.
///
/// # Errors
/// The operating system's error, or the nature of the placeholder, with a hint.
pub fn check(path: &Path) -> io::Result<()> {
    if builtin(path).is_some() {
        return Ok(());
    }
    let head = diagnosis::read_head(path)?;
    match placeholder(&head) {
        Some(error) => Err(io::Error::other(error)),
        None if head.is_empty() => Err(io::Error::other(empty())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("four"), "four").expect("ours");
        std::fs::write(at("lfs"), "version https://git-lfs.github.com/spec/v1\noid sha256:aa\n").expect("ours");
        std::fs::write(at("empty"), "").expect("ours");
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().expect("a system with pipes").success());
        assert_eq!(read_bounded(&at("four"), 4).expect("small"), b"four");
        let error = |path: &Path, limit| read_bounded(path, limit).expect_err("refused").to_string();
        assert_eq!(error(&at("four"), 3), "4 bytes, over the 3 bytes that are read");
        for path in [&at("pipe"), Path::new("/dev/zero")] {
            assert!(error(path, 100).starts_with("not a regular file; hint: "));
        }
        assert!(error(&at("lfs"), 1000).starts_with("a Git LFS pointer, not the file itself; hint: "));
        assert_eq!(read(&at("empty")).expect_err("empty").to_string(), empty().to_string());
        assert_eq!(read_bounded(&at("empty"), 1).expect("a list may be empty"), b"");
    }

    #[cfg(feature = "mini")]
    #[test]
    fn the_built_in_model_is_read_like_one_on_disk() {
        let dir = builtin_directory().expect("the feature is on");
        assert!(is_dir(&dir) && is_dir(&dir.join("vision_tower")) && !is_dir(&dir.join("other")));
        assert!(is_file(&dir.join("config.json")) && !is_file(&dir) && !is_file(&dir.join("vision_tower")));
        let disk = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/mini/vision_tower/config.json");
        let inside = read(&dir.join("vision_tower/config.json")).expect("it is there");
        assert_eq!(inside, read(&disk).expect("it is there"));
        assert!(read(&dir.join("no.json")).is_err());
    }
}
