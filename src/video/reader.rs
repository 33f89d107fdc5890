//! Reads the sampled frames of a video, exactly, in one decoding pass where the file is healthy.
//!
//! Which frames decode, and when they are shown, is known for certain only once all are decoded, and which frames are
//! sampled depends on that. So the packets are read first, which is cheap; the frames are decoded and the sampled ones
//! handed out under the assumption that every packet gives a frame; and where that turns out to choose wrongly,
//! [`Event::Restart`] takes them back and a second pass goes by what was found.
//!
//! Where that saves much, only what the sampled frames need is decoded, by seeking. Then nothing is known of the frames
//! in between: should the file be damaged there, so that some do not decode, indices count them all the same.
//! [`Access::Straight`] decodes everything. Any sign of damage on the way, and any packet that is not as it was, does
//! so too. Frames that are not sampled are never kept, and never converted but for a rule that must see them all
//! (`scene`).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::image::RgbImage;
use serde::{Deserialize, Serialize};

use super::decode::{Fetched, VideoFile, fetch};
use super::demux::Indexed;
use super::error::{TimeFall, no_conversion, no_frames};
use super::images::ImageDirectory;
use super::limits::{Access, Bounds, Watch};
use super::packets::cost;
use super::sample::{FrameFact, Histogram, Timeline};
use super::scan::{Scanned, most_sampled};
use super::window::Side;
use super::{Frame, Sample, Window};
use crate::error::{About, Error, Kind};
use crate::units::{FrameIndex, Seconds};

/// Pixels that need not be decoded, from which on it is worth to know less of a file: a few tenths of a second.
const MIN_SAVED: u64 = 64 << 20;

/// Which frames of a video are wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameRequest {
    /// The rule that chooses them.
    pub sample: Sample,
    /// The part of the video that they come from.
    pub window: Window,
    /// The video stream that they come from, by its index among all streams. Default: the best one.
    #[serde(default)]
    pub stream: Option<usize>,
}

impl FrameRequest {
    /// Frames of the best video stream.
    pub fn new(sample: Sample, window: Window) -> Self {
        Self { sample, window, stream: None }
    }
}

/// What the reader tells while it reads.
#[derive(Debug)]
pub enum Event {
    /// Reading begins: this many frames are expected to decode.
    Expected {
        /// Frames counted by their packets.
        n_frames: usize,
        /// Frames that are expected to be sampled: the most that a rule can give which must see the pictures first.
        n_sampled: usize,
        /// Whether the input is one still image, not a video.
        is_single_image: bool,
    },
    /// Nothing new: a chance to say [`Flow::Stop`].
    Waiting,
    /// A sampled frame. They come in order of index.
    Frame(Frame),
    /// `n_decoded` frames are behind us.
    Progress {
        /// Frames decoded so far.
        n_decoded: usize,
    },
    /// The frames handed out so far are not the right ones: the video has fewer or more frames than its
    /// packets promised. The right ones follow.
    Restart,
}

/// The consumer's wish after an [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Nobody wants more: return early, which is no error.
    Stop,
}

/// What one reading found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadReport {
    /// Frames of the whole video that decode; by seeking, those that its packets promise.
    pub n_frames: usize,
    /// Those of them inside the window.
    pub n_inside: usize,
    /// Frames that were decoded for it, over all passes.
    #[serde(default)]
    pub n_decoded: usize,
    /// Times of the first and the last frame of the whole video.
    pub times: Option<(Seconds, Seconds)>,
    /// How long the last frame is shown, where its packet says so.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "last_shown")]
    pub last_duration: Option<Seconds>,
    /// Damage that was met on the way.
    pub damage: Damage,
    /// Plain sentences about what was assumed, or found odd, while reading; each stands for the whole video.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl ReadReport {
    /// How long the whole video is shown, as far as times are known.
    pub fn whole_duration(&self) -> Option<Seconds> {
        match (self.times, self.last_duration) {
            (Some((first, last)), Some(shown)) => Some(Seconds(last.0 + shown.0 - first.0)),
            _ => Self { n_inside: self.n_frames, ..self.clone() }.duration(),
        }
    }

    /// How long the part inside the window is shown, as far as times are known.
    pub fn duration(&self) -> Option<Seconds> {
        let (first, last) = self.times?;
        // The last frame is shown as long as the others are on average.
        let each = (last.0 - first.0) / self.n_frames.saturating_sub(1).max(1) as f64;
        Some(Seconds(each * self.n_inside as f64)).filter(|duration| duration.0.is_finite() && duration.0 >= 0.0)
    }
}

