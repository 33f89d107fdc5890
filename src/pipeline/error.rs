//! What can go wrong between a video and an answer.

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
    /// A stage panicked, which is a defect of this program.
    #[error("the {stage} stage panicked: this is a bug")]
    Panic {
        /// The stage.
        stage: &'static str,
    },
}
