//! Directory of a run: the checks before anything in it is written, and the record of the weight files that a run
//! writes.
//!
//! A directory with weight files of another origin is refused: readers of the directory may prefer them to the trained
//! weights, and writing may replace them. A file of the checkpoint or of the tower that the model begins with is never
//! overwritten, through links neither. Called by [`super::train`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{EarlierRun, Output, RUN_DIR};
use crate::error::Error;
use crate::files::output::create_directory;
use crate::train::design::{ModelStart, TOWER_DIR, TowerPlace, WEIGHTS};
use crate::train::state::{self, write_file};
use crate::weights::weight_file_names;

/// File in the run's directory with the weight files that runs in the directory of the model write.
const RECORD: &str = "weight_files.json";
/// Directories in a checkpoint whose files describe or contain its model.
const PARTS: [&str; 3] = ["", TOWER_DIR, "additional_chat_templates"];
/// Number of files that are named in an error; the rest is counted.
const MAX_NAMES: usize = 4;

/// Checks that a run may write into its directory, discards an earlier run there on request, and creates the directory
/// of the run.
///
/// # Errors
/// Weight files of another origin, a source that would be overwritten, or a refusal of the disk.
pub(super) fn prepare(start: &ModelStart, output: &Output<'_>) -> Result<(), Error> {
    check_sources(start, output)?;
    let run_dir = output.model.join(RUN_DIR);
    let mut own = recorded(&run_dir)?;
    check_weights(output.model, &own)?;
    if output.earlier == EarlierRun::Discard && run_dir.is_dir() {
        std::fs::remove_dir_all(&run_dir).map_err(Error::io(&run_dir))?;
    }
    for dir in [output.features, &run_dir] {
        create_directory(dir).map_err(Error::io(dir))?;
    }
    own.insert(WEIGHTS.to_owned());
    if matches!(start.place, TowerPlace::Own | TowerPlace::Copied) {
        own.insert(in_tower(WEIGHTS));
    }
    write_file(&run_dir.join(RECORD), &serde_json::to_vec(&own).unwrap_or_default())
}

/// Returns the name of a file of the tower, relative to the directory of the model.
pub(super) fn in_tower(name: &str) -> String {
    format!("{TOWER_DIR}/{name}")
}

/// Returns the weight files that earlier runs in the directory wrote, by names relative to it.
fn recorded(run_dir: &Path) -> Result<BTreeSet<String>, Error> {
    let record = run_dir.join(RECORD);
    if record.is_file() {
        let bytes = std::fs::read(&record).map_err(Error::io(&record))?;
        return serde_json::from_slice(&bytes).map_err(|error| Error::invalid(error.to_string()).about(&record));
    }
    // Runs of earlier versions have no record.
    let has_state = state::path(run_dir).is_file();
    Ok(if has_state { BTreeSet::from([WEIGHTS.to_owned(), in_tower(WEIGHTS)]) } else { BTreeSet::new() })
}

/// Refuses weight files in the directory of the model, or of its tower, that no run wrote.
fn check_weights(dir: &Path, own: &BTreeSet<String>) -> Result<(), Error> {
    let list = |dir: PathBuf| weight_file_names(&dir).map_err(Error::io(&dir));
    let inside = list(dir.join(TOWER_DIR))?;
    let all = list(dir.to_owned())?.into_iter().chain(inside.iter().map(|name| in_tower(name)));
    let foreign: Vec<String> = all.filter(|name| !own.contains(name)).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let mut rule =
        format!("weight files that no run here wrote: {}", foreign[..foreign.len().min(MAX_NAMES)].join(", "));
    if let n @ 1.. = foreign.len().saturating_sub(MAX_NAMES) {
        rule += &format!(" and {n} more");
    }
    Err(Error::invalid(rule).with_hint("another --out").about(dir))
}

/// Refuses directories in which a run would overwrite or remove files that the model begins with.
fn check_sources(start: &ModelStart, output: &Output<'_>) -> Result<(), Error> {
    let run_dir = output.model.join(RUN_DIR);
    let refused = |rule: String| Err(Error::invalid(rule).with_hint("another --out").about(output.model));
    let sources = || start.from.iter().chain(&start.tower);
    if let Ok(run_dir) = run_dir.canonicalize() {
        let is_inside = |dir: &&PathBuf| dir.canonicalize().is_ok_and(|dir| dir.starts_with(&run_dir));
        if let Some(dir) = sources().find(is_inside) {
            return refused(format!("{} is in the directory of the run's state", dir.display()));
        }
    }
    let read: BTreeSet<PathBuf> =
        sources().flat_map(|dir| PARTS.map(|part| dir.join(part))).flat_map(files_of).collect();
    let written = PARTS.iter().map(|part| output.model.join(part)).chain([run_dir]).flat_map(files_of);
    match written.into_iter().find(|file| read.contains(file)) {
        Some(file) => {
            refused(format!("training would overwrite {}, a file that the model begins with", file.display()))
        }
        None => Ok(()),
    }
}

/// Returns the canonical paths of the files in a directory, links resolved; none for a directory that cannot be listed.
fn files_of(dir: PathBuf) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.path().canonicalize().ok()).filter(|path| path.is_file()).collect()
}