/// What could not be read of a video. The rest was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Damage {
    /// Packets that the demuxer or the decoder refused.
    pub n_lost: usize,
    /// Files that a playlist names and that cannot be opened.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub n_missing: usize,
    /// Frames that the header declares.
    pub n_declared: Option<usize>,
    /// Frames with errors that the decoder hid.
    #[serde(default)]
    pub n_concealed: usize,
    /// The first refusal or hidden error, in FFmpeg's words.
    pub first: Option<String>,
}

impl Damage {
    pub(super) fn note(&mut self, cause: String) {
        self.n_lost += 1;
        self.first.get_or_insert(cause);
    }

    pub(super) fn note_concealed(&mut self) {
        self.n_concealed += 1;
        self.first.get_or_insert_with(|| "decoding: errors were hidden in a frame".to_owned());
    }

    /// Notes the number of files that could not be opened so far, and why the first could not.
    pub(super) fn note_missing(&mut self, n_missing: usize, first: Option<String>) {
        self.n_missing = n_missing;
        // It is the cause of what follows.
        self.first = first.or(self.first.take());
    }

    /// Whether nothing was lost or hidden.
    pub fn is_none(&self) -> bool {
        self.n_lost + self.n_missing + self.n_concealed == 0
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// A sequence of decodable frames, read once from front to back.
pub(super) trait FrameSource {
    /// Goes to the next decodable frame and gives its time, or `None` at the end.
    fn advance(&mut self) -> Result<Option<Option<Seconds>>, Error>;
    /// Whether the codec stores the current frame whole.
    fn is_key(&self) -> bool;
    /// The current frame as upright RGB; an error is told in a few words.
    fn picture(&mut self) -> Result<RgbImage, String>;
    /// What was lost so far.
    fn damage(&self) -> &Damage;
    /// Whether damage was met that may come out otherwise the next time, as errors do that several threads hide.
    fn is_doubtful(&self) -> bool {
        false
    }
    /// The first frame so far whose time is before that of the frame that it follows.
    fn fall(&self) -> Option<TimeFall> {
        None
    }
    /// Warnings about what was read so far, as in [`ReadReport::warnings`].
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Reads the frames that `request` chooses, and hands them to `emit` in order.
///
/// # Errors
/// [`Error`] when the video cannot be opened, not one frame of it (or of the window) decodes, or it is too short
/// for the sampling rule. Damage short of that is in the report.
pub fn read_frames(
    path: &Path,
    request: &FrameRequest,
    bounds: impl Into<Bounds>,
    emit: &mut dyn FnMut(Event) -> Flow,
) -> Result<ReadReport, Error> {
    let watch = &mut Watch::new(bounds.into(), emit);
    read(Scanned::read(path, request, watch)?, watch)
}

/// As [`read_frames`], of a video that was scanned; of one that has changed since, what is there now.
///
/// # Errors
/// As [`read_frames`].
pub fn read_scanned(
    scanned: Scanned,
    bounds: impl Into<Bounds>,
    emit: &mut dyn FnMut(Event) -> Flow,
) -> Result<ReadReport, Error> {
    if !scanned.is_current() {
        return read_frames(&scanned.path, &scanned.request, bounds, emit);
    }
    let watch = &mut scanned.resume(bounds.into(), emit);
    read(scanned, watch)
}

fn read(scanned: Scanned, watch: &mut Watch<'_>) -> Result<ReadReport, Error> {
    let Scanned { path, request, timeline: expected, indexed, hides_damage, single_image, .. } = scanned;
    let is_single_image = single_image.is_some();
    let (path, request) = (&*path, &request);
    if hides_damage {
        watch.limits.threads = 1;
    }
    if request.sample.needs_histograms() {
        return read_looked_at(path, request, (expected.len(), is_single_image), watch);
    }
    // A rule that refuses what the packets promise is asked again when the frames are known.
    let wanted = request.sample.select(&expected).unwrap_or_default();
    let (n_frames, n_sampled) = (expected.len(), wanted.len());
    if watch.emit(Event::Expected { n_frames, n_sampled, is_single_image }) == Flow::Stop {
        return Ok(ReadReport::default());
    }
    let last_duration = expected.last_duration;
    if let Some(indexed) = indexed
        && let Some(report) = read_by_seeking(path, request, (indexed, &wanted, expected.len()), watch)?
    {
        return Ok(ReadReport { last_duration, ..report });
    }
    let walked = walk(|| Pass::new(path, request, wanted.clone()).with_last_duration(last_duration), watch)?;
    if walked.flow == Flow::Stop {
        return Ok(walked.report());
    }
    let mut report = walked.finish()?;
    let right = select(path, request, &walked.pass.found)?;
    if right != walked.pass.wanted {
        report.n_decoded += read_again(path, request, (right, walked.pass.found.len()), watch)?;
    }
    Ok(report)
}

/// A walk through all frames of a source, and how it ended.
struct Walked {
    source: Box<dyn FrameSource>,
    pass: Pass,
    flow: Flow,
}

impl Walked {
    fn report(&self) -> ReadReport {
        self.pass.report(&*self.source)
    }

    /// The report, or the error of a video (or a window) without a frame.
    fn finish(&self) -> Result<ReadReport, Error> {
        self.pass.finish(&*self.source)
    }
}

/// Walks through all frames. Where several threads meet damage, what was handed out is taken back, and this and all
/// later walks use one thread: then a damaged file gives the same frames whenever it is read.
fn walk(pass: impl Fn() -> Pass, watch: &mut Watch<'_>) -> Result<Walked, Error> {
    let mut n_before = 0;
    loop {
        let mut pass = pass();
        pass.n_before = n_before;
        let mut source = open(&pass.path, pass.stream, watch)?;
        let flow = pass.run(&mut *source, watch)?;
        if flow == Flow::Stop || !source.is_doubtful() {
            return Ok(Walked { source, pass, flow });
        }
        watch.limits.threads = 1;
        n_before += pass.n_frames;
        if pass.n_taken > 0 && watch.emit(Event::Restart) == Flow::Stop {
            return Ok(Walked { source, pass, flow: Flow::Stop });
        }
    }
}

/// Reads only what the wanted frames need; nothing where that saves little, or cannot be done exactly. What was handed
/// out is then taken back.
fn read_by_seeking(
    path: &Path,
    request: &FrameRequest,
    (indexed, wanted, n_inside): (Indexed, &[usize], usize),
    watch: &mut Watch<'_>,
) -> Result<Option<ReadReport>, Error> {
    let packets = &indexed.packets;
    let by_marks = matches!(request.sample, Sample::Keyframes(_));
    if watch.limits.access == Access::Straight || wanted.is_empty() || by_marks && !packets.marks_are_entries() {
        return Ok(None);
    }
    let frames: Vec<usize> = wanted.iter().map(|place| indexed.first_inside + place).collect();
    let runs = packets.runs(&frames);
    let saved = packets.len().saturating_sub(cost(&runs)) as u64;
    if watch.limits.access == Access::Auto && saved * indexed.n_pixels < MIN_SAVED {
        return Ok(None);
    }
    let time = |frame: usize| indexed.time(packets.of_frame(frame).pts);
    let times = Some((time(0), time(packets.n_shown() - 1)));
    let counted = ReadReport { n_frames: packets.n_shown(), n_inside, times, ..ReadReport::default() };
    match fetch(path, indexed, &runs, watch)? {
        Fetched::All { n_decoded, damage } => Ok(Some(ReadReport { n_decoded, damage, ..counted })),
        Fetched::Stopped => Ok(Some(counted)),
        Fetched::Doubtful if watch.emit(Event::Restart) == Flow::Stop => Ok(Some(counted)),
        Fetched::Doubtful => Ok(None),
    }
}

/// Takes back what was handed out, and reads `wanted` of the `n_found` frames that were found. The number that it
/// decodes.
fn read_again(
    path: &Path,
    request: &FrameRequest,
    (wanted, n_found): (Vec<usize>, usize),
    watch: &mut Watch<'_>,
) -> Result<usize, Error> {
    if watch.emit(Event::Restart) == Flow::Stop {
        return Ok(0);
    }
    let again = || {
        let last_needed = wanted.last().copied();
        Pass { last_needed, ..Pass::new(path, request, wanted.clone()) }
    };
    let Walked { pass, flow, .. } = walk(again, watch)?;
    if flow == Flow::Continue && pass.n_taken < pass.wanted.len() {
        let rule =
            format!("it decodes differently from one reading to the next: {n_found} frames, then {}", pass.found.len());
        return Err(Error::new(Kind::Unstable, rule).with_hint("repair it with `ffmpeg -i`").about(path));
    }
    Ok(pass.n_before + pass.n_frames)
}

/// Reads for a rule that must see all pictures before it can choose.
fn read_looked_at(
    path: &Path,
    request: &FrameRequest,
    (n_frames, is_single_image): (usize, bool),
    watch: &mut Watch<'_>,
) -> Result<ReadReport, Error> {
    let n_sampled = most_sampled(&request.sample, n_frames);
    if watch.emit(Event::Expected { n_frames, n_sampled, is_single_image }) == Flow::Stop {
        return Ok(ReadReport::default());
    }
    let look = || Pass { takes_histograms: true, ..Pass::new(path, request, Vec::new()) };
    let looked = walk(look, watch)?;
    if looked.flow == Flow::Stop {
        return Ok(looked.report());
    }
    let mut report = looked.finish()?;
    let wanted = select(path, request, &looked.pass.found)?;
    report.n_decoded += read_again(path, request, (wanted, looked.pass.found.len()), watch)?;
    Ok(report)
}

fn select(path: &Path, request: &FrameRequest, timeline: &Timeline) -> Result<Vec<usize>, Error> {
    request.sample.select(timeline).about(path)
}

/// Counts the frames that decode of a stream, the best one where none is named, by decoding them all. `progress` hears
/// the number now and then.
///
/// # Errors
/// As [`read_frames`].
pub fn count_frames(
    path: &Path,
    stream: Option<usize>,
    bounds: impl Into<Bounds>,
    progress: &mut dyn FnMut(Event) -> Flow,
) -> Result<ReadReport, Error> {
    let request = FrameRequest { stream, ..FrameRequest::new(Sample::All, Window::default()) };
    let watch = &mut Watch::new(bounds.into(), progress);
    let Scanned { timeline, hides_damage, .. } = Scanned::read(path, &request, watch)?;
    if hides_damage {
        watch.limits.threads = 1;
    }
    watch.emit(Event::Expected { n_frames: timeline.len(), n_sampled: 0, is_single_image: false });
    walk(|| Pass::new(path, &request, Vec::new()), watch)?.finish()
}

fn open(path: &Path, stream: Option<usize>, watch: &Watch<'_>) -> Result<Box<dyn FrameSource>, Error> {
    match path.is_dir() {
        true => Ok(Box::new(ImageDirectory::open(path, stream, &watch.spent)?)),
        false => Ok(Box::new(VideoFile::open(path, stream, &watch.limits, &watch.spent)?)),
    }
}

/// Whether it is time to tell the consumer again, after `n_decoded` frames.
pub(super) fn is_due(n_decoded: usize, told: &mut Instant) -> bool {
    const PROGRESS_EVERY: usize = 16;
    const SIGN_EVERY: Duration = Duration::from_millis(250);
    let is_due = n_decoded.is_multiple_of(PROGRESS_EVERY) || told.elapsed() > SIGN_EVERY;
    if is_due {
        *told = Instant::now();
    }
    is_due
}

/// One walk through a source, under the assumption that certain places are wanted.
struct Pass {
    path: PathBuf,
    stream: Option<usize>,
    window: Window,
    /// Places inside the window, sorted; a place may stand there twice.
    wanted: Vec<usize>,
    /// Where to stop early, once the number of frames is certain.
    last_needed: Option<usize>,
    /// Whether the colours of all frames are compared.
    takes_histograms: bool,
    last_histogram: Option<Histogram>,
    n_frames: usize,
    /// Frames that were decoded before, in vain.
    n_before: usize,
    /// The frames of the window so far.
    found: Timeline,
    /// Of `wanted`, those handed out.
    n_taken: usize,
    times: Option<(Seconds, Seconds)>,
}

impl Pass {
    fn new(path: &Path, request: &FrameRequest, wanted: Vec<usize>) -> Self {
        Self {
            path: path.to_owned(),
            stream: request.stream,
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

    fn with_last_duration(mut self, last_duration: Option<Seconds>) -> Self {
        self.found.last_duration = last_duration;
        self
    }

    /// Walks to the end, or to the last frame needed, or until the source is doubtful.
    fn run(&mut self, source: &mut dyn FrameSource, watch: &mut Watch<'_>) -> Result<Flow, Error> {
        let mut told = Instant::now();
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
            if let Some(time) = time {
                self.times = Some((self.times.map_or(time, |(first, _)| first), time));
            }
            if self.is_inside(time)? {
                let place = self.found.len();
                self.found.frames.push(FrameFact { time, is_key: source.is_key() });
                if self.takes_histograms {
                    let image = source.picture().map_err(|cause| no_conversion(&self.path, index, &cause))?;
                    let histogram = Histogram::of(&image);
                    let distance = self.last_histogram.as_ref().map_or(0.0, |last| histogram.distance(last));
                    self.found.distances.push(distance);
                    self.last_histogram = Some(histogram);
                }
                while self.wanted.get(self.n_taken) == Some(&place) {
                    self.n_taken += 1;
                    let image = source.picture().map_err(|cause| no_conversion(&self.path, index, &cause))?;
                    if watch.emit(Event::Frame(Frame { index, time, image })) == Flow::Stop {
                        return Ok(Flow::Stop);
                    }
                }
                if self.last_needed == Some(place) {
                    return Ok(Flow::Continue);
                }
            }
            if is_due(self.n_frames, &mut told)
                && watch.emit(Event::Progress { n_decoded: self.n_frames }) == Flow::Stop
            {
                return Ok(Flow::Stop);
            }
        }
        // FFmpeg calls what it gave up an end.
        watch.check(&self.path)?;
        Ok(Flow::Continue)
    }

    fn is_inside(&self, time: Option<Seconds>) -> Result<bool, Error> {
        match time {
            _ if self.window.is_whole() => Ok(true),
            Some(time) => Ok(self.window.side(time) == Side::Inside),
            None => {
                let rule = "its frames carry no times, so --start and --end do not apply";
                Err(Error::new(Kind::NoTimes, rule).about(&self.path))
            }
        }
    }

    /// The report, or the error of a video (or a window) without a frame.
    fn finish(&self, source: &dyn FrameSource) -> Result<ReadReport, Error> {
        let report = self.report(source);
        if self.n_frames == 0 {
            let cause = report.damage.first.unwrap_or_else(|| "the stream is empty".to_owned());
            return Err(no_frames(&self.path, &cause));
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

    fn report(&self, source: &dyn FrameSource) -> ReadReport {
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
