//! Messages to the answerer, and the jobs and media that it keeps.

use std::time::Instant;

use super::cache::EncodedMedium;
use super::encoder::EncodeId;
use super::job::{JobChat, JobId, JobReporter};
use crate::error::Error;
use crate::pipeline::EncodedVideo;

/// Message to the answerer.
pub(super) enum AnswererInput {
    /// A job was submitted.
    Job { id: JobId, job: Box<OpenJob> },
    /// A job is no longer wanted.
    Cancel(JobId),
    /// Frames of a medium were encoded.
    Progress { id: EncodeId, n_frames: usize },
    /// A medium was encoded, or failed.
    Encoded { id: EncodeId, outcome: Result<Box<EncodedVideo>, Error> },
    /// All jobs fail with this error.
    Abort(Error),
    /// The service ends.
    Close,
}

/// Job that is not done.
pub(super) struct OpenJob {
    pub(super) chat: JobChat,
    pub(super) reporter: JobReporter,
    pub(super) submitted: Instant,
}

/// Medium of a job.
#[derive(Clone)]
pub(super) struct JobMedium {
    pub(super) encoded: EncodedMedium,
    /// Whether the tokens were computed for an earlier job.
    pub(super) is_cached: bool,
}
