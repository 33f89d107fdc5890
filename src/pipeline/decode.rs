//! The first two stages: videos to frames, frames to prepared images.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::image::RgbImage;
use candle_core::Tensor;

use super::item::{Carried, ImageKind, ItemError, PartContent, VideoEnd, VideoPart, VideoRef};
use super::stages::{DECODE, PREPROCESS, VideoOptions, VideoProgress};
use super::timing::timed;
use super::views::{ViewMaker, thumbnail};
use super::{EncodedVideo, FeatureKey, FrameStamp, PipelineError, Stages};
use crate::error::Kind;
use crate::exec::{Closed, Inlet, Outlet};
use crate::temporal::{Temporal, Views};
use crate::units::Tokens;
use crate::video::worker::Worker;
use crate::video::{
    Bounds, Event, Flow, Frame, FrameRequest, Halt, Patience, ReadLimits, ReadReport, Scanned, read_frames,
    read_scanned,
};
use crate::vlm::{ModelError, TokenBudget};

/// Decodes one video after the other, with so many threads.
pub(super) fn decode(
    stages: &Stages<'_>,
    threads: usize,
    inlet: &Inlet<VideoRef>,
    outlet: &Outlet<VideoPart<RgbImage>>,
) {
    let mut worker = stages.apart.isolation.map(Worker::new);
    while let Some(video) = inlet.recv() {
        let mut reading = VideoReading {
            stages,
            outlet,
            video,
            threads,
            views: None,
            takes_any_res: false,
            refusal: None,
            thumbnail_at: None,
            waiting: Duration::ZERO,
            scan: Duration::ZERO,
        };
        if reading.run(worker.as_mut()).is_err() {
            return;
        }
    }
}

/// The reading of one video.
struct VideoReading<'r> {
    stages: &'r Stages<'r>,
    outlet: &'r Outlet<VideoPart<RgbImage>>,
    video: VideoRef,
    /// Of the decoder.
    threads: usize,
    /// Made when the first frame comes, and anew after a restart.
    views: Option<ViewMaker>,
    /// Whether the frame that comes is a single image to be taken by AnyRes.
    takes_any_res: bool,
    /// Why what comes of the video cannot be worked on.
    refusal: Option<PipelineError>,
    /// The sampled frame that a small picture is made of, counted down; none once it is made.
    thumbnail_at: Option<usize>,
    waiting: Duration,
    /// Time that an earlier scan took.
    scan: Duration,
}

