//! What can go wrong between a video and an answer.

use crate::exec::ExecError;
use crate::video::VideoError;
use crate::vlm::ModelError;

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The video.
    #[error(transparent)]
    Video(#[from] VideoError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A stage panicked, which is a defect of this program, or got no thread.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The run was ended before its only video was done.
    #[error("stopped before the video was done")]
    Nothing,
}
