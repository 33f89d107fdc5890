//! Reader of the sampled frames of a video, exact, in one decoding pass where the file is healthy.
//!
//! The decodable frames and their times are certain only once all are decoded, and sampling depends on them. So packets
//! are scanned first, which is cheap; frames are decoded and the sampled frames emitted under the assumption that every
//! packet gives a frame; where the assumption chose other frames, [`ReadEvent::Restart`] takes the emitted frames back,
//! and a second pass samples the frames found.
//!
//! Seeking decodes only the packets that sampled frames need, if that saves much. Frames in between are then
//! not checked: if some of them do not decode, indices still count them. [`Access::Straight`] decodes everything, as
//! does any sign of damage and any packet that differs from the scan. Frames that are not sampled are never kept, and
//! converted only for a rule that needs histograms (`scene`).

use std::path::Path;

use super::decode::{Fetched, VideoFile, fetch};
use super::demux::IndexedFile;
use super::images::ImageDirectory;
use super::limits::{Access, Bounds};
use super::packets::cost;
use super::pass::{DecodingPass, FrameSource};
use super::report::ReadReport;
use super::request::{Flow, FrameRequest, ReadEvent};
use super::sample::Timeline;
use super::scan::{Scanned, max_sampled};
use super::timer::ReadWatch;
use super::{Sample, Window};
use crate::error::{About, Error, Kind};

/// Number of pixels whose decoding must be saved for seeking to be worth the loss of checks: a few tenths of a second.
const MIN_SAVED: u64 = 64 << 20;

/// Reads the frames that `request` samples, and emits them in order.
///
/// # Errors
/// [`Error`] when the video cannot be opened, no frame of it (or of the window) decodes, or it is too short for the
/// sampling rule. Lesser damage is in the report.
pub fn read_frames(
    path: &Path,
    request: &FrameRequest,
    bounds: impl Into<Bounds>,
    emit: &mut dyn FnMut(ReadEvent) -> Flow,
) -> Result<ReadReport, Error> {
    let watch = &mut ReadWatch::new(bounds.into(), emit);
    read(Scanned::read(path, request, watch)?, watch)
}

/// Reads the frames of a scanned video; a file that has changed since is scanned again.
///
/// # Errors
/// See [`read_frames`].
pub fn read_scanned(
    scanned: Scanned,
    bounds: impl Into<Bounds>,
    emit: &mut dyn FnMut(ReadEvent) -> Flow,
) -> Result<ReadReport, Error> {
    if !scanned.is_current() {
        return read_frames(&scanned.path, &scanned.request, bounds, emit);
    }
    let watch = &mut scanned.resume(bounds.into(), emit);
    read(scanned, watch)
}

fn read(scanned: Scanned, watch: &mut ReadWatch<'_>) -> Result<ReadReport, Error> {
    let Scanned { path, request, timeline: expected, indexed, hides_damage, single_image, .. } = scanned;
    let is_single_image = single_image.is_some();
    if hides_damage {
        watch.limits.threads = 1;
    }
    let needs_histograms = request.sample.needs_histograms();
    // A rule that refuses the expected frames is applied again when the frames are known.
    let wanted = if needs_histograms { Vec::new() } else { request.sample.select(&expected).unwrap_or_default() };
    let n_frames = expected.len();
    let n_sampled = if needs_histograms { max_sampled(&request.sample, n_frames) } else { wanted.len() };
    if watch.emit(ReadEvent::Expected { n_frames, n_sampled, is_single_image }) == Flow::Stop {
        return Ok(ReadReport::default());
    }
    let mut reading = RequestReading { path: &path, request: &request, watch };
    if needs_histograms {
        return reading.read_with_histograms();
    }
    let last_duration = expected.last_duration;
    if let Some(indexed) = indexed
        && let Some(report) = reading.read_by_seeking(indexed, &wanted, n_frames)?
    {
        return Ok(ReadReport { last_duration, ..report });
    }
    let pass = reading.pass(wanted).with_last_duration(last_duration);
    let decoded = reading.decode(&pass)?;
    if decoded.flow == Flow::Stop {
        return Ok(decoded.report());
    }
    let mut report = decoded.finish()?;
    let correct = reading.select(&decoded.pass.found)?;
    if correct != decoded.pass.wanted {
        report.n_decoded += reading.read_again(correct, decoded.pass.found.len())?;
    }
    Ok(report)
}

/// A finished pass through all frames of a source.
struct DecodedSource {
    source: Box<dyn FrameSource>,
    pass: DecodingPass,
    flow: Flow,
}

impl DecodedSource {
    fn report(&self) -> ReadReport {
        self.pass.report(&*self.source)
    }

    /// Returns the report, or the error of a video or a window without frames.
    fn finish(&self) -> Result<ReadReport, Error> {
        self.pass.finish(&*self.source)
    }
}

/// A reading of a video for a request.
struct RequestReading<'r, 'w, 'e> {
    path: &'r Path,
    request: &'r FrameRequest,
    watch: &'w mut ReadWatch<'e>,
}