impl VideoReading<'_> {
    /// Sends all parts of the video, the last of them its end; an error says that nobody wants them.
    fn run(&mut self, worker: Option<&mut Worker<'_>>) -> Result<(), Closed> {
        let start = Instant::now();
        let request = FrameRequest {
            window: self.video.job.window.unwrap_or(self.stages.request.window),
            ..self.stages.request.clone()
        };
        // What cannot be looked at cannot be read either, and reading says why.
        let key = self
            .stages
            .apart
            .features
            .and_then(|features| FeatureKey::of(features.made_by(), self.video.path(), &request.window).ok());
        if let Some(found) = self.find(key.as_ref()) {
            self.send(PartContent::Found(Box::new(found)))?;
            return self.send(PartContent::End(VideoEnd { report: None, decode: start.elapsed(), key: None }));
        }
        let report = match self.read(&request, worker)? {
            Ok(report) => Some(report),
            Err(source) => {
                self.video.give_up();
                self.send(PartContent::Failed(ItemError::new(DECODE, source)))?;
                None
            }
        };
        // A file that changed meanwhile is not the one of the key.
        let unchanged = key.filter(|key| {
            let again = self
                .stages
                .apart
                .features
                .map(|features| FeatureKey::of(features.made_by(), self.video.path(), &request.window));
            again.is_some_and(|again| again.is_ok_and(|again| again == *key))
        });
        let decode = start.elapsed().saturating_sub(self.waiting) + self.scan;
        self.send(PartContent::End(VideoEnd { report, decode, key: unchanged }))
    }

    /// What was kept of the video.
    fn find(&self, key: Option<&FeatureKey>) -> Option<EncodedVideo> {
        let Stages { vlm, temporal, apart, .. } = self.stages;
        apart.features?.get(key?, *temporal, vlm.device())
    }

    /// Reads the video, in the worker's process if there is one, and sends what it gives.
    fn read(
        &mut self,
        request: &FrameRequest,
        worker: Option<&mut Worker<'_>>,
    ) -> Result<Result<ReadReport, PipelineError>, Closed> {
        let VideoOptions { limits, n_restarts, .. } = self.stages.apart;
        let limits = ReadLimits {
            time: limits.time(DECODE),
            stall: limits.stall,
            frame_bytes: limits.frame_bytes,
            threads: self.threads,
            access: self.stages.access,
        };
        let bounds = Bounds { limits, halt: self.halt() };
        let path = self.video.job.path.clone();
        let scanned = self.stages.apart.scanned.and_then(|known| known.take(&path, request));
        self.scan = scanned.as_ref().map_or(Duration::ZERO, Scanned::took);
        let mut sent = Ok(());
        let mut take = |event: Event| {
            sent = self.take(event);
            let goes_on = sent.is_ok() && self.refusal.is_none() && !self.video.is_given_up();
            if goes_on { Flow::Continue } else { Flow::Stop }
        };
        let report = match (worker, scanned) {
            (None, Some(scanned)) => read_scanned(scanned, &bounds, &mut take),
            (None, None) => read_frames(&path, request, &bounds, &mut take),
            (Some(worker), _) => {
                let before = worker.n_restarts();
                let report = worker.read_frames(&path, (request, &bounds), &mut take);
                if let Some(sum) = n_restarts {
                    sum.fetch_add(worker.n_restarts() - before, Ordering::Relaxed);
                }
                report
            }
        };
        sent?;
        match (self.refusal.take(), report) {
            (Some(error), _) => Ok(Err(error)),
            // The run ends, and this video was not read: neither frames nor a failure.
            (None, Err(error)) if error.kind() == Kind::Halted => Err(Closed),
            (None, Err(error)) => Ok(Err(error.into())),
            (None, Ok(report)) => Ok(self.finish()?.map(|()| report)),
        }
    }

    /// Once the run drains, what waits for data is given up; once it is given up, all is.
    fn halt(&self) -> Halt {
        let stop = self.outlet.stop().clone();
        Halt::new(move || match (stop.is_draining(), stop.is_aborted()) {
            (false, _) => Patience::Full,
            (true, false) => Patience::WhileMoving,
            (true, true) => Patience::Exhausted,
        })
    }

    /// Notes whether the video is a single image to be taken by AnyRes, and refuses one whose frames do not fit the
    /// context; the tokens of AnyRes are known once the image is.
    fn expect(&mut self, n_sampled: usize, is_single_image: bool) {
        let way = self.stages.single_image;
        self.takes_any_res = way.is_some_and(|way| way.takes_any_res(is_single_image, n_sampled));
        if !self.takes_any_res {
            self.refusal = self.check_budget(self.stages.temporal, n_sampled.max(1)).err();
        }
    }

    /// Whether so many frames fit the context beside the text.
    fn check_budget(&self, temporal: Temporal, n_frames: usize) -> Result<(), PipelineError> {
        let Some(text) = self.video.text else { return Ok(()) };
        let budget = TokenBudget {
            temporal,
            n_frames,
            frame: self.stages.vlm.frame_tokens(),
            text,
            context: Tokens(self.stages.vlm.context()),
        };
        budget.room()?;
        Ok(())
    }

    fn take(&mut self, event: Event) -> Result<(), Closed> {
        let tell = |progress| (self.stages.on_progress)(&self.video, progress);
        if self.outlet.is_aborted() {
            return Err(Closed);
        }
        match event {
            Event::Waiting => {}
            Event::Expected { n_frames, n_sampled, is_single_image } => {
                tell(VideoProgress::Expected { n_frames });
                // The one in the middle: the first of many a video is black.
                self.thumbnail_at = self.stages.apart.thumbnails.then_some(n_sampled / 2);
                self.expect(n_sampled, is_single_image);
            }
            Event::Progress { n_decoded } => tell(VideoProgress::Decoded { n_frames: n_decoded }),
            Event::Restart => {
                self.views = None;
                self.send(PartContent::Restart)?;
            }
            Event::Frame(Frame { index, time, image }) => {
                match self.thumbnail_at {
                    Some(0) => {
                        self.thumbnail_at = None;
                        // A picture that is no picture is missed by nobody.
                        if let Some(picture) = thumbnail(&image) {
                            self.send(PartContent::Thumbnail(picture))?;
                        }
                    }
                    Some(n) => self.thumbnail_at = Some(n - 1),
                    None => {}
                }
                let stamp = FrameStamp { index, time_seconds: time };
                if self.takes_any_res {
                    return self.send_views(stamp, &image);
                }
                let part = match self.views().push(image) {
                    Some(image) => PartContent::Image(image, Carried { frame: Some(stamp), ..Carried::default() }),
                    None => PartContent::Frame(stamp),
                };
                self.send(part)?;
            }
        }
        Ok(())
    }

    /// Sends the views of a single image, or notes why there are none.
    fn send_views(&mut self, stamp: FrameStamp, image: &RgbImage) -> Result<(), Closed> {
        let stages = self.stages;
        let within = |reading: &Self| {
            let single_image = stages.vlm.single_image().usable()?;
            let temporal = single_image.temporal(image.dimensions());
            reading.check_budget(temporal, 1).map(|()| (single_image, temporal))
        };
        let (single_image, temporal) = match within(self) {
            Ok(found) => found,
            Err(error) => {
                self.refusal = Some(error);
                return Ok(());
            }
        };
        self.send(PartContent::Views(temporal))?;
        for (i, view) in single_image.views(image).into_iter().enumerate() {
            let frame = (i == 0).then_some(stamp);
            self.send(PartContent::Image(view, Carried { frame, kind: ImageKind::View, ..Carried::default() }))?;
        }
        Ok(())
    }

    /// The image that follows all frames, if there is one.
    fn finish(&mut self) -> Result<Result<(), PipelineError>, Closed> {
        if self.takes_any_res || self.stages.temporal.views() == Views::Frames {
            return Ok(Ok(()));
        }
        let views = self.views.take().unwrap_or_else(|| self.new_views());
        match views.finish() {
            Ok(Some(image)) => self.send(PartContent::Image(image, Carried::default())).map(Ok),
            Ok(None) => Ok(Ok(())),
            Err(rule) => Ok(Err(ModelError::Frames { path: self.video.job.path.clone(), rule }.into())),
        }
    }

    fn views(&mut self) -> &mut ViewMaker {
        let new = self.new_views();
        self.views.get_or_insert(new)
    }

    fn new_views(&self) -> ViewMaker {
        ViewMaker::new(self.stages.temporal.views(), self.stages.vlm.tower().config().image_size)
    }

    fn send(&mut self, part: PartContent<RgbImage>) -> Result<(), Closed> {
        let item = VideoPart { video: self.video.clone(), part };
        timed(&mut self.waiting, || self.outlet.send(item))
    }
}

/// Prepares an image as the tower wants it; every other part passes.
pub(super) fn preprocess(stages: &Stages<'_>, item: VideoPart<RgbImage>) -> VideoPart<Tensor> {
    item.map_image(PREPROCESS, |image, mut carried| {
        let kind = carried.kind;
        let pixels = timed(&mut carried.preprocess, || match kind {
            ImageKind::Frame => stages.vlm.prepare(image),
            ImageKind::View => stages.vlm.prepare_view(image),
        })?;
        Ok((pixels, carried))
    })
}
