//! Files beside the answers: sessions of the processes that wrote them, the status during a run, and the summary of the
//! last one. Written by `batch`, read by `status`, `merge` and the report.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::run::BatchOutcome;
use super::snapshot::Snapshot;
use super::store::LockHolder;
use crate::error::Error;
use crate::files::{self, Durability, output};

/// File name of the summary.
pub const SUMMARY: &str = "summary.json";
/// File name of the status.
pub(super) const STATUS: &str = "status.json";

/// A line of the sessions file: one when a process begins, one when it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchSession {
    /// `begin` or `end`.
    pub event: String,
    /// Process and the time of its begin.
    #[serde(flatten)]
    pub holder: LockHolder,
    /// Version of the program.
    pub version: String,
    /// Archive, as given on the command line.
    pub archive: String,
    /// Questions about every item.
    pub questions: Vec<String>,
    /// Summary, at the end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub summary: Option<Summary>,
}

/// Summary of a batch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Whether all items of the archive are done.
    pub complete: bool,
    /// Counts of the results of all processes.
    pub results: ResultCounts,
    /// Counts of the last process.
    pub session: Snapshot,
}

/// Counts of results.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultCounts {
    /// Number of answers.
    pub answers: u64,
    /// Number of failed items, and failed questions about other items.
    pub failed: u64,
    /// Number of failures by stage and kind.
    pub failed_by: BTreeMap<String, u64>,
}

/// Maximum number of bytes of a summary or a status: both are a few counts and examples.
const MAX_BYTES: u64 = 16 << 20;

impl ResultCounts {
    /// Returns the counts of a state.
    pub fn of(state: &super::store::StoreState) -> Self {
        Self { answers: state.n_answered(), failed: state.n_failed(), failed_by: state.failed_by_category() }
    }
}

impl Summary {
    /// Returns the summary of a run.
    pub fn of(outcome: &BatchOutcome) -> Self {
        let BatchOutcome { complete, snapshot, state, .. } = outcome;
        Self { complete: *complete, results: ResultCounts::of(state), session: snapshot.clone() }
    }

    /// Writes the summary beside the answers.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        write(&dir.join(SUMMARY), self)
    }
}

/// Reads the summary of the last run in a directory, if the run has ended.
pub fn read_summary(dir: &Path) -> Option<Summary> {
    serde_json::from_slice(&files::read_bounded(&dir.join(SUMMARY), MAX_BYTES).ok()?).ok()
}

/// Writes the status of a run, for other processes.
///
/// # Errors
/// When the file cannot be written.
pub fn write_status(dir: &Path, snapshot: &Snapshot) -> Result<(), Error> {
    write(&dir.join(STATUS), snapshot)
}

/// Reads the last status of a run.
pub fn read_status(dir: &Path) -> Option<Snapshot> {
    serde_json::from_slice(&files::read_bounded(&dir.join(STATUS), MAX_BYTES).ok()?).ok()
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let bytes = serde_json::to_vec_pretty(value).map_err(std::io::Error::from);
    bytes.and_then(|bytes| output::replace(path, &bytes, Durability::Renamed)).map_err(Error::io(path))
}
