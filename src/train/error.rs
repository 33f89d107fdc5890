//! Errors that stop a training run.

use std::path::{Path, PathBuf};


/// Why a run did not begin, or stopped. The last checkpoint is good in every case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A failure of a lower layer.
    #[error(transparent)]
    Lower(#[from] crate::error::Error),
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A recipe that cannot be followed.
    #[error("{path}: {rule}")]
    Recipe {
        /// The recipe.
        path: PathBuf,
        /// Broken rule, with values and a hint.
        rule: String,
    },
    /// Data that cannot be learned from.
    #[error("{path}: {rule}")]
    Data {
        /// The file.
        path: PathBuf,
        /// Broken rule, and the record.
        rule: String,
    },
    /// A loss that is infinite or NaN.
    #[error(
        "stage {stage}, step {step}: the loss is {loss}; the last checkpoint, of step {kept}, is good; \
         hint: a smaller learning_rate, a longer warmup, or a smaller clip"
    )]
    NotFinite {
        /// The stage's name.
        stage: String,
        /// Counted from 0.
        step: usize,
        /// The loss.
        loss: f64,
        /// Step at which a resumed run continues.
        kept: usize,
    },
    /// A run that is not this recipe's.
    #[error("{path}: {rule}; hint: another --out, or --restart to begin anew")]
    OtherRun {
        /// State of the run.
        path: PathBuf,
        /// Difference to the recipe.
        rule: String,
    },
    /// A model or a part of it.
    #[error(transparent)]
    Model(#[from] Error),
}

impl Error {
    /// Wraps candle's errors with what was being done.
    pub fn compute(doing: &'static str) -> impl Fn(candle_core::Error) -> Self {
        let wrap = Error::compute(doing);
        move |error| Self::Model(wrap(error))
    }

    /// Wraps the system's errors with the file.
    pub fn io(path: &Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path: path.clone(), source }
    }
}
