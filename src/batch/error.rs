//! What stops a batch, or cannot be read of results. What fails of an item is no such error.

use std::io;
use std::path::{Path, PathBuf};

use super::store::LockHolder;
use crate::pipeline::PipelineError;

/// Why a batch cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A failure of a lower layer.
    #[error(transparent)]
    Lower(#[from] crate::error::Error),
    /// A file or directory.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// A file of questions.
    #[error("{path}: {cause}")]
    Questions {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// A manifest as a whole.
    #[error("{name}: {cause}")]
    Manifest {
        /// Its path, or `-`.
        name: String,
        /// What is wrong.
        cause: String,
    },
    /// A pattern of names.
    #[error("`{glob}` is no glob: {cause}")]
    Glob {
        /// The pattern.
        glob: String,
        /// What is wrong.
        cause: String,
    },
    /// A directory that holds something else.
    #[error("{path}: no results: {cause}; hint: another directory")]
    NotResults {
        /// Its first line.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// Answers of a program whose frames or prompts may be others.
    #[error(
        "{dir}: begun by another version of vidense ({begun_by}, revision {there}; here {here}), whose frames or answers may differ; hint: another directory"
    )]
    OtherRevision {
        /// The directory.
        dir: PathBuf,
        /// The version of the program.
        begun_by: String,
        /// The revision of the answers there.
        there: u32,
        /// That of this program.
        here: u32,
    },
    /// Answers of another plan.
    #[error("{dir}: holds the answers of another plan: {}; hint: another directory, or the plan that it was begun with", differences.join("; "))]
    OtherPlan {
        /// The directory.
        dir: PathBuf,
        /// What differs, one by one.
        differences: Vec<String>,
    },
    /// Another process writes there.
    #[error("{dir}: {} writes there; hint: wait for it, or write elsewhere", holder.as_ref().map_or("another process".to_owned(), ToString::to_string))]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who, if it is known.
        holder: Option<LockHolder>,
    },
    /// An answer that could not be kept.
    #[error(
        "{path}: {source}, so the answer about {video} could not be kept; hint: make room and run the same command again, nothing else is lost"
    )]
    NotKept {
        /// The file.
        path: PathBuf,
        /// The item.
        video: String,
        /// The system's own words.
        source: io::Error,
    },
    /// A stage of the run.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}

impl BatchError {
    /// Whether whoever was to take what is written has gone.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Names the path of a failed operation.
    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path: path.clone(), source }
    }
}

impl From<io::Error> for BatchError {
    fn from(source: io::Error) -> Self {
        Self::Io { path: PathBuf::new(), source }
    }
}
