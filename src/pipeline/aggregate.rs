//! Fourth stage: the connector's output becomes one sequence of visual tokens per video, by the channel window, the
//! projector and the temporal strategy.

use std::collections::HashMap;

use candle_core::Tensor;

use super::error::guarded;
use super::item::{ItemError, PartContent, VideoEnd, VideoPart, VideoRef};
use super::stages::{AGGREGATE, ENCODE, Encoded, PREPROCESS, VideoProgress};
use super::timing::timed;
use super::{EncodedVideo, FeatureKey, FrameStamp, Stages, Timings};
use crate::connector::ChannelWindow;
use crate::error::Error;
use crate::exec::{Inlet, Outlet};
use crate::temporal::{AggregationPoint, FrameFold, Temporal, Views};
use crate::vlm::Vlm;

/// Collects the parts of each video, and sends complete videos or their errors.
pub(super) fn aggregate(stages: &Stages<'_>, inlet: &Inlet<VideoPart<Tensor>>, outlet: &Outlet<Encoded>) {
    let mut videos: HashMap<usize, PartialVideo<'_>> = HashMap::new();
    while let Some(VideoPart { video, part }) = inlet.recv() {
        let partial = videos.entry(video.number).or_insert_with(|| PartialVideo::new(stages));
        let PartContent::End(ending) = part else {
            partial.take(stages, &video, part);
            continue;
        };
        let partial = videos.remove(&video.number).unwrap_or_else(|| PartialVideo::new(stages));
        let outcome = partial.finish(stages, ending);
        if outcome.is_err() {
            video.mark_failed();
        }
        if outlet.send(Encoded { video, outcome }).is_err() {
            return;
        }
    }
}

/// State of one video whose parts are being collected.
struct PartialVideo<'m> {
    temporal: Temporal,
    aggregator: Aggregator<'m>,
    /// Aggregators of the further strategies, in their order; `None` for one that does not apply or failed.
    also: Vec<Option<Aggregator<'m>>>,
    frames: Vec<FrameStamp>,
    timings: Timings,
    thumbnail: Option<Vec<u8>>,
    /// The whole video, from the feature cache.
    cached: Option<Box<EncodedVideo>>,
    failed: Option<ItemError>,
}

impl<'m> PartialVideo<'m> {
    fn new(stages: &Stages<'m>) -> Self {
        let (temporal, aggregator) = (stages.temporal, Aggregator::new(stages.vlm, stages.temporal));
        let are_frames = temporal.views() == Views::Frames;
        let applies = |other: &Temporal| are_frames && other.views() == Views::Frames;
        let also = stages.options.also.iter().map(|other| Some(other.temporal).filter(applies));
        let also = also.map(|temporal| temporal.map(|temporal| Aggregator::new(stages.vlm, temporal))).collect();
        let (frames, timings) = (Vec::new(), Timings::default());
        Self { temporal, aggregator, also, frames, timings, thumbnail: None, cached: None, failed: None }
    }

