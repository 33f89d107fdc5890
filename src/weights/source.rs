//! Search for the weight files of a directory: safetensors before PyTorch, a single file before an index of shards.
//!
//! The order is that of transformers 5.24 (`_get_resolved_checkpoint_files` in `modeling_utils.py`).

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::error::unreadable;
use crate::error::{Error, Kind};
use crate::files;

/// Weight files of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WeightFiles {
    Safetensors(Vec<PathBuf>),
    TorchBin(Vec<PathBuf>),
}

const SAFETENSORS_INDEX: &str = "model.safetensors.index.json";
const SAFETENSORS: &str = "model.safetensors";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";
const TORCH: &str = "pytorch_model.bin";
/// Names of files with a projector alone, whose language model is another checkpoint.
const PROJECTORS: [&str; 2] = ["mm_projector.safetensors", "mm_projector.bin"];

impl WeightFiles {
    /// Finds files by the names that released checkpoints use, in order of preference.
    pub(super) fn find(dir: &Path) -> Result<Self, Error> {
        let has = |name: &str| files::is_file(&dir.join(name));
        if has(SAFETENSORS) {
            Ok(Self::Safetensors(vec![dir.join(SAFETENSORS)]))
        } else if has(SAFETENSORS_INDEX) {
            Ok(Self::Safetensors(shards(dir, SAFETENSORS_INDEX)?))
        } else if has(TORCH) {
            Ok(Self::TorchBin(vec![dir.join(TORCH)]))
        } else if has(TORCH_INDEX) {
            Ok(Self::TorchBin(shards(dir, TORCH_INDEX)?))
        } else if has(PROJECTORS[0]) {
            Ok(Self::Safetensors(vec![dir.join(PROJECTORS[0])]))
        } else if has(PROJECTORS[1]) {
            Ok(Self::TorchBin(vec![dir.join(PROJECTORS[1])]))
        } else {
            let whole = [SAFETENSORS, SAFETENSORS_INDEX, TORCH, TORCH_INDEX];
            let expected = whole.into_iter().chain(PROJECTORS).collect::<Vec<_>>().join(", ");
            Err(Error::new(Kind::Model, format!("no weights here; expected one of {expected}")).about(dir))
        }
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Safetensors(paths) | Self::TorchBin(paths) => paths,
        }
    }
}

/// Returns the paths of the files that the weights of a directory are read from.
///
/// # Errors
/// When there are none, or an index of shards is broken.
pub(crate) fn weight_paths(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(WeightFiles::find(dir)?.paths().to_vec())
}

/// Returns the names of all files in a directory that are weights, shards or indices of shards by their names, sorted;
/// none for a missing directory.
///
/// # Errors
/// When the directory cannot be listed.
pub(crate) fn weight_file_names(dir: &Path) -> std::io::Result<Vec<String>> {
    const BEGINNINGS: [&str; 3] = ["model", "pytorch_model", "mm_projector"];
    const ENDINGS: [&str; 4] = [".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json"];
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let is_weights = |name: &str| {
        BEGINNINGS.iter().any(|begin| name.starts_with(begin)) && ENDINGS.iter().any(|end| name.ends_with(end))
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string().ok().filter(|name| is_weights(name)));
    }
    names.sort();
    Ok(names)
}

/// Returns the shards that an index names, sorted, each checked to be a file beside it.
fn shards(dir: &Path, index: &str) -> Result<Vec<PathBuf>, Error> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let path = dir.join(index);
    let text = files::read(&path).map_err(Error::io(&path))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| unreadable(&path, "index of shards", Error::invalid(error.to_string())))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    let wrong = |shard: &str, reason: &str| {
        Error::new(Kind::Model, format!("it names the shard `{shard}`, which {reason}")).about(&path)
    };
    if names.is_empty() {
        return Err(unreadable(&path, "index of shards", Error::invalid("weight_map is empty")));
    }
    names
        .into_iter()
        .map(|name| {
            let file = dir.join(&name);
            let plain = Path::new(&name).components().all(|part| matches!(part, Component::Normal(_)));
            match (plain, files::is_file(&file)) {
                (false, _) => Err(wrong(&name, "is outside the directory")),
                (true, false) => Err(wrong(&name, "is not there")),
                (true, true) => Ok(file),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("a small file");
        }
        dir
    }

    #[test]
    fn weight_files_are_preferred_in_the_order_of_transformers() {
        let safetensors = r#"{"weight_map": {"a": "1.safetensors"}}"#;
        let torch = r#"{"weight_map": {"a": "1.bin"}}"#;
        let dir = directory(&[
            (SAFETENSORS, ""),
            (SAFETENSORS_INDEX, safetensors),
            ("1.safetensors", ""),
            (TORCH, ""),
            (TORCH_INDEX, torch),
            ("1.bin", ""),
        ]);
        let order =
            [(SAFETENSORS, SAFETENSORS), (SAFETENSORS_INDEX, "1.safetensors"), (TORCH, TORCH), (TORCH_INDEX, "1.bin")];
        for (removed, expected) in order {
            let files = WeightFiles::find(dir.path()).expect("weights");
            assert_eq!(files.paths(), [dir.path().join(expected)]);
            std::fs::remove_file(dir.path().join(removed)).expect("the file that was found");
        }
    }

    #[test]
    fn shards_come_sorted_and_once() {
        let index = r#"{"weight_map": {"a": "2.bin", "b": "1.bin", "c": "2.bin"}}"#;
        let dir = directory(&[(TORCH_INDEX, index), ("1.bin", ""), ("2.bin", "")]);
        let files = WeightFiles::find(dir.path()).expect("all are there");
        assert_eq!(files, WeightFiles::TorchBin(vec![dir.path().join("1.bin"), dir.path().join("2.bin")]));
    }

    #[test]
    fn a_bad_index_says_what_is_wrong() {
        for (index, message) in [
            (
                r#"{"weight_map": {"a": "gone.safetensors"}}"#,
                "it names the shard `gone.safetensors`, which is not there",
            ),
            (r#"{"weight_map": {"a": "../x"}}"#, "it names the shard `../x`, which is outside the directory"),
            (r#"{"weight_map": {}}"#, "not a readable index of shards: weight_map is empty"),
            ("{", "not a readable index of shards: EOF"),
        ] {
            let dir = directory(&[(SAFETENSORS_INDEX, index)]);
            let error = WeightFiles::find(dir.path()).expect_err("a bad index").to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn a_directory_without_weights_says_what_it_lacks() {
        let dir = directory(&[("config.json", "{}")]);
        let error = WeightFiles::find(dir.path()).expect_err("nothing there").to_string();
        assert!(error.ends_with("no weights here; expected one of model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json, mm_projector.safetensors, mm_projector.bin"), "{error}");
    }
}
