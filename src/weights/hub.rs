//! Search for the directory of a named model: a path, `$VIDENSE_MODELS`, the hub's cache, or a download from the hub.
//!
//! Names that cannot be hub ids (URLs, files, paths) are refused before any network access: [`super::hub_id`]. Called
//! wherever a model is opened or inspected.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::hub_id::{check_hub_id, no_such_path};
use super::source::WeightFiles;
use crate::error::{Error, Kind};
use crate::files;

/// File by which a directory is an adapter (PEFT).
const ADAPTER: &str = "adapter_config.json";
/// Number of directory entries that are examined for a hint.
const MAX_ENTRIES: usize = 1000;
/// Number of retries of a download, which resumes a partial file.
const N_RETRIES: usize = 3;

/// Sources of models, in the order of the search: the binary itself, a directory of that name, `$VIDENSE_MODELS`, the
/// hub's cache, and, unless forbidden, the hub.
#[derive(Debug, Clone)]
pub struct Hub {
    models: Option<PathBuf>,
    offline: bool,
    progress: DownloadProgress,
}

/// Display of download progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadProgress {
    /// Bars on standard error.
    Shown,
    /// No output.
    Hidden,
}

impl Hub {
    /// Reads `VIDENSE_MODELS`, `HF_HUB_OFFLINE` and the hub's own variables.
    pub fn from_env(progress: DownloadProgress) -> Self {
        let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
        let models = std::env::var_os("VIDENSE_MODELS").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        Self { models, offline, progress }
    }

    /// Makes a search of directories, the models below `models`, and the hub's cache, without downloads.
    pub fn offline(models: Option<PathBuf>) -> Self {
        Self { models, offline: true, progress: DownloadProgress::Hidden }
    }

    /// Returns the directory of the model `name`, a path or a hub id.
    ///
    /// # Errors
    /// The searched locations, and a hint.
    pub fn find(&self, name: &str) -> Result<PathBuf, Error> {
        let direct = Path::new(name);
        if name == files::MINI {
            return files::builtin_directory().ok_or_else(|| {
                let error = Error::new(Kind::Model, "this build contains no model");
                error.with_hint("name one with --model, or build with the feature `mini`").about(files::MINI)
            });
        }
        if direct.is_dir() {
            return model_directory(direct.to_owned());
        }
        check_hub_id(name)?;
        if let Some(dir) = self.models.as_ref().map(|models| models.join(name)).filter(|dir| dir.is_dir()) {
            return model_directory(dir);
        }
        let cache = Cache::from_env();
        let repo = Repo::new(name.to_owned(), RepoType::Model);
        let cached = cache.repo(repo.clone()).get("config.json").and_then(|file| file.parent().map(Path::to_owned));
        if let Some(dir) = cached.filter(|dir| WeightFiles::find(dir).is_ok()) {
            return Ok(dir);
        }
        if self.offline {
            return Err(self.no_download(name, &cache));
        }
        // Below an existing directory the name is a path, if the model is not on this machine.
        if let Some(parent) = direct.parent().filter(|parent| parent.is_dir()) {
            let hint = format!(
                "`{}` is a directory, so this is a path; run it elsewhere to fetch the hub's {name}",
                parent.display()
            );
            return Err(no_such_path(name, hint));
        }
        self.download(name, &cache)
    }

    /// Returns the directory of a tower that the checkpoint in `model` names: inside it first, then as [`Self::find`].
    ///
    /// # Errors
    /// Errors of [`Self::find`].
    pub(crate) fn find_tower(&self, model: &Path, name: &str) -> Result<PathBuf, Error> {
        let inside = model.join(name);
        if !name.is_empty() && files::is_dir(&inside) { model_directory(inside) } else { self.find(name) }
    }

    /// Returns the error of a hub id that is not on this machine, while downloading is forbidden.
    fn no_download(&self, id: &str, cache: &Cache) -> Error {
        let models =
            self.models.as_ref().map_or("VIDENSE_MODELS (not set)".to_owned(), |dir| dir.display().to_string());
        let rule = format!("not in {models} or {}, and HF_HUB_OFFLINE forbids the download", cache.path().display());
        let hint = format!("on a machine with a network, download {id} into <dir>/{id} and set VIDENSE_MODELS=<dir>");
        Error::new(Kind::Model, rule).with_hint(hint).about(id.to_owned())
    }

