//! Files: those of a model, on disk or inside the binary; outputs; and what names and first bytes tell.
//!
//! The one model that the binary carries, `vidense-mini`, is read through paths that begin with `builtin:`; no disk has
//! them. So everything that reads a model's files reads this one as well, and says in errors what it read. [`output`]
//! writes, [`kind`] knows the endings of names, [`sign`] recognises what is often mistaken for a video or a model.

pub mod kind;
pub mod output;
pub mod sign;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use kind::{FileKind, kind_of};
pub use output::{Flush, Output};
pub use sign::{Sign, sign_of, stand_in, unfetched};

/// The name of the model inside the binary.
pub const MINI: &str = "vidense-mini";
/// Bytes of a file of a model that is read as a whole: configurations, vocabularies, indices.
const MAX_MODEL_FILE: u64 = 1 << 30;
/// Cause for a model's file without a byte.
const EMPTY: &str = "the file is empty (0 bytes); hint: copy or download it again";
/// Prefix of the paths of the built-in model.
const BUILTIN: &str = "builtin:vidense-mini";

/// Its files, by their path in its directory.
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

/// The directory of the model inside this binary, if it carries one.
pub fn builtin_directory() -> Option<PathBuf> {
    (!FILES.is_empty()).then(|| PathBuf::from(BUILTIN))
}

/// The bytes of a file inside the binary, if that is where the path leads.
pub fn builtin(path: &Path) -> Option<&'static [u8]> {
    let inside = path.strip_prefix(BUILTIN).ok()?;
    FILES.iter().find(|(name, _)| Path::new(name) == inside).map(|(_, bytes)| *bytes)
}

/// Whether there is a file.
pub fn is_file(path: &Path) -> bool {
    builtin(path).is_some() || path.is_file()
}

/// Whether there is a directory.
pub fn is_dir(path: &Path) -> bool {
    let holds = |inside: &Path| FILES.iter().any(|(name, _)| Path::new(name).starts_with(inside));
    path.strip_prefix(BUILTIN).is_ok_and(holds) || path.is_dir()
}

/// The bytes of a file of a model.
///
/// # Errors
/// The system's own, or what stands there in place of the file: see [`check`].
pub fn read(path: &Path) -> io::Result<Cow<'static, [u8]>> {
    if let Some(bytes) = builtin(path) {
        return Ok(Cow::Borrowed(bytes));
    }
    let bytes = read_bounded(path, MAX_MODEL_FILE)?;
    if bytes.is_empty() {
        return Err(io::Error::other(EMPTY));
    }
    Ok(Cow::Owned(bytes))
}

/// Reads a regular file of at most `limit` bytes. A pipe or a device, which could be read for ever, is not opened.
///
/// # Errors
/// The system's own, that it is not regular or too long, or what stands in its place: a Git LFS pointer, a web page.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let meta = sign::facts(path)?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file; hint: write it to a file, and name that"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let n_bytes = meta.len().max(bytes.len() as u64);
        return Err(io::Error::other(format!("{n_bytes} bytes, over the {limit} bytes that are read")));
    }
    match sign::stand_in(&bytes) {
        Some(sign) => Err(io::Error::other(sign.to_string())),
        None => Ok(bytes),
    }
}

/// Refuses what stands in place of a model's file: a Git LFS pointer, a web page, nothing at all.
///
/// # Errors
/// The system's own, or what it is, with a hint.
pub fn check(path: &Path) -> io::Result<()> {
    if builtin(path).is_some() {
        return Ok(());
    }
    let first = sign::first_bytes(path)?;
    match sign::stand_in(&first) {
        Some(sign) => Err(io::Error::other(sign.to_string())),
        None if first.is_empty() => Err(io::Error::other(EMPTY)),
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
        assert_eq!(read(&at("empty")).expect_err("empty").to_string(), EMPTY);
        assert_eq!(read_bounded(&at("empty"), 1).expect("a list may be empty"), b"");
    }

    #[cfg(feature = "mini")]
    #[test]
    fn the_model_inside_is_read_like_one_on_disk() {
        let dir = builtin_directory().expect("the feature is on");
        assert!(is_dir(&dir) && is_dir(&dir.join("vision_tower")) && !is_dir(&dir.join("other")));
        assert!(is_file(&dir.join("config.json")) && !is_file(&dir) && !is_file(&dir.join("vision_tower")));
        let disk = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/mini/vision_tower/config.json");
        let inside = read(&dir.join("vision_tower/config.json")).expect("it is there");
        assert_eq!(inside, read(&disk).expect("it is there"));
        assert!(read(&dir.join("no.json")).is_err());
    }
}
