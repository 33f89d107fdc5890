//! First two stages: videos to sampled frames (decode), frames to pixels for the tower (preprocess). `frames` makes the
//! parts of each frame.

mod frames;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::image::RgbImage;
use candle_core::Tensor;

use super::download::JobFile;
use super::error::stopped;
use super::item::{ImageKind, ItemError, PartContent, VideoEnd, VideoPart, VideoRef};
use super::preview::{Preview, PreviewMaker};
use super::stages::{DECODE, PREPROCESS, VideoOptions};
use super::timing::timed;
use super::views::ViewMaker;
use super::{EncodedVideo, FeatureCache, FeatureKey, Stages};
use crate::error::{Error, Kind};
use crate::exec::{Closed, Inlet, Outlet};
use crate::video::worker::Worker;
use crate::video::{
    Bounds, Flow, FrameRequest, Halt, Patience, ReadEvent, ReadLimits, ReadReport, Scanned, read_frames, read_scanned,
};

/// Decodes one video after the other, with `threads` decoder threads; 0 is one per core.
pub(super) fn decode(
    stages: &Stages<'_>,
    threads: usize,
    inlet: &Inlet<VideoRef>,
    outlet: &Outlet<VideoPart<RgbImage>>,
) {
    let mut worker = stages.options.isolation.map(Worker::new);
    while let Some(video) = inlet.recv() {
        let mut reading = VideoReading {
            stages,
            outlet,
            file: JobFile::of(&video),
            video,
            threads,
            views: None,
            takes_any_res: false,
            refusal: None,
            preview: PreviewMaker::new(Preview::None, 0),
            waiting: Duration::ZERO,
            scan: Duration::ZERO,
        };
        if reading.run(worker.as_mut()).is_err() {
            return;
        }
    }
}

/// State of the video that is being read.
struct VideoReading<'r> {
    stages: &'r Stages<'r>,
    outlet: &'r Outlet<VideoPart<RgbImage>>,
    video: VideoRef,
    file: JobFile,
    /// Number of decoder threads.
    threads: usize,
    /// Created at the first frame, and again after a restart.
    views: Option<ViewMaker>,
    /// Whether the video is a single image that AnyRes encodes.
    takes_any_res: bool,
    /// Why the video fails although it can be read, such as too many tokens.
    refusal: Option<Error>,
    /// Preview, once the number of frames is known.
    preview: PreviewMaker,
    /// Time spent waiting for room in the outlet.
    waiting: Duration,
    /// Time of an earlier scan of the video.
    scan: Duration,
}

