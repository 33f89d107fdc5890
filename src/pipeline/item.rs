//! Items of the stages: parts of videos (images, frame stamps, errors, ends), each with the video that it belongs to.
//!
//! A video is a sequence of parts that ends with [`PartContent::End`]; parts of different videos may alternate.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::guarded;
use super::{EncodedVideo, FeatureKey};
use crate::error::Error;
use crate::temporal::Temporal;
use crate::text::Subtitle;
use crate::units::{FrameIndex, Seconds};
use crate::video::{FrameRequest, ImageRate, ReadReport, Window};
use crate::vlm::TextTokens;

/// A video and the questions about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Path of the video.
    pub path: PathBuf,
    /// Frames to read, if not the plan's.
    pub frames: Option<FrameRequest>,
    /// Window of the video to read, if not that of the frames.
    pub window: Option<Window>,
    /// Rate of the images of a directory, if not that of the frames.
    pub image_rate: Option<ImageRate>,
    /// Subtitles that stand between the frames in every prompt; none for a video without.
    pub subtitles: Arc<[Subtitle]>,
    /// Questions to answer, each in a prompt of its own.
    pub questions: Arc<[String]>,
    /// All questions about the video, including those answered in earlier runs: if not even the shortest fits the
    /// context, the video fails before it is decoded.
    pub all_questions: Arc<[String]>,
}

impl Job {
    /// Makes a job of some questions about a whole video, with the plan's frames.
    pub fn new(path: PathBuf, questions: Arc<[String]>) -> Self {
        Self {
            path,
            frames: None,
            window: None,
            image_rate: None,
            subtitles: Arc::default(),
            all_questions: questions.clone(),
            questions,
        }
    }

    /// Returns the request for frames, where the plan's is `planned`.
    pub(super) fn request(&self, planned: &FrameRequest) -> FrameRequest {
        let frames = self.frames.as_ref().unwrap_or(planned);
        let image_rate = self.image_rate.or(frames.image_rate);
        FrameRequest { window: self.window.unwrap_or(frames.window), image_rate, ..frames.clone() }
    }
}

/// A job and its index in a run.
#[derive(Debug, Clone)]
pub struct VideoRef {
    /// Index of the job in the order of submission.
    pub number: usize,
    /// The job.
    pub job: Arc<Job>,
    /// Tokens of the text of the video's shortest prompt, if known.
    pub(super) text: Option<TextTokens>,
    /// Set once the video has failed: its remaining parts need no work.
    failed: Arc<AtomicBool>,
}

impl VideoRef {
    pub(super) fn new(number: usize, job: Job, text: Option<TextTokens>) -> Self {
        Self { number, job: Arc::new(job), text, failed: Arc::default() }
    }

    /// Path of the video.
    pub fn path(&self) -> &Path {
        &self.job.path
    }

    /// Marks the video as failed, or as no longer wanted: what is left of it is not read.
    pub(crate) fn mark_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Index and time of a sampled frame.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FrameStamp {
    /// Index among the decodable frames, in presentation order.
    pub index: FrameIndex,
    /// Presentation time.
    pub time_seconds: Option<Seconds>,
}

/// Failure of one video or question; the others are not affected.
#[derive(Debug, Clone)]
pub struct ItemError {
    /// Stage of the failure.
    pub stage: &'static str,
    /// Cause.
    pub error: Error,
}

impl ItemError {
    pub(super) fn new(stage: &'static str, error: Error) -> Self {
        Self { stage, error }
    }
}

impl fmt::Display for ItemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// One part of a video between two stages; `P` is the representation of an image there.
pub(super) struct VideoPart<P> {
    pub(super) video: VideoRef,
    pub(super) part: PartContent<P>,
}

pub(super) enum PartContent<P> {
    /// Visual tokens from the feature cache: the video is not read.
    Cached(Box<EncodedVideo>),
    /// Thumbnail of the video, as JPEG.
    Thumbnail(Vec<u8>),
    /// A sampled frame that becomes part of a later image.
    Frame(FrameStamp),
    /// Announces the views of a single image, and the strategy that aggregates them.
    Views(Temporal),
    /// An image for the tower.
    Image(P, Carried),
    /// Discards all earlier parts of this video: decoding begins again.
    Restart,
    /// Failure of the video; only its end follows.
    Failed(ItemError),
    /// Last part of the video.
    End(VideoEnd),
}

/// Kind of preprocessing of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ImageKind {
    /// Frame of a video.
    #[default]
    Frame,
    /// View of a single image.
    View,
}

/// Metadata of an image: its frame, if it is one, and the time spent on it by stage.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Carried {
    pub(super) frame: Option<FrameStamp>,
    pub(super) kind: ImageKind,
    pub(super) preprocess: Duration,
    pub(super) encode: Duration,
}

/// End of a video: report of the reader, and times.
pub(super) struct VideoEnd {
    /// Report of the reader; `None` if the video failed or was cached.
    pub(super) report: Option<ReadReport>,
    pub(super) decode: Duration,
    /// Key under which the visual tokens are cached.
    pub(super) key: Option<FeatureKey>,
    /// Keys of the further strategies, in their order; none where there is no `key`.
    pub(super) also_keys: Vec<Option<FeatureKey>>,
}

impl<P> VideoPart<P> {
    /// Maps the image of an [`PartContent::Image`] and keeps every other part; an error or a panic of `map` becomes
    /// [`PartContent::Failed`].
    pub(super) fn map_image<Q>(
        self,
        stage: &'static str,
        map: impl FnOnce(P, Carried) -> Result<(Q, Carried), Error>,
    ) -> VideoPart<Q> {
        let part = match self.part {
            PartContent::Image(image, carried) => match guarded(|| map(image, carried)) {
                Ok((image, carried)) => PartContent::Image(image, carried),
                Err(source) => {
                    self.video.mark_failed();
                    PartContent::Failed(ItemError::new(stage, source))
                }
            },
            PartContent::Cached(found) => PartContent::Cached(found),
            PartContent::Thumbnail(jpeg) => PartContent::Thumbnail(jpeg),
            PartContent::Views(temporal) => PartContent::Views(temporal),
            PartContent::Frame(stamp) => PartContent::Frame(stamp),
            PartContent::Restart => PartContent::Restart,
            PartContent::Failed(error) => PartContent::Failed(error),
            PartContent::End(ending) => PartContent::End(ending),
        };
        VideoPart { video: self.video, part }
    }
}
