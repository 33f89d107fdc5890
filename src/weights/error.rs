//! What can be wrong with weights on disk.

use std::fmt;
use std::path::PathBuf;

/// Why weights could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// A directory without a weight file.
    #[error("{dir}: no weights here; expected one of {expected}")]
    NoWeights {
        /// The directory.
        dir: PathBuf,
        /// The names that are looked for.
        expected: String,
    },
    /// A file that cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A file that is not what its name says.
    #[error("{path}: not a readable {format}: {cause}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Such as `safetensors file`.
        format: &'static str,
        /// The parser's words.
        cause: String,
    },
    /// An index that names a shard which is not there, or outside the directory.
    #[error("{index}: it names the shard `{shard}`, which {reason}")]
    Shard {
        /// The index file.
        index: PathBuf,
        /// The shard's name.
        shard: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A tensor in FP8 that cannot be converted.
    #[error(
        "{dir}: tensor {name} is stored in FP8, and {rule}; hint: the checkpoint in full precision, or with its scales"
    )]
    Fp8 {
        /// The checkpoint.
        dir: PathBuf,
        /// The tensor.
        name: String,
        /// Reason.
        rule: String,
    },
    /// Tensors that the model needs and the checkpoint does not have as needed.
    #[error("{dir}: the weights do not fit the configuration:\n{list}", list = Lines(problems))]
    Unfit {
        /// The checkpoint.
        dir: PathBuf,
        /// Every one of them.
        problems: Vec<Problem>,
    },
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

/// At most this many problems are printed; the rest is counted.
const MAX_LINES: usize = 20;

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().take(MAX_LINES).enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}  {problem}")?;
        }
        match self.0.len().saturating_sub(MAX_LINES) {
            0 => Ok(()),
            rest => write!(f, "\n  and {rest} more"),
        }
    }
}
