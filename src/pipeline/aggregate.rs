//! The fourth stage: what the connector fused becomes one sequence of visual tokens a video. Window, projector and temporal
//! strategy each stand in their place.

use std::collections::HashMap;

use candle_core::Tensor;

use super::item::{Ending, Item, ItemError, Part, VideoRef};
use super::stages::{AGGREGATE, Encoded, Progress};
use super::timing::timed;
use super::{EncodedVideo, FrameStamp, Stages, Timings};
use crate::connector::ChannelWindow;
use crate::exec::{Inlet, Outlet};
use crate::temporal::{Fold, Place, Temporal};
use crate::vlm::{ModelError, Vlm};

/// Gathers the parts of each video, and hands on videos that are whole, or the error that one came to.
pub(super) fn aggregate(stages: &Stages<'_>, inlet: &Inlet<Item<Tensor>>, outlet: &Outlet<Encoded>) {
    let mut videos: HashMap<usize, Gathering<'_>> = HashMap::new();
    while let Some(Item { video, part }) = inlet.recv() {
        let gathering = videos.entry(video.number).or_insert_with(|| Gathering::new(stages));
        let Part::End(ending) = part else {
            gathering.take(stages, &video, part);
            continue;
        };
        let outcome = videos.remove(&video.number).unwrap_or_else(|| Gathering::new(stages)).finish(ending);
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
    failed: Option<ItemError>,
}

impl<'m> Gathering<'m> {
    fn new(stages: &Stages<'m>) -> Self {
        let (temporal, aggregator) = (stages.temporal, Aggregator::new(stages.vlm, stages.temporal));
        Self { temporal, aggregator, frames: Vec::new(), timings: Timings::default(), failed: None }
    }

    fn take(&mut self, stages: &Stages<'m>, video: &VideoRef, part: Part<Tensor>) {
        match part {
            Part::Frame(stamp) => self.frames.push(stamp),
            Part::Image(fused, carried) if self.failed.is_none() => {
                self.frames.extend(carried.frame);
                (stages.on_progress)(video, Progress::Encoded { n_frames: self.frames.len() });
                self.timings.preprocess += carried.preprocess;
                self.timings.encode += carried.encode;
                let pushed = timed(&mut self.timings.connect, || self.aggregator.push(&fused));
                self.failed = pushed.err().map(|error| ItemError::new(AGGREGATE, error));
            }
            Part::Restart => *self = Self { timings: self.timings, ..Self::new(stages) },
            Part::Failed(error) => {
                self.failed.get_or_insert(error);
            }
            Part::Image(..) | Part::End(_) => {}
        }
    }

    fn finish(mut self, ending: Ending) -> Result<EncodedVideo, ItemError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let wrong = |source: ModelError| ItemError::new(AGGREGATE, source);
        let Some(report) = ending.report else {
            let no_report = candle_core::Error::msg("a video ended without a report");
            return Err(wrong(ModelError::compute("aggregating frames")(no_report)));
        };
        let aggregator = self.aggregator;
        let visual = timed(&mut self.timings.connect, || aggregator.finish()).map_err(wrong)?; // (V, H)
        self.timings.decode = ending.decode;
        let (frames, temporal, timings) = (self.frames, self.temporal, self.timings);
        Ok(EncodedVideo { visual, frames, report, temporal, timings })
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
        let fold = temporal.begin(vlm.frame_tokens());
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

    /// The sequence.
    ///
    /// # Shapes
    /// `(V, H)`.
    ///
    /// # Errors
    /// When no image came.
    pub fn finish(mut self) -> Result<Tensor, ModelError> {
        let rest = self.window.finish().map_err(ModelError::compute("averaging over frames"))?;
        rest.iter().try_for_each(|fused| fold(self.vlm, self.place, &mut *self.fold, fused))?;
        let folded = self.fold.finish().map_err(ModelError::compute("aggregating frames"))?;
        match self.place {
            Place::BeforeProjector => self.vlm.project(&folded),
            Place::AfterProjector => Ok(folded),
        }
    }
}

fn fold(vlm: &Vlm, place: Place, fold: &mut dyn Fold, fused: &Tensor) -> Result<(), ModelError> {
    let pushed = match place {
        Place::BeforeProjector => fold.push(fused),
        Place::AfterProjector => fold.push(&vlm.project(fused)?), // (t, N', H)
    };
    pushed.map_err(ModelError::compute("aggregating frames"))
}
