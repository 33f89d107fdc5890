//! Where a model named on the command line lies: a directory, `$VIDENSE_MODELS`, the hub's cache, or the hub.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::source::WeightFiles;
use crate::files;

/// A file of several gigabytes deserves another try; what was fetched of it is kept.
const N_RETRIES: usize = 3;

/// Why a model could not be found or fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Neither a directory nor a hub id.
    #[error("{name}: no such directory, and not a hub id of the form org/name")]
    NotFound {
        /// As given.
        name: String,
    },
    /// The model that other builds carry.
    #[error(
        "{}: this build carries no model; hint: name one with --model, or build with the feature `mini`",
        files::MINI
    )]
    NotBuiltIn,
    /// A directory that is no model.
    #[error(
        "{dir}: no config.json here, so it is no model; hint: name the directory that holds config.json and the weights"
    )]
    NotAModel {
        /// The directory.
        dir: PathBuf,
    },
    /// A hub id that is not on this machine, while downloading is forbidden.
    #[error(
        "{id}: not in {looked}, and HF_HUB_OFFLINE forbids the download; \
         hint: on a machine with a network, download {id} into <dir>/{id} and set VIDENSE_MODELS=<dir>"
    )]
    Offline {
        /// The hub id.
        id: String,
        /// The places that were looked in.
        looked: String,
    },
    /// The download failed.
    #[error("{id}: the download failed: {cause}; hint: place it in <dir>/{id} by hand and set VIDENSE_MODELS=<dir>")]
    Download {
        /// The hub id.
        id: String,
        /// The library's words.
        cause: String,
    },
}

/// The places where models are looked for, in this order: the binary itself, a directory of that name, `$VIDENSE_MODELS`, the
/// hub's own cache, and, unless forbidden, the hub itself.
#[derive(Debug, Clone)]
pub struct Hub {
    models: Option<PathBuf>,
    offline: bool,
    progress: bool,
}

impl Hub {
    /// Reads `VIDENSE_MODELS`, `HF_HUB_OFFLINE` and the hub's own variables. With `progress`, a download shows bars.
    pub fn from_env(progress: bool) -> Self {
        let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
        let models = std::env::var_os("VIDENSE_MODELS").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        Self { models, offline, progress }
    }

    /// Directories, the models below `models`, and the hub's cache; no downloads.
    pub fn offline(models: Option<PathBuf>) -> Self {
        Self { models, offline: true, progress: false }
    }

    /// The directory of the model called `name`: a path, or a hub id.
    ///
    /// # Errors
    /// [`HubError`] saying where was looked and what to do.
    pub fn find(&self, name: &str) -> Result<PathBuf, HubError> {
        let direct = Path::new(name);
        if name == files::MINI {
            return files::builtin_directory().ok_or(HubError::NotBuiltIn);
        }
        if direct.is_dir() {
            return model_directory(direct.to_owned());
        }
        if !is_hub_id(name) {
            return Err(HubError::NotFound { name: name.to_owned() });
        }
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
            return Err(HubError::Offline { id: name.to_owned(), looked: self.looked(&cache) });
        }
        self.download(name, &cache)
    }

    /// The directory of a tower that the checkpoint in `model` names: inside it first, then as [`Self::find`].
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_tower(&self, model: &Path, name: &str) -> Result<PathBuf, HubError> {
        let inside = model.join(name);
        if !name.is_empty() && files::is_dir(&inside) { model_directory(inside) } else { self.find(name) }
    }

    fn looked(&self, cache: &Cache) -> String {
        let models =
            self.models.as_ref().map_or("VIDENSE_MODELS (not set)".to_owned(), |dir| dir.display().to_string());
        format!("{models} or {}", cache.path().display())
    }

    fn download(&self, id: &str, cache: &Cache) -> Result<PathBuf, HubError> {
        let failed =
            |error: hf_hub::api::sync::ApiError| HubError::Download { id: id.to_owned(), cause: error.to_string() };
        let api =
            ApiBuilder::from_env().with_retries(N_RETRIES).with_progress(self.progress).build().map_err(failed)?;
        let repo = api.model(id.to_owned());
        let names: Vec<String> = repo.info().map_err(failed)?.siblings.into_iter().map(|file| file.rfilename).collect();
        fetch(&repo, &wanted(&names)).map_err(failed)?;
        let config = cache.model(id.to_owned()).get("config.json");
        config.and_then(|file| file.parent().map(Path::to_owned)).ok_or_else(|| HubError::Download {
            id: id.to_owned(),
            cause: "the repository has no config.json".to_owned(),
        })
    }
}

fn fetch(repo: &ApiRepo, names: &[&String]) -> Result<(), hf_hub::api::sync::ApiError> {
    for name in names {
        repo.get(name)?;
    }
    Ok(())
}

/// Of a repository's files, those that a model is loaded from: no `.bin` where safetensors do.
fn wanted(names: &[String]) -> Vec<&String> {
    let ends = |name: &str, ending: &str| name.to_ascii_lowercase().ends_with(ending);
    let has_safetensors = names.iter().any(|name| name.starts_with("model") && ends(name, ".safetensors"));
    let weights = |name: &str| {
        let safetensors = name.starts_with("model") && ends(name, ".safetensors");
        safetensors || (!has_safetensors && name.starts_with("pytorch_model") && ends(name, ".bin"))
    };
    let top_level = |name: &str| !name.contains('/');
    let described = |name: &str| ends(name, ".json") || name == "tokenizer.model";
    names.iter().filter(|name| top_level(name) && (described(name) || weights(name))).collect()
}

fn model_directory(dir: PathBuf) -> Result<PathBuf, HubError> {
    if files::is_file(&dir.join("config.json")) { Ok(dir) } else { Err(HubError::NotAModel { dir }) }
}

/// `org/name`, in the letters that the hub allows.
fn is_hub_id(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    name.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
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