    fn download(&self, id: &str, cache: &Cache) -> Result<PathBuf, Error> {
        let failed = |error: hf_hub::api::sync::ApiError| download_error(id, &error.to_string());
        let api = ApiBuilder::from_env()
            .with_retries(N_RETRIES)
            .with_progress(self.progress == DownloadProgress::Shown)
            .build()
            .map_err(failed)?;
        let repo = api.model(id.to_owned());
        let names: Vec<String> = repo.info().map_err(failed)?.siblings.into_iter().map(|file| file.rfilename).collect();
        if names.iter().any(|name| name == ADAPTER) {
            return Err(adapter_error(Path::new(id), "its base model"));
        }
        fetch(&repo, &wanted(&names)).map_err(failed)?;
        let config = cache.model(id.to_owned()).get("config.json");
        config
            .and_then(|file| file.parent().map(Path::to_owned))
            .ok_or_else(|| download_error(id, "the repository has no config.json"))
    }
}

fn fetch(repo: &ApiRepo, names: &[&String]) -> Result<(), hf_hub::api::sync::ApiError> {
    for name in names {
        repo.get(name)?;
    }
    Ok(())
}

/// Returns the files of a repository that a model is loaded from: `.bin` files only without safetensors.
fn wanted(names: &[String]) -> Vec<&String> {
    let ends = |name: &str, ending: &str| name.to_ascii_lowercase().ends_with(ending);
    let has_safetensors = names.iter().any(|name| name.starts_with("model") && ends(name, ".safetensors"));
    let weights = |name: &str| {
        let safetensors = name.starts_with("model") && ends(name, ".safetensors");
        safetensors || (!has_safetensors && name.starts_with("pytorch_model") && ends(name, ".bin"))
    };
    let top_level = |name: &str| !name.contains('/');
    let described = |name: &str| ends(name, ".json") || ends(name, ".jinja") || name == "tokenizer.model";
    // Several chat templates are in a directory of their own.
    let is_template = |name: &str| {
        name.strip_prefix("additional_chat_templates/").is_some_and(|rest| top_level(rest) && ends(rest, ".jinja"))
    };
    let is_wanted = |name: &str| is_template(name) || top_level(name) && (described(name) || weights(name));
    names.iter().filter(|name| is_wanted(name)).collect()
}

fn model_directory(dir: PathBuf) -> Result<PathBuf, Error> {
    let adapter = dir.join(ADAPTER);
    if files::is_file(&adapter) {
        return Err(adapter_error(&dir, &base_model(&adapter)));
    }
    if files::is_file(&dir.join("config.json")) {
        return Ok(dir);
    }
    Err(Error::new(Kind::Model, "not a model: no config.json here").with_hint(directory_hint(&dir)).about(dir))
}

/// Returns the base model that an adapter names.
fn base_model(adapter: &Path) -> String {
    let config: Option<serde_json::Value> =
        files::read(adapter).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let name = config.as_ref().and_then(|config| config.get("base_model_name_or_path")).and_then(|name| name.as_str());
    name.filter(|name| !name.is_empty()).map_or("its base model".to_owned(), |name| format!("its base model `{name}`"))
}

/// Returns the hint for a directory that is not a model.
fn directory_hint(dir: &Path) -> String {
    let entries = || std::fs::read_dir(dir).into_iter().flatten().flatten().take(MAX_ENTRIES).map(|entry| entry.path());
    // Layout of the hub's cache: `models--org--name/snapshots/<revision>`.
    let is_model = |dir: &PathBuf| dir.join("config.json").is_file();
    let mut inner =
        entries().chain(std::fs::read_dir(dir.join("snapshots")).into_iter().flatten().flatten().map(|e| e.path()));
    if let Some(found) = inner.find(is_model) {
        return format!("{} is one", found.display());
    }
    let mut names = entries();
    match names.find(|file| file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))) {
        Some(file) => {
            format!("name {} with --llm, beside the --model that has the tower and the projector", file.display())
        }
        None => "name the directory that holds config.json and the weights".to_owned(),
    }
}

/// Returns the error for a directory with a LoRA adapter of PEFT.
fn adapter_error(dir: &Path, base: &str) -> Error {
    let hint = format!(
        "merge it into {base} first (PEFT: merge_and_unload, save_pretrained), or remove {ADAPTER} if the weights are \
         merged already"
    );
    Error::new(Kind::Model, format!("an adapter ({ADAPTER}), which is not applied")).with_hint(hint).about(dir)
}

