//! The fourth stage: what the connector fused becomes one sequence of visual tokens a video. Window, projector and
//! temporal strategy each stand in their place.

use std::collections::HashMap;

use candle_core::Tensor;

use super::error::guarded;
use super::item::{ItemError, PartContent, VideoEnd, VideoPart, VideoRef};
use super::stages::{AGGREGATE, ENCODE, Encoded, PREPROCESS, VideoProgress};
use super::timing::timed;
use super::{EncodedVideo, FrameStamp, PipelineError, Stages, Timings};
use crate::connector::ChannelWindow;
use crate::exec::{Inlet, Outlet};
use crate::temporal::{Fold, Place, Temporal};
use crate::vlm::{ModelError, Vlm};

/// Gathers the parts of each video, and hands on videos that are whole, or the error that one came to.
pub(super) fn aggregate(stages: &Stages<'_>, inlet: &Inlet<VideoPart<Tensor>>, outlet: &Outlet<Encoded>) {
    let mut videos: HashMap<usize, Gathering<'_>> = HashMap::new();
    while let Some(VideoPart { video, part }) = inlet.recv() {
        let gathering = videos.entry(video.number).or_insert_with(|| Gathering::new(stages));
        let PartContent::End(ending) = part else {
            gathering.take(stages, &video, part);
            continue;
        };
        let gathering = videos.remove(&video.number).unwrap_or_else(|| Gathering::new(stages));
        let outcome = gathering.finish(stages, ending);
        if outcome.is_err() {
            video.give_up();
        }
        if outlet.send(Encoded { video, outcome }).is_err() {
            return;
        }
    }
}

/// What has come of one video.
struct Gathering<'m> {
    temporal: Temporal,
    aggregator: Aggregator<'m>,
    frames: Vec<FrameStamp>,
    timings: Timings,
    thumbnail: Option<Vec<u8>>,
    /// All of it, from an earlier run.
    found: Option<Box<EncodedVideo>>,
    failed: Option<ItemError>,
}

impl<'m> Gathering<'m> {
    fn new(stages: &Stages<'m>) -> Self {
        let (temporal, aggregator) = (stages.temporal, Aggregator::new(stages.vlm, stages.temporal));
        let (frames, timings) = (Vec::new(), Timings::default());
        Self { temporal, aggregator, frames, timings, thumbnail: None, found: None, failed: None }
    }

    fn take(&mut self, stages: &Stages<'m>, video: &VideoRef, part: PartContent<Tensor>) {
        match part {
            PartContent::Found(found) => self.found = Some(found),
            PartContent::Thumbnail(picture) => self.thumbnail = Some(picture),
            PartContent::Frame(stamp) => self.frames.push(stamp),
            PartContent::Image(fused, carried) if self.failed.is_none() => {
                self.frames.extend(carried.frame);
                (stages.on_progress)(video, VideoProgress::Encoded { n_frames: self.frames.len() });
                self.timings.preprocess += carried.preprocess;
                self.timings.encode += carried.encode;
                let pushed = timed(&mut self.timings.connect, || guarded(|| Ok(self.aggregator.push(&fused)?)));
                let within = pushed.map_err(|error| ItemError::new(AGGREGATE, error)).and_then(|()| self.check(stages));
                if let Err(error) = within {
                    video.give_up();
                    self.failed = Some(error);
                }
            }
            PartContent::Views(temporal) => {
                (self.temporal, self.aggregator) = (temporal, Aggregator::new(stages.vlm, temporal))
            }
            PartContent::Restart => {
                let (timings, thumbnail, failed) = (self.timings, self.thumbnail.take(), self.failed.take());
                *self = Self { timings, thumbnail, failed, ..Self::new(stages) };
            }
            PartContent::Failed(error) => {
                self.failed.get_or_insert(error);
            }
            PartContent::Image(..) | PartContent::End(_) => {}
        }
    }

    /// Whether each stage is within its time.
    fn check(&self, stages: &Stages<'_>) -> Result<(), ItemError> {
        let Timings { preprocess, encode, connect, .. } = self.timings;
        let spent = [(PREPROCESS, preprocess), (ENCODE, encode), (AGGREGATE, connect)];
        let check =
            |(stage, spent)| stages.apart.limits.check(stage, spent).map_err(|error| ItemError::new(stage, error));
        spent.into_iter().try_for_each(check)
    }

    fn finish(mut self, stages: &Stages<'_>, ending: VideoEnd) -> Result<EncodedVideo, ItemError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if let Some(found) = self.found {
            let timings = Timings { decode: ending.decode, ..self.timings };
            return Ok(EncodedVideo { timings, ..*found });
        }
        let wrong = |source: PipelineError| ItemError::new(AGGREGATE, source);
        let Some(report) = ending.report else {
            let no_report = candle_core::Error::msg("a video ended without a report");
            return Err(wrong(ModelError::compute("aggregating frames")(no_report).into()));
        };
        let aggregator = self.aggregator;
        let finish = || {
            let visual = aggregator.finish()?; // (V, H)
            stages.complete(stages.vlm.device()).map(|()| visual)
        };
        let visual = timed(&mut self.timings.connect, || guarded(finish)).map_err(wrong)?;
        self.timings.decode = ending.decode;
        let (frames, temporal, timings, thumbnail) = (self.frames, self.temporal, self.timings, self.thumbnail);
        let video = EncodedVideo { visual, frames, report, temporal, timings, thumbnail, is_found: false };
        if let (Some(features), Some(key)) = (stages.apart.features, &ending.key) {
            features.put(key, &video);
        }
        Ok(video)
    }
}

/// The sequence of one video as its images come.
pub struct Aggregator<'m> {
    vlm: &'m Vlm,
    window: ChannelWindow,
    fold: Box<dyn Fold>,
    place: Place,
}

impl<'m> Aggregator<'m> {
    /// An aggregation that has not begun.
    pub fn new(vlm: &'m Vlm, temporal: Temporal) -> Self {
        let fold = temporal.begin_with(vlm.frame_tokens(), vlm.newline().cloned());
        Self { vlm, window: vlm.begin_window(), fold, place: temporal.place() }
    }

    /// Takes the fused tokens of some images, in time order.
    ///
    /// # Shapes
    /// `(t, N', k D)`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn push(&mut self, fused: &Tensor) -> Result<(), ModelError> {
        let complete = self.window.push(fused).map_err(ModelError::compute("averaging over frames"))?;
        complete.iter().try_for_each(|fused| fold(self.vlm, self.place, &mut *self.fold, fused))
    }

    /// The sequence, on the device and in the precision of the language model.
    ///
    /// # Shapes
    /// `(V, H)`.
    ///
    /// # Errors
    /// When no image came, or the language model's device has no room.
    pub fn finish(mut self) -> Result<Tensor, ModelError> {
        let rest = self.window.finish().map_err(ModelError::compute("averaging over frames"))?;
        rest.iter().try_for_each(|fused| fold(self.vlm, self.place, &mut *self.fold, fused))?;
        let folded = self.fold.finish().map_err(ModelError::compute("aggregating frames"))?;
        let visual = match self.place {
            Place::BeforeProjector => self.vlm.project(&folded)?,
            Place::AfterProjector => folded,
        };
        self.vlm.to_language(&visual)
    }
}

fn fold(vlm: &Vlm, place: Place, fold: &mut dyn Fold, fused: &Tensor) -> Result<(), ModelError> {
    let pushed = match place {
        Place::BeforeProjector => fold.push(fused),
        Place::AfterProjector => fold.push(&vlm.project(fused)?), // (t, N', H)
    };
    pushed.map_err(ModelError::compute("aggregating frames"))
}
