//! Errors of weights on disk: unreadable files, and tensors that do not fit the configuration.

use std::fmt;
use std::path::Path;

use crate::error::{Error, Kind};
use crate::guard;

/// Number of problems that are printed; the rest is counted.
const MAX_LINES: usize = 20;

/// Runs one of candle's readers, which panic on some broken files: a panic is the error `malformed`.
pub(super) fn guarded<T>(
    malformed: &'static str,
    read: impl FnOnce() -> candle_core::Result<T>,
) -> candle_core::Result<T> {
    guard::guarded(read).unwrap_or_else(|| Err(candle_core::Error::msg(malformed)))
}

/// Converts an error of candle's, without paths and all but the first line.
pub(super) fn plain(error: candle_core::Error) -> Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } | candle_core::Error::WithPath { inner, .. } => plain(*inner),
        other => Error::from(other).reworded(|text| text.lines().next().unwrap_or_default().to_owned()),
    }
}

/// Returns the error for a file that is not of its `format`, such as `safetensors file`.
pub(super) fn unreadable(path: &Path, format: &str, cause: Error) -> Error {
    cause.reworded(|cause| format!("not a readable {format}: {cause}")).with_kind(Kind::Model).about(path)
}

/// Returns the error for tensors that are missing or have another shape than the model needs, one a line.
pub(super) fn unfit(dir: &Path, problems: &[TensorProblem]) -> Error {
    let mut rule = "the weights do not fit the configuration:".to_owned();
    for problem in problems.iter().take(MAX_LINES) {
        rule += &format!("\n  {problem}");
    }
    if let rest @ 1.. = problems.len().saturating_sub(MAX_LINES) {
        rule += &format!("\n  and {rest} more");
    }
    Error::new(Kind::Model, rule).about(dir)
}

/// A tensor that is missing, or has another shape than the model needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorProblem {
    /// Name of the tensor in the file.
    pub name: String,
    /// Shape that the configuration calls for.
    pub expected: Vec<usize>,
    /// Shape in the file; `None` for a missing tensor.
    pub found: Option<Vec<usize>>,
    /// Reason for the expected shape.
    pub reason: String,
}

impl fmt::Display for TensorProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            None => write!(f, "missing: {} {:?} ({})", self.name, self.expected, self.reason),
            Some(found) => {
                write!(f, "wrong shape: {}: expected {:?}, found {found:?} ({})", self.name, self.expected, self.reason)
            }
        }
    }
}