    fn take(&mut self, stages: &Stages<'m>, video: &VideoRef, part: PartContent<Tensor>) {
        match part {
            PartContent::Cached(video) => self.cached = Some(video),
            PartContent::Thumbnail(jpeg) => self.thumbnail = Some(jpeg),
            PartContent::Frame(stamp) => self.frames.push(stamp),
            PartContent::Image(fused, carried) if self.failed.is_none() => {
                self.frames.extend(carried.frame);
                (stages.on_progress)(video, VideoProgress::Encoded { n_frames: self.frames.len() });
                self.timings.preprocess += carried.preprocess;
                self.timings.encode += carried.encode;
                let pushed = timed(&mut self.timings.connect, || guarded(|| self.aggregator.push(&fused)));
                for other in &mut self.also {
                    let pushed = other.as_mut().map(|aggregator| guarded(|| aggregator.push(&fused)));
                    if pushed.is_some_and(|pushed| pushed.is_err()) {
                        *other = None;
                    }
                }
                let within = pushed.map_err(|error| ItemError::new(AGGREGATE, error)).and_then(|()| self.check(stages));
                if let Err(error) = within {
                    video.mark_failed();
                    self.failed = Some(error);
                }
            }
            PartContent::Views(temporal) => {
                (self.temporal, self.aggregator) = (temporal, Aggregator::new(stages.vlm, temporal));
                // Other runs decide for themselves what their views of a single image are.
                self.also.iter_mut().for_each(|other| *other = None);
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

    /// Checks the time of each stage against its limit.
    fn check(&self, stages: &Stages<'_>) -> Result<(), ItemError> {
        let Timings { preprocess, encode, connect, .. } = self.timings;
        let spent = [(PREPROCESS, preprocess), (ENCODE, encode), (AGGREGATE, connect)];
        let check =
            |(stage, spent)| stages.options.limits.check(stage, spent).map_err(|error| ItemError::new(stage, error));
        spent.into_iter().try_for_each(check)
    }

    fn finish(mut self, stages: &Stages<'_>, ending: VideoEnd) -> Result<EncodedVideo, ItemError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if let Some(cached) = self.cached {
            let timings = Timings { decode: ending.decode, ..self.timings };
            return Ok(EncodedVideo { timings, ..*cached });
        }
        let wrong = |source: Error| ItemError::new(AGGREGATE, source);
        let Some(report) = ending.report else {
            let no_report = candle_core::Error::msg("a video ended without a report");
            return Err(wrong(Error::compute("aggregating frames")(no_report)));
        };
        let aggregator = self.aggregator;
        let finish = || {
            let visual = aggregator.finish()?; // (V, H)
            stages.complete(stages.vlm.device()).map(|()| visual)
        };
        let visual = timed(&mut self.timings.connect, || guarded(finish)).map_err(wrong)?;
        self.timings.decode = ending.decode;
        let (frames, temporal, timings, thumbnail) = (self.frames, self.temporal, self.timings, self.thumbnail);
        let video = EncodedVideo { visual, frames, report, temporal, timings, thumbnail, is_cached: false };
        if let (Some(features), Some(key)) = (stages.options.features, &ending.key) {
            features.put(key, &video);
        }
        put_also(stages, self.also.into_iter().zip(&ending.also_keys), &video);
        Ok(video)
    }
}

/// Caches the visual tokens of the further strategies, each with the key of its cache.
fn put_also<'m, 'k>(
    stages: &Stages<'m>,
    aggregated: impl Iterator<Item = (Option<Aggregator<'m>>, &'k Option<FeatureKey>)>,
    video: &EncodedVideo,
) {
    for (other, (aggregator, key)) in stages.options.also.iter().zip(aggregated) {
        let (Some(aggregator), Some(key)) = (aggregator, key) else { continue };
        let Ok(visual) = guarded(|| aggregator.finish()) else { continue };
        let also = EncodedVideo {
            visual,
            frames: video.frames.clone(),
            report: video.report.clone(),
            temporal: other.temporal,
            timings: Timings::default(),
            thumbnail: video.thumbnail.clone(),
            is_cached: false,
        };
        other.features.put(key, &also);
    }
}

/// Streaming aggregation of one video's images into its sequence of visual tokens.
pub(crate) struct Aggregator<'m> {
    vlm: &'m Vlm,
    window: ChannelWindow,
    fold: Box<dyn FrameFold>,
    point: AggregationPoint,
}

impl<'m> Aggregator<'m> {
    /// Creates an aggregation without images.
    pub(crate) fn new(vlm: &'m Vlm, temporal: Temporal) -> Self {
        let fold = temporal.begin_with(vlm.frame_tokens(), vlm.newline().cloned());
        Self { vlm, window: vlm.begin_window(), fold, point: temporal.aggregation_point() }
    }

    /// Adds the fused tokens of some images, in time order.
    ///
    /// # Shapes
    /// `(t, N', k D)`.
    ///
    /// # Errors
    /// Mismatched shapes.
    pub(crate) fn push(&mut self, fused: &Tensor) -> Result<(), Error> {
        let complete = self.window.push(fused).map_err(Error::compute("averaging over frames"))?;
        complete.iter().try_for_each(|fused| fold(self.vlm, self.point, &mut *self.fold, fused))
    }

    /// Returns the sequence, on the device and in the dtype of the language model.
    ///
    /// # Shapes
    /// `(V, H)`.
    ///
    /// # Errors
    /// When there was no image, or the language model's device is out of memory.
    pub(crate) fn finish(mut self) -> Result<Tensor, Error> {
        let rest = self.window.finish().map_err(Error::compute("averaging over frames"))?;
        rest.iter().try_for_each(|fused| fold(self.vlm, self.point, &mut *self.fold, fused))?;
        let folded = self.fold.finish().map_err(Error::compute("aggregating frames"))?;
        let visual = match self.point {
            AggregationPoint::BeforeProjector => self.vlm.project(&folded)?,
            AggregationPoint::AfterProjector => folded,
        };
        self.vlm.to_language(&visual)
    }
}

fn fold(vlm: &Vlm, point: AggregationPoint, fold: &mut dyn FrameFold, fused: &Tensor) -> Result<(), Error> {
    let pushed = match point {
        AggregationPoint::BeforeProjector => fold.push(fused),
        AggregationPoint::AfterProjector => fold.push(&vlm.project(fused)?), // (t, N', H)
    };
    pushed.map_err(Error::compute("aggregating frames"))
}
