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

/// Writes the scored answers of an evaluation into its directory, and returns their BLAKE3 hash.
///
/// # Errors
/// When the directory or the file cannot be written.
pub fn write_scored(dir: &Path, answers: &[ScoredAnswer]) -> Result<String> {
    create_directory(dir).map_err(Error::io(dir))?;
    let (path, lines) = (dir.join(SCORED), scored_lines(answers)?);
    replace(&path, &lines, Durability::Synced).map_err(Error::io(&path))?;
    Ok(blake3::hash(&lines).to_hex().to_string())
}

/// Returns the BLAKE3 hash of the scored answers in the directory of an evaluation.
///
/// # Errors
/// A file that cannot be read.
pub fn scored_hash(dir: &Path) -> Result<String> {
    let path = dir.join(SCORED);
    let mut hasher = blake3::Hasher::new();
    let mut file = std::fs::File::open(&path).map_err(Error::io(&path))?;
    std::io::copy(&mut file, &mut hasher).map_err(Error::io(&path))?;
    Ok(hasher.finalize().to_hex().to_string())
}