impl RequestReading<'_, '_, '_> {
    fn pass(&self, wanted: Vec<usize>) -> DecodingPass {
        DecodingPass::new(self.path, self.request, wanted)
    }

    fn open(&self) -> Result<Box<dyn FrameSource>, Error> {
        let (path, request, timer) = (self.path, self.request, &self.watch.timer);
        match path.is_dir() {
            true => Ok(Box::new(ImageDirectory::open(path, request, timer)?)),
            false => Ok(Box::new(VideoFile::open(path, request.stream, &self.watch.limits, timer)?)),
        }
    }

    /// Decodes all frames. Where several threads meet damage, emitted frames are taken back, and this and all later
    /// passes use one thread, so that a damaged file gives the same frames at every reading.
    fn decode(&mut self, template: &DecodingPass) -> Result<DecodedSource, Error> {
        let mut n_before = 0;
        loop {
            let mut pass = template.clone();
            pass.n_before = n_before;
            let mut source = self.open()?;
            let flow = pass.run(&mut *source, self.watch)?;
            if flow == Flow::Stop || !source.is_doubtful() {
                return Ok(DecodedSource { source, pass, flow });
            }
            self.watch.limits.threads = 1;
            n_before += pass.n_frames;
            if pass.n_taken > 0 && self.watch.emit(ReadEvent::Restart) == Flow::Stop {
                return Ok(DecodedSource { source, pass, flow: Flow::Stop });
            }
        }
    }

    /// Decodes only the packets that the wanted frames need, of `n_inside` frames in the window. `None` where that
    /// saves little or is not exact; emitted frames are then taken back.
    fn read_by_seeking(
        &mut self,
        indexed: IndexedFile,
        wanted: &[usize],
        n_inside: usize,
    ) -> Result<Option<ReadReport>, Error> {
        let (packets, access) = (&indexed.packets, self.watch.limits.access);
        let by_flags = matches!(self.request.sample, Sample::Keyframes(_));
        if access == Access::Straight || wanted.is_empty() || by_flags && !packets.flags_are_entries() {
            return Ok(None);
        }
        let frames: Vec<usize> = wanted.iter().map(|index| indexed.first_inside + index).collect();
        let runs = packets.runs(&frames);
        let saved = packets.len().saturating_sub(cost(&runs)) as u64;
        if access == Access::Auto && saved * indexed.n_pixels < MIN_SAVED {
            return Ok(None);
        }
        let time = |frame: usize| indexed.time(packets.of_frame(frame).pts);
        let times = Some((time(0), time(packets.n_shown() - 1)));
        let counted = ReadReport { n_frames: packets.n_shown(), n_inside, times, ..ReadReport::default() };
        match fetch(self.path, indexed, &runs, self.watch)? {
            Fetched::All { n_decoded, damage } => Ok(Some(ReadReport { n_decoded, damage, ..counted })),
            Fetched::Stopped => Ok(Some(counted)),
            Fetched::Doubtful if self.watch.emit(ReadEvent::Restart) == Flow::Stop => Ok(Some(counted)),
            Fetched::Doubtful => Ok(None),
        }
    }

    /// Takes back the emitted frames, and reads `wanted` of the `n_found` frames that a pass found. Returns the number
    /// of decoded frames.
    fn read_again(&mut self, wanted: Vec<usize>, n_found: usize) -> Result<usize, Error> {
        if self.watch.emit(ReadEvent::Restart) == Flow::Stop {
            return Ok(0);
        }
        let mut again = self.pass(wanted);
        again.last_needed = again.wanted.last().copied();
        let DecodedSource { pass, flow, .. } = self.decode(&again)?;
        if flow == Flow::Continue && pass.n_taken < pass.wanted.len() {
            let n = pass.found.len();
            let rule = format!("it decodes differently from one reading to the next: {n_found} frames, then {n}");
            return Err(Error::new(Kind::Unstable, rule).with_hint("repair it with `ffmpeg -i`").about(self.path));
        }
        Ok(pass.n_before + pass.n_frames)
    }

    /// Reads for a rule that needs the histograms of all frames, in two passes.
    fn read_with_histograms(&mut self) -> Result<ReadReport, Error> {
        let mut pass = self.pass(Vec::new());
        pass.takes_histograms = true;
        let decoded = self.decode(&pass)?;
        if decoded.flow == Flow::Stop {
            return Ok(decoded.report());
        }
        let mut report = decoded.finish()?;
        let wanted = self.select(&decoded.pass.found)?;
        report.n_decoded += self.read_again(wanted, decoded.pass.found.len())?;
        Ok(report)
    }

    fn select(&self, timeline: &Timeline) -> Result<Vec<usize>, Error> {
        self.request.sample.select(timeline).about(self.path)
    }
}

/// Counts the decodable frames of a stream, by default the best video stream, by decoding all. `progress` receives
/// events.
///
/// # Errors
/// See [`read_frames`].
pub fn count_frames(
    path: &Path,
    stream: Option<usize>,
    bounds: impl Into<Bounds>,
    progress: &mut dyn FnMut(ReadEvent) -> Flow,
) -> Result<ReadReport, Error> {
    let request = FrameRequest { stream, ..FrameRequest::new(Sample::All, Window::default()) };
    let watch = &mut ReadWatch::new(bounds.into(), progress);
    let Scanned { timeline, hides_damage, .. } = Scanned::read(path, &request, watch)?;
    if hides_damage {
        watch.limits.threads = 1;
    }
    watch.emit(ReadEvent::Expected { n_frames: timeline.len(), n_sampled: 0, is_single_image: false });
    let mut reading = RequestReading { path, request: &request, watch };
    let pass = reading.pass(Vec::new());
    reading.decode(&pass)?.finish()
}
