//! Directory of an evaluation: names of its files, and the scored answers.

use std::path::Path;

use super::scores::ScoredAnswer;
use crate::error::{Error, Kind, Result};
use crate::files::Durability;
use crate::files::output::{create_directory, replace};

/// File name of the scored answers.
pub const SCORED: &str = "scored.jsonl";
/// Name of the directory of the run's results, which is one of a batch.
pub const RUN: &str = "run";

/// Formats scored answers as JSON Lines.
///
/// # Errors
/// A score that JSON does not have.
pub fn scored_lines(answers: &[ScoredAnswer]) -> Result<Vec<u8>> {
    let mut lines = Vec::new();
    for answer in answers {
        serde_json::to_writer(&mut lines, answer).map_err(|error| Error::caused_by(Kind::Invalid, error))?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Writes the scored answers of an evaluation into its directory.
///
/// # Errors
/// When the directory or the file cannot be written.
pub fn write_scored(dir: &Path, answers: &[ScoredAnswer]) -> Result<()> {
    create_directory(dir).map_err(Error::io(dir))?;
    let path = dir.join(SCORED);
    replace(&path, &scored_lines(answers)?, Durability::Synced).map_err(Error::io(&path))
}
