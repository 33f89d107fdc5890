//! Errors of weights on disk: unreadable files, and tensors that do not fit the configuration.

use std::fmt;
use std::path::Path;

use crate::error::{Error, Kind};

/// Number of problems that are printed; the rest is counted.
const MAX_LINES: usize = 20;

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
