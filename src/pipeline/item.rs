//! What travels between the stages: the parts of videos, each with the video that it belongs to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::PipelineError;
use crate::units::{FrameIndex, Seconds};
use crate::video::ReadReport;

/// A video's place in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoRef {
    /// In the order in which videos were given, from 0.
    pub number: usize,
    /// The video argument.
    pub path: Arc<PathBuf>,
}

/// Which frame was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
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
pub(super) struct Item<P> {
    pub(super) video: VideoRef,
    pub(super) part: Part<P>,
}

pub(super) enum Part<P> {
    /// A sampled frame that is no image of its own.
    Frame(FrameStamp),
    /// An image for the tower, with the frame that it is, if it is one.
    Image(P, Carried),
    /// What came so far of this video is to be forgotten: the right frames follow.
    Restart,
    /// Nothing more comes, but for the end.
    Failed(ItemError),
    /// The last part.
    End(Ending),
}

/// What an image carries: its frame, and the time spent on it by stage.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Carried {
    pub(super) frame: Option<FrameStamp>,
    pub(super) preprocess: Duration,
    pub(super) encode: Duration,
}

/// What reading a video came to.
pub(super) struct Ending {
    /// None if it failed.
    pub(super) report: Option<ReadReport>,
    pub(super) decode: Duration,
}

impl<P> Item<P> {
    /// The same part for the next stage, with another image in it; an error becomes the item.
    pub(super) fn map_image<Q>(
        self,
        stage: &'static str,
        map: impl FnOnce(P, Carried) -> Result<(Q, Carried), PipelineError>,
    ) -> Item<Q> {
        let part = match self.part {
            Part::Image(image, carried) => match map(image, carried) {
                Ok((image, carried)) => Part::Image(image, carried),
                Err(source) => Part::Failed(ItemError::new(stage, source)),
            },
            Part::Frame(stamp) => Part::Frame(stamp),
            Part::Restart => Part::Restart,
            Part::Failed(error) => Part::Failed(error),
            Part::End(ending) => Part::End(ending),
        };
        Item { video: self.video, part }
    }
}
