//! A pass of decoding through a source of frames: counts frames and times, emits the wanted frames, computes
//! histograms.
//!
//! The reader decides which passes are needed; sources are media files (`decode`) and directories (`images`).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::image::RgbImage;

use super::error::{TimeFall, no_frames};
use super::report::{Damage, ReadReport};
use super::request::{Flow, FrameRequest, ReadEvent};
use super::sample::{FrameFact, Histogram, Timeline};
use super::timer::ReadWatch;
use super::window::WindowSide;
use super::{Frame, Window};
use crate::error::{About, Error, Kind};
use crate::units::{FrameIndex, Seconds};

/// Source of decodable frames, read once from front to back.
pub(super) trait FrameSource {
    /// Advances to the next decodable frame, and returns its time, or `None` at the end.
    fn advance(&mut self) -> Result<Option<Option<Seconds>>, Error>;
    /// Returns whether the current frame is a keyframe.
    fn is_key(&self) -> bool;
    /// Converts the current frame to upright RGB.
    fn image(&mut self) -> Result<RgbImage, Error>;
    /// Damage so far.
    fn damage(&self) -> &Damage;
    /// Returns whether there is damage whose outcome may vary between readings, as of errors concealed by several
    /// threads.
    fn is_doubtful(&self) -> bool {
        false
    }
    /// Returns the first frame so far whose time is before that of the frame that it follows.
    fn fall(&self) -> Option<TimeFall> {
        None
    }
    /// Returns warnings so far, as in [`ReadReport::warnings`].
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Returns whether a progress event is due after `n_decoded` frames, and then sets the time of the last event.
pub(super) fn is_due(n_decoded: usize, last_event: &mut Instant) -> bool {
    const PROGRESS_EVERY: usize = 16;
    const EVENT_EVERY: Duration = Duration::from_millis(250);
    let is_due = n_decoded.is_multiple_of(PROGRESS_EVERY) || last_event.elapsed() > EVENT_EVERY;
    if is_due {
        *last_event = Instant::now();
    }
    is_due
}

/// A pass through a source, which emits the frames of the `wanted` indices.
#[derive(Clone)]
pub(super) struct DecodingPass {
    path: PathBuf,
    window: Window,
    /// Indices inside the window, sorted; an index may occur twice.
    pub(super) wanted: Vec<usize>,
    /// Index to stop after, once the number of frames is certain.
    pub(super) last_needed: Option<usize>,
    /// Whether the distances of histograms are computed.
    pub(super) takes_histograms: bool,
    last_histogram: Option<Histogram>,
    /// Number of frames decoded by this pass.
    pub(super) n_frames: usize,
    /// Number of frames decoded by passes before this one.
    pub(super) n_before: usize,
    /// Frames of the window so far.
    pub(super) found: Timeline,
    /// Number of emitted frames of `wanted`.
    pub(super) n_taken: usize,
    /// Times of the first and the last frame so far.
    times: Option<(Seconds, Seconds)>,
}

impl DecodingPass {
    pub(super) fn new(path: &Path, request: &FrameRequest, wanted: Vec<usize>) -> Self {
        Self {
            path: path.to_owned(),
            window: request.window,
            wanted,
            last_needed: None,
            takes_histograms: false,
            last_histogram: None,
            n_frames: 0,
            n_before: 0,
            found: Timeline::default(),
            n_taken: 0,
            times: None,
        }
    }

    pub(super) fn with_last_duration(mut self, last_duration: Option<Seconds>) -> Self {
        self.found.last_duration = last_duration;
        self
    }