impl VideoReading<'_> {
    /// Sends all parts of the video, the last of them its end.
    ///
    /// # Errors
    /// [`Closed`] when the receiver is gone.
    fn run(&mut self, worker: Option<&mut Worker<'_>>) -> Result<(), Closed> {
        let start = Instant::now();
        let request = self.video.job.request(&self.stages.request);
        if let Some(downloads) = self.stages.options.downloads
            && let Err(error) = self.file.download(downloads, &self.video, self.outlet.stop())
        {
            return self.fail(error).and_then(|()| self.end(start.elapsed()));
        }
        // A file whose key fails cannot be read either, and the reader reports why.
        let key = self.stages.options.features.and_then(|features| self.key(features, &request));
        if let Some(cached) = self.cached(key.as_ref()) {
            self.send(PartContent::Cached(Box::new(cached)))?;
            return self.end(start.elapsed());
        }
        let report = match self.read(&request, worker)? {
            Ok(report) => Some(report),
            Err(error) => {
                self.fail(error)?;
                None
            }
        };
        // The tokens of a file that changed meanwhile are not cached.
        let again = self.stages.options.features.and_then(|features| self.key(features, &request));
        let unchanged = key.filter(|key| again.as_ref() == Some(key));
        let also = if unchanged.is_some() { self.stages.options.also } else { &[] };
        let also_keys = also.iter().map(|other| self.key(&other.features, &request)).collect();
        let decode = start.elapsed().saturating_sub(self.waiting) + self.scan;
        self.send(PartContent::End(VideoEnd { report, decode, key: unchanged, also_keys }))
    }

    /// Sends a failure. A run that ends before the video was read sends neither frames nor a failure.
    fn fail(&mut self, error: Error) -> Result<(), Closed> {
        let error = match error.kind() {
            // Given up from outside.
            Kind::Halted if self.video.is_failed() && !self.outlet.is_draining() => stopped(),
            Kind::Halted => return Err(Closed),
            _ => self.file.named(error),
        };
        self.video.mark_failed();
        self.send(PartContent::Failed(ItemError::new(DECODE, error)))
    }

    /// Sends the end of a video that was not read.
    fn end(&mut self, decode: Duration) -> Result<(), Closed> {
        self.send(PartContent::End(VideoEnd { report: None, decode, key: None, also_keys: Vec::new() }))
    }

    /// Returns the key of the video's visual tokens in a cache.
    fn key(&self, features: &FeatureCache, request: &FrameRequest) -> Option<FeatureKey> {
        let planned = &self.stages.request;
        let is_planned = *request == FrameRequest { window: request.window, ..planned.clone() };
        let own = (!is_planned).then_some(request);
        FeatureKey::of(features.made_by(), self.file.path(), &request.window, own).ok()
    }

    /// Returns the cached visual tokens of the video.
    fn cached(&self, key: Option<&FeatureKey>) -> Option<EncodedVideo> {
        let Stages { vlm, temporal, options, .. } = self.stages;
        options.features?.get(key?, *temporal, vlm.device())
    }

    /// Reads the video, in the worker's process if there is one, and sends its frames.
    fn read(
        &mut self,
        request: &FrameRequest,
        worker: Option<&mut Worker<'_>>,
    ) -> Result<Result<ReadReport, Error>, Closed> {
        let VideoOptions { limits, n_restarts, .. } = self.stages.options;
        let limits = ReadLimits {
            links: self.file.links(limits.links),
            threads: self.threads,
            access: self.stages.access,
            ..limits.of_scan()
        };
        let bounds = Bounds { limits, halt: self.halt() };
        let path = self.file.path().to_owned();
        let scanned = self.stages.options.scanned.and_then(|known| known.take(&path, request));
        self.scan = scanned.as_ref().map_or(Duration::ZERO, Scanned::took);
        let mut sent = Ok(());
        let mut take = |event: ReadEvent| {
            sent = self.take(event);
            let is_wanted = sent.is_ok() && self.refusal.is_none() && !self.video.is_failed();
            if is_wanted { Flow::Continue } else { Flow::Stop }
        };
        let report = match (worker, scanned) {
            (None, Some(scanned)) => read_scanned(scanned, &bounds, &mut take),
            (None, None) => read_frames(&path, request, &bounds, &mut take),
            (Some(worker), _) => {
                let before = worker.n_restarts();
                let report = worker.read_frames(&path, request, &bounds, &mut take);
                if let Some(sum) = n_restarts {
                    sum.fetch_add(worker.n_restarts() - before, Ordering::Relaxed);
                }
                report
            }
        };
        sent?;
        match (self.refusal.take(), report) {
            (Some(error), _) => Ok(Err(error)),
            (None, Err(error)) => Ok(Err(error)),
            // Given up from outside: the frames are not all that were asked for.
            (None, Ok(_)) if self.video.is_failed() => Ok(Err(stopped())),
            (None, Ok(report)) => Ok(self.finish()?.map(|()| report)),
        }
    }

    /// Returns the condition that halts the reader: while the run drains, a read without data; after an abort, any
    /// read.
    fn halt(&self) -> Halt {
        let stop = self.outlet.stop().clone();
        Halt::new(move || match (stop.is_draining(), stop.is_aborted()) {
            (false, _) => Patience::Full,
            (true, false) => Patience::WhileMoving,
            (true, true) => Patience::Exhausted,
        })
    }

    fn send(&mut self, part: PartContent<RgbImage>) -> Result<(), Closed> {
        let item = VideoPart { video: self.video.clone(), part };
        timed(&mut self.waiting, || self.outlet.send(item))
    }
}

/// Preprocesses an image for the tower; other parts pass.
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
