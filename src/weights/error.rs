//! What can be wrong with weights on disk.

use std::fmt;
use std::path::Path;

use crate::error::{Error, Kind};

/// Number of problems that are printed; the rest is counted.
const MAX_LINES: usize = 20;

/// Returns the error of a file that is not what its name says, such as a `safetensors file`.
pub(super) fn unreadable(path: &Path, format: &str, cause: &str) -> Error {
    Error::from_text(Kind::Model, &format!("not a readable {format}: {cause}")).about(path)
}

/// Returns the error of tensors that the model needs and the checkpoint does not have as needed, one a line.
pub(super) fn unfit(dir: &Path, problems: &[Problem]) -> Error {
    let mut rule = "the weights do not fit the configuration:".to_owned();
    for problem in problems.iter().take(MAX_LINES) {
        rule += &format!("\n  {problem}");
    }
    if let rest @ 1.. = problems.len().saturating_sub(MAX_LINES) {
        rule += &format!("\n  and {rest} more");
    }
    Error::new(Kind::Model, rule).about(dir)
}

/// One tensor that is not as the model needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The tensor's name in the file.
    pub name: String,
    /// The shape that the configuration calls for.
    pub expected: Vec<usize>,
    /// The shape in the file; `None` when there is no such tensor.
    pub found: Option<Vec<usize>>,
    /// Why that shape is expected.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            None => write!(f, "missing: {} {:?} ({})", self.name, self.expected, self.why),
            Some(found) => {
                write!(f, "wrong shape: {}: expected {:?}, found {found:?} ({})", self.name, self.expected, self.why)
            }
        }
    }
}
