//! Errors of results, as more than one place raises them.

use std::path::Path;

use crate::error::Error;

/// Returns the error of a directory that holds something else than results.
pub(super) fn not_results(path: &Path, cause: &str) -> Error {
    Error::invalid(format!("no results: {cause}")).with_hint("another directory").about(path)
}

/// Returns the error of a directory with the answers of another plan.
pub(super) fn other_plan(dir: &Path, differences: &[String]) -> Error {
    let error = Error::invalid(format!("holds the answers of another plan: {}", differences.join("; ")));
    error.with_hint("another directory, or the plan that it was begun with").about(dir)
}
