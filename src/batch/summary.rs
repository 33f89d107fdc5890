//! What came of a batch: the notes of each process that worked on it, and the summary of the last one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::BatchError;
use super::run::BatchOutcome;
use super::store::LockHolder;
use super::tally::Snapshot;
use crate::files::{self, Flush, output};

/// The summary's file.
pub const SUMMARY: &str = "summary.json";
/// The file that tells others how far a run is.
pub const STATUS: &str = "status.json";

/// A note of a process that writes results: one when it begins, one when it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchSession {
    /// `begin` or `end`.
    pub event: String,
    /// Who, and since when.
    #[serde(flatten)]
    pub holder: LockHolder,
    /// Of the program.
    pub version: String,
    /// The archive, as it was named.
    pub archive: String,
    /// What is asked about every item.
    pub questions: Vec<String>,
    /// At the end: what came of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub summary: Option<Summary>,
}

/// What came of a batch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Whether everything that the archive lists is done.
    pub complete: bool,
    /// What the results hold, whichever process made it.
    pub results: ResultCounts,
    /// What the last process did.
    pub session: Snapshot,
}

/// What results hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultCounts {
    /// Answers.
    pub answers: u64,
    /// Items, and questions about others, that failed.
    pub failed: u64,
    /// The same, by stage and kind.
    pub failed_by: BTreeMap<String, u64>,
}

/// Bytes of a summary or a status: both are a few counts and examples.
const MAX_BYTES: u64 = 16 << 20;

impl ResultCounts {
    /// What a state says.
    pub fn of(state: &super::store::StoreState) -> Self {
        Self { answers: state.n_answered(), failed: state.n_failed(), failed_by: state.failed_by_category() }
    }
}

impl Summary {
    /// The summary of a run.
    pub fn of(outcome: &BatchOutcome) -> Self {
        let BatchOutcome { complete, snapshot, state, .. } = outcome;
        Self { complete: *complete, results: ResultCounts::of(state), session: snapshot.clone() }
    }

    /// Writes it beside the answers.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, dir: &Path) -> Result<(), BatchError> {
        write(&dir.join(SUMMARY), self)
    }
}

/// Reads the summary of the last run in a directory, if the run has ended.
pub fn read_summary(dir: &Path) -> Option<Summary> {
    serde_json::from_slice(&files::read_bounded(&dir.join(SUMMARY), MAX_BYTES).ok()?).ok()
}

/// Tells others how far a run is.
///
/// # Errors
/// When the disk refuses.
pub fn write_status(dir: &Path, snapshot: &Snapshot) -> Result<(), BatchError> {
    write(&dir.join(STATUS), snapshot)
}

/// How far the last run was when it last told.
pub fn read_status(dir: &Path) -> Option<Snapshot> {
    serde_json::from_slice(&files::read_bounded(&dir.join(STATUS), MAX_BYTES).ok()?).ok()
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), BatchError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(std::io::Error::from);
    bytes.and_then(|bytes| output::write(path, &bytes, Flush::Rename)).map_err(BatchError::io(path))
}
