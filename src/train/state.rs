//! A run's state on disk: weights, optimizer, and how far it came. Written beside and renamed, so that one whole state
//! is there at every moment.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use candle_core::safetensors::{Load, MmapedSafetensors};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::files::{Durability, output};
use crate::spec::ModelFile;

/// Progress of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The fingerprint of the recipe up to the stage that runs.
    pub recipe: String,
    /// The stage that runs, from 0.
    pub stage: usize,
    /// Updates that it has made.
    pub step: usize,
    /// Weight files that the model began with; absent in states of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<ModelFile>>,
}

impl Progress {
    /// Stages that have left something in the weights.
    pub(crate) fn n_stages_begun(&self) -> usize {
        self.stage + usize::from(self.step > 0)
    }
}

/// A run's state.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Progress of the run.
    pub progress: Progress,
    /// All weights, by name.
    pub weights: BTreeMap<String, Tensor>,
    /// The optimizer's state, by name.
    pub optimizer: BTreeMap<String, Tensor>,
}

const FILE: &str = "state.safetensors";
const PROGRESS: &str = "progress";
const WEIGHT: &str = "weight.";
const OPTIMIZER: &str = "optimizer.";

/// Returns the path of the state of the run in `dir`.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

impl State {
    /// Writes the state over the one before.
    ///
    /// # Errors
    /// When the disk refuses; the state before then stands.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), Error> {
        let progress = serde_json::to_string(&self.progress).unwrap_or_default();
        let metadata = HashMap::from([(PROGRESS.to_owned(), progress)]);
        let named = |prefix: &'static str, tensors: &BTreeMap<String, Tensor>| {
            tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())).collect::<Vec<_>>()
        };
        let tensors = named(WEIGHT, &self.weights).into_iter().chain(named(OPTIMIZER, &self.optimizer)).collect();
        write_tensors(&path(dir), &tensors, Some(metadata))
    }

    /// Reads the state of the run in `dir`, if there is one.
    ///
    /// # Errors
    /// When it is broken.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = path(dir);
        if !path.is_file() {
            return Ok(None);
        }
        let broken = |rule: String| Error::invalid(rule).about(&path);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
        let progress = header.metadata().as_ref().and_then(|metadata| metadata.get(PROGRESS));
        let progress = progress.ok_or_else(|| broken("not the state of a training run".to_owned()))?;
        let mut state = Self {
            progress: serde_json::from_str(progress).map_err(|error| broken(error.to_string()))?,
            ..Self::default()
        };
        // SAFETY: the map is read-only, and only this run writes the file, by renaming another one over it.
        let mapped = unsafe { MmapedSafetensors::new(&path) }.map_err(|error| broken(error.to_string()))?;
        for (name, view) in mapped.tensors() {
            let tensor = view.load(&candle_core::Device::Cpu).map_err(|error| broken(format!("{name}: {error}")))?;
            if let Some(name) = name.strip_prefix(WEIGHT) {
                state.weights.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix(OPTIMIZER) {
                state.optimizer.insert(name.to_owned(), tensor);
            }
        }
        Ok(Some(state))
    }
}

/// Writes tensors as safetensors: beside, flushed to the disk, then renamed.
///
/// # Errors
/// When the disk refuses; a file that was there before then stands.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: Option<HashMap<String, String>>,
) -> Result<(), Error> {
    let packed =
        safetensors::serialize(tensors, metadata).map_err(|error| Error::invalid(error.to_string()).about(path))?;
    write_file(path, &packed)
}

/// Writes a file so that it is on the disk, as a whole.
///
/// # Errors
/// When the disk refuses; a file that was there before then stands.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    output::replace(path, bytes, Durability::Synced).map_err(Error::io(path))
}
