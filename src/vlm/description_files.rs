//! Files that describe a model or a tower, beside its weights: their names, and those that a directory has.

use std::path::{Path, PathBuf};

use crate::files;

/// Names of the files.
const NAMES: [&str; 12] = [
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Returns the files of a directory, without further templates.
pub(super) fn present(dir: &Path) -> impl Iterator<Item = PathBuf> {
    NAMES.map(|name| dir.join(name)).into_iter().filter(|path| files::is_file(path))
}

/// Returns the templates of a checkpoint that has several, in the order of their names.
pub(super) fn more_templates(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("additional_chat_templates")).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| files::is_file(path)).collect();
    paths.sort();
    paths
}

/// Returns the files that describe a model except `config.json`, with their paths inside `dir`.
pub(crate) fn companions(dir: &Path) -> Vec<PathBuf> {
    let inside = |path: PathBuf| path.strip_prefix(dir).ok().map(Path::to_owned);
    let all = present(dir).chain(more_templates(dir)).filter_map(inside);
    all.filter(|path| path != Path::new("config.json")).collect()
}