    /// Decodes to the end, or to the last needed frame, or until the source is doubtful.
    pub(super) fn run(&mut self, source: &mut dyn FrameSource, watch: &mut ReadWatch<'_>) -> Result<Flow, Error> {
        let mut last_event = Instant::now();
        while let Some(time) = source.advance()? {
            watch.check(&self.path)?;
            if source.is_doubtful() {
                return Ok(Flow::Continue);
            }
            if let Some(fall) = source.fall().filter(|_| !self.window.is_whole()) {
                let rule = format!("--start and --end do not apply: its times run backwards {fall}");
                return Err(Error::new(Kind::TimesFall, rule).with_hint(TimeFall::HINT).about(&self.path));
            }
            let index = FrameIndex(self.n_frames);
            self.n_frames += 1;
            watch.limits.check_count(&self.path, self.n_frames)?;
            if let Some(time) = time {
                self.times = Some((self.times.map_or(time, |(first, _)| first), time));
            }
            if self.is_inside(time)? {
                let index_inside = self.found.len();
                self.found.frames.push(FrameFact { time, is_key: source.is_key() });
                if self.takes_histograms {
                    self.push_distance(&self.image(source, index)?);
                }
                while self.wanted.get(self.n_taken) == Some(&index_inside) {
                    self.n_taken += 1;
                    let image = self.image(source, index)?;
                    if watch.emit(ReadEvent::Frame(Frame { index, time, image })) == Flow::Stop {
                        return Ok(Flow::Stop);
                    }
                }
                if self.last_needed == Some(index_inside) {
                    return Ok(Flow::Continue);
                }
            }
            if is_due(self.n_frames, &mut last_event)
                && watch.emit(ReadEvent::Progress { n_decoded: self.n_frames }) == Flow::Stop
            {
                return Ok(Flow::Stop);
            }
        }
        // FFmpeg reports a call that it gave up as the end of the file.
        watch.check(&self.path)?;
        Ok(Flow::Continue)
    }

    /// Converts the current frame of a source.
    fn image(&self, source: &mut dyn FrameSource, index: FrameIndex) -> Result<RgbImage, Error> {
        source.image().about(format!("frame {index}")).about(&self.path)
    }

    /// Adds the distance of a frame's histogram to that of the frame before.
    fn push_distance(&mut self, image: &RgbImage) {
        let histogram = Histogram::of(image);
        let distance = self.last_histogram.as_ref().map_or(0.0, |last| histogram.distance(last));
        self.found.distances.push(distance);
        self.last_histogram = Some(histogram);
    }

    fn is_inside(&self, time: Option<Seconds>) -> Result<bool, Error> {
        match time {
            _ if self.window.is_whole() => Ok(true),
            Some(time) => Ok(self.window.side(time) == WindowSide::Inside),
            None => {
                let rule = "its frames carry no times, so --start and --end do not apply";
                let error = Error::new(Kind::NoTimes, rule);
                let hint = "--image-rate (image_rate): images per second of a directory";
                Err(if self.path.is_dir() { error.with_hint(hint) } else { error }.about(&self.path))
            }
        }
    }

    /// Returns the report, or the error of a video or a window without frames.
    pub(super) fn finish(&self, source: &dyn FrameSource) -> Result<ReadReport, Error> {
        let report = self.report(source);
        if self.n_frames == 0 {
            let cause = report.damage.first.unwrap_or_else(|| "the stream is empty".to_owned());
            return Err(no_frames(&self.path, Error::invalid(cause)));
        }
        if self.found.is_empty() {
            let (first, last) = self.times.unwrap_or((Seconds(0.0), Seconds(0.0)));
            let rule = format!(
                "no frame in the window {}: its {} frames run from {first} to {last}",
                self.window, self.n_frames
            );
            return Err(Error::new(Kind::EmptyWindow, rule).about(&self.path));
        }
        Ok(report)
    }

    pub(super) fn report(&self, source: &dyn FrameSource) -> ReadReport {
        let damage = source.damage().clone();
        ReadReport {
            n_frames: self.n_frames,
            n_inside: self.found.len(),
            n_decoded: self.n_before + self.n_frames,
            times: self.times,
            last_duration: self.found.last_duration,
            damage,
            warnings: source.warnings(),
        }
    }
}
