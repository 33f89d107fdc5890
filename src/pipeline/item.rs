//! What travels between the stages: the parts of videos, each with the video that it belongs to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::guarded;
use super::{EncodedVideo, FeatureKey, PipelineError};
use crate::temporal::Temporal;
use crate::units::{FrameIndex, Seconds};
use crate::video::{ReadReport, Window};
use crate::vlm::TextTokens;

/// A video, and what is to be asked about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The video argument.
    pub path: PathBuf,
    /// The part of it that is looked at, if it is another than the plan's.
    pub window: Option<Window>,
    /// Asked, each alone.
    pub questions: Arc<[String]>,
    /// All questions that are ever asked about it, those of earlier runs as well: if not even the shortest fits the
    /// context, it fails before it is decoded.
    pub all_questions: Arc<[String]>,
}

/// A job's place in a run.
#[derive(Debug, Clone)]
pub struct VideoRef {
    /// In the order in which they were given, from 0.
    pub number: usize,
    /// The job.
    pub job: Arc<Job>,
    /// Tokens of its shortest prompt's text, if that is known.
    pub(super) text: Option<TextTokens>,
    /// Set once it has failed: what is still under way of it need not be worked on.
    given_up: Arc<AtomicBool>,
}

impl VideoRef {
    pub(super) fn new(number: usize, job: Job, text: Option<TextTokens>) -> Self {
        Self { number, job: Arc::new(job), text, given_up: Arc::default() }
    }

    /// The video argument.
    pub fn path(&self) -> &Path {
        &self.job.path
    }

    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

/// Which frame was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FrameStamp {
    /// Place among the decodable frames.
    pub index: FrameIndex,
    /// Its own timestamp.
    pub time_seconds: Option<Seconds>,
}

/// Something that could not be done for one video; the others are not touched by it.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct ItemError {
    /// The stage that it happened in.
    pub stage: &'static str,
    /// What happened.
    pub source: Box<PipelineError>,
}

impl ItemError {
    pub(super) fn new(stage: &'static str, source: impl Into<PipelineError>) -> Self {
        Self { stage, source: Box::new(source.into()) }
    }
}

/// A part of a video on its way; `P` is what an image is by now.
pub(super) struct VideoPart<P> {
    pub(super) video: VideoRef,
    pub(super) part: PartContent<P>,
}

pub(super) enum PartContent<P> {
    /// A video that need not be read: what came of it in an earlier run.
    Found(Box<EncodedVideo>),
    /// A small picture of it, as JPEG.
    Thumbnail(Vec<u8>),
    /// A sampled frame that is no image of its own.
    Frame(FrameStamp),
    /// The images that follow are the views of one image, which this strategy makes one sequence of.
    Views(Temporal),
    /// An image for the tower, with the frame that it is, if it is one.
    Image(P, Carried),
    /// What came so far of this video is to be forgotten: the right frames follow.
    Restart,
    /// Nothing more comes, but for the end.
    Failed(ItemError),
    /// The last part.
    End(VideoEnd),
}

/// How an image is prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ImageKind {
    /// As a frame of a video.
    #[default]
    Frame,
    /// As a view of a single image.
    View,
}

/// What an image carries: its frame, and the time spent on it by stage.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Carried {
    pub(super) frame: Option<FrameStamp>,
    pub(super) kind: ImageKind,
    pub(super) preprocess: Duration,
    pub(super) encode: Duration,
}

/// What reading a video came to.
pub(super) struct VideoEnd {
    /// None if it failed.
    pub(super) report: Option<ReadReport>,
    pub(super) decode: Duration,
    /// Where what comes of it is kept for other runs.
    pub(super) key: Option<FeatureKey>,
}

impl<P> VideoPart<P> {
    /// The same part for the next stage, with another image in it; an error becomes the item.
    pub(super) fn map_image<Q>(
        self,
        stage: &'static str,
        map: impl FnOnce(P, Carried) -> Result<(Q, Carried), PipelineError>,
    ) -> VideoPart<Q> {
        let part = match self.part {
            PartContent::Image(image, carried) => match guarded(|| map(image, carried)) {
                Ok((image, carried)) => PartContent::Image(image, carried),
                Err(source) => {
                    self.video.give_up();
                    PartContent::Failed(ItemError::new(stage, source))
                }
            },
            PartContent::Found(found) => PartContent::Found(found),
            PartContent::Thumbnail(picture) => PartContent::Thumbnail(picture),
            PartContent::Views(temporal) => PartContent::Views(temporal),
            PartContent::Frame(stamp) => PartContent::Frame(stamp),
            PartContent::Restart => PartContent::Restart,
            PartContent::Failed(error) => PartContent::Failed(error),
            PartContent::End(ending) => PartContent::End(ending),
        };
        VideoPart { video: self.video, part }
    }
}