/// Returns the error of a failed download.
fn download_error(id: &str, cause: &str) -> Error {
    let hint = format!("place it in <dir>/{id} by hand and set VIDENSE_MODELS=<dir>");
    Error::new(Kind::Model, format!("the download failed: {cause}")).with_hint(hint).about(id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(models: Option<&Path>) -> Hub {
        Hub::offline(models.map(Path::to_owned))
    }

    #[test]
    fn a_hub_id_is_found_below_vidense_models() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let model = dir.path().join("org/name");
        std::fs::create_dir_all(&model).expect("a directory");
        let error = hub(Some(dir.path())).find("org/name").expect_err("it has no config");
        assert!(error.to_string().contains("no config.json here"), "{error}");
        std::fs::write(model.join("config.json"), "{}").expect("a small file");
        assert_eq!(hub(Some(dir.path())).find("org/name").expect("it has one"), model);
    }

    #[test]
    fn offline_says_what_to_download_and_where_to() {
        let error = hub(None).find("no-such-org/no-such-model").expect_err("nowhere").to_string();
        assert!(error.starts_with("no-such-org/no-such-model: not in VIDENSE_MODELS (not set) or "), "{error}");
        assert!(
            error.ends_with(
                "download no-such-org/no-such-model into <dir>/no-such-org/no-such-model and set VIDENSE_MODELS=<dir>"
            ),
            "{error}"
        );
    }

    #[test]
    fn what_is_neither_path_nor_id_is_said_to_be_neither() {
        for name in ["", "no-such-dir", "../x/y", "a/b/c", "/no/such", "a b/c"] {
            let error = hub(None).find(name).expect_err(name).to_string();
            assert!(error.contains("no such directory, and not a hub id"), "{error}");
        }
    }

    /// A hub that would ask the network, if anything were looked for there.
    fn online(models: Option<&Path>) -> Hub {
        Hub { models: models.map(Path::to_owned), offline: false, progress: DownloadProgress::Hidden }
    }

    #[test]
    fn what_is_meant_as_a_file_or_an_address_is_not_looked_for_in_the_network() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        for name in ["model.gguf", "weights.safetensors", "a.mp4"] {
            std::fs::write(at(name), "x").expect("a small file");
        }
        let no_path = "no such file or directory; hint: a model is named by its directory";
        for (name, message) in [
            ("clips/gone.mp4".to_owned(), no_path),
            ("clips/gone.MKV".to_owned(), no_path),
            ("clips/holiday.mp4.bak".to_owned(), no_path),
            ("clips/gone.DAT".to_owned(), no_path),
            ("models/gone.gguf".to_owned(), no_path),
            ("models/gone.safetensors".to_owned(), no_path),
            ("./gone-model".to_owned(), "not a hub id"),
            ("../gone-model".to_owned(), "not a hub id"),
            ("/gone/model".to_owned(), "not a hub id"),
            ("./gone-model".to_owned(), "not a hub id"),
            ("gone/model/".to_owned(), "not a hub id"),
            ("org\\name".to_owned(), "not a hub id"),
            ("org/na--me".to_owned(), "not a hub id"),
            ("org/name.git".to_owned(), "not a hub id"),
            ("-org/name".to_owned(), "not a hub id"),
            ("src/gone".to_owned(), "hint: `src` is a directory, so this is a path"),
            ("https://huggingface.co/org/name/tree/main".to_owned(), "hint: the hub id alone: org/name"),
            ("file:///models/a".to_owned(), "hint: name the path, /models/a"),
            ("https://example.org/a.mp4".to_owned(), "a URL, which is not fetched; hint: download it"),
            (at("model.gguf"), "a file, not a model's directory; hint: a GGUF file is named with --llm"),
            (at("weights.safetensors"), "a file, not a model's directory; hint: its directory, "),
            (at("a.mp4"), "a file, not a model's directory; hint: a video is named by its place"),
        ] {
            let error = online(None).find(&name).expect_err(&name).to_string();
            assert!(error.starts_with(&name) && error.contains(message), "{error}");
        }
    }

    #[test]
    fn an_adapter_is_to_be_merged_first() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let adapter = dir.path().join(ADAPTER);
        std::fs::write(&adapter, r#"{"base_model_name_or_path": "org/base"}"#).expect("a small file");
        for also_config in [false, true] {
            if also_config {
                std::fs::write(dir.path().join("config.json"), "{}").expect("a small file");
            }
            let error = hub(None).find(&dir.path().to_string_lossy()).expect_err("an adapter").to_string();
            assert!(error.contains("hint: merge it into its base model `org/base` first"), "{error}");
        }
    }

    #[test]
    fn a_directory_above_a_model_names_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let inside = dir.path().join("snapshots/abc");
        std::fs::create_dir_all(&inside).expect("ours");
        std::fs::write(inside.join("config.json"), "{}").expect("a small file");
        let error = hub(None).find(&dir.path().to_string_lossy()).expect_err("none itself").to_string();
        assert!(error.ends_with(&format!("hint: {} is one", inside.display())), "{error}");
    }

    #[test]
    fn bins_are_fetched_only_without_safetensors() {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let both = list(&[
            "README.md",
            "config.json",
            "model-00001-of-2.safetensors",
            "pytorch_model-1.bin",
            "tokenizer.model",
            "onnx/model.safetensors",
        ]);
        assert_eq!(wanted(&both), [&both[1], &both[2], &both[4]]);
        let bins = list(&["config.json", "pytorch_model-1.bin", "optimizer.bin"]);
        assert_eq!(wanted(&bins), [&bins[0], &bins[1]]);
    }
}
