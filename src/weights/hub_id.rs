//! Hub ids, and the hints for names that are none: URLs, files, and paths that do not exist.

use std::ffi::OsStr;
use std::path::Path;

use crate::error::{Error, Kind};
use crate::files::{self, FileKind};

/// Longest hub id, in characters.
const MAX_ID: usize = 96;

/// Refuses names other than hub ids, so that the name of a file or a URL causes no network access.
///
/// # Errors
/// The kind of name, with a hint.
pub(super) fn check_hub_id(name: &str) -> Result<(), Error> {
    let path = Path::new(name);
    let owned = || name.to_owned();
    if let Some((scheme, rest)) = name.split_once("://")
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    {
        let id = rest.strip_prefix("huggingface.co/").or_else(|| rest.strip_prefix("hf.co/"));
        let id = id.map(|id| id.splitn(3, '/').take(2).collect::<Vec<_>>().join("/")).filter(|id| is_hub_id(id));
        let path = || Some(format!("name the path, {rest}")).filter(|_| scheme.eq_ignore_ascii_case("file"));
        let otherwise = || path().unwrap_or_else(|| "download it, and name the directory".to_owned());
        let hint = id.map_or_else(otherwise, |id| format!("the hub id alone: {id}"));
        return Err(Error::new(Kind::Model, "a URL, which is not fetched").with_hint(hint).about(owned()));
    }
    if path.exists() {
        let error = Error::new(Kind::Model, "a file, not a model's directory");
        return Err(error.with_hint(file_hint(path)).about(path));
    }
    if files::kind_of(path).is_some() || is_file_name(path) {
        let hint = "a model is named by its directory, or by a hub id such as org/name".to_owned();
        return Err(no_such_path(name, hint));
    }
    if is_hub_id(name) {
        return Ok(());
    }
    Err(Error::new(Kind::NotFound, "no such directory, and not a hub id of the form org/name").about(owned()))
}

/// Returns whether a name is that of a file although its ending is in no list: a media file with a second ending, such
/// as `holiday.mp4.bak`, or an ambiguous ending.
fn is_file_name(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
    let is_media = |stem: &OsStr| {
        matches!(files::kind_of(Path::new(stem)), Some(FileKind::Video | FileKind::Audio | FileKind::Image))
    };
    path.file_stem().is_some_and(is_media)
        || ending.is_some_and(|ending| ["bak", "dat", "ogg"].iter().any(|known| ending == *known))
}

/// Returns the hint for a file given as a model.
fn file_hint(path: &Path) -> String {
    let is_gguf = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    match files::kind_of(path) {
        Some(FileKind::Weights) if is_gguf => {
            "a GGUF file is named with --llm, beside the --model that has the tower and the projector".to_owned()
        }
        Some(FileKind::Weights) => {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            format!("its directory, {}, if config.json is there too", dir.display())
        }
        Some(FileKind::Video | FileKind::Image) => {
            "a video is named by its place in the command, not with --model".to_owned()
        }
        Some(FileKind::Archive) => "unpack it, and name the directory".to_owned(),
        _ => "name the directory that holds config.json and the weights".to_owned(),
    }
}

/// Returns whether a name is a valid `org/name` of the hub (huggingface_hub, `validate_repo_id`).
fn is_hub_id(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.ends_with(['.', '-'])
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    name.len() <= MAX_ID
        && !name.contains("--")
        && !name.contains("..")
        && !name.ends_with(".git")
        && name.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
}

/// Returns the error for a name with the form of a path that does not exist.
pub(super) fn no_such_path(name: &str, hint: String) -> Error {
    Error::new(Kind::Model, "no such file or directory").with_hint(hint).about(name.to_owned())
}
