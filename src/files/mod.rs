//! Files: those of a model, on disk or inside the binary; outputs; and what names and first bytes tell.
//!
//! The one model that the binary carries, `vidense-mini`, is read through paths that begin with `builtin:`; no disk has
//! them. So everything that reads a model's files reads this one as well, and says in errors what it read. [`output`]
//! writes, [`kind`] knows the endings of names, [`sign`] recognises what is often mistaken for a video or a model.

pub mod kind;
pub mod output;
pub mod sign;

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

pub use kind::{FileKind, kind_of};
pub use output::{Flush, Output};
pub use sign::{Sign, sign_of};

/// The name of the model inside the binary.
pub const MINI: &str = "vidense-mini";
/// What its paths begin with.
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
    let bytes = std::fs::read(path)?;
    match sign::stand_in(&bytes) {
        Some(sign) => Err(io::Error::other(sign.to_string())),
        None => Ok(Cow::Owned(bytes)),
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
    let empty = || Sign { cause: "the file is empty (0 bytes)".to_owned(), hint: "copy or download it again" };
    match sign::stand_in(&first).or_else(|| first.is_empty().then(empty)) {
        Some(sign) => Err(io::Error::other(sign.to_string())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
