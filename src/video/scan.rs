//! Scan of a video's packets, before a frame is decoded.
//!
//! Packets are read once: a scan made to check a request is passed on to the reading, with the open file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::demux::{self, IndexedFile, PacketScan};
use super::limits::Bounds;
use super::request::{Flow, FrameRequest, ReadEvent, ReadingForecast};
use super::sample::Timeline;
use super::timer::{ReadTimer, ReadWatch};
use super::{Sample, images};
use crate::error::{About, Error};

/// A scanned video: packets read, no frame decoded.
pub struct Scanned {
    pub(super) path: PathBuf,
    pub(super) request: FrameRequest,
    /// Expected frames of the window.
    pub(super) timeline: Timeline,
    /// Packet index for seeking, where seeking is exact.
    pub(super) indexed: Option<IndexedFile>,
    /// Whether damage may go unnoticed with several threads, so that only one thread decodes reproducibly.
    pub(super) hides_damage: bool,
    /// Upright width and height of an input that is one still image.
    pub(super) single_image: Option<(u32, u32)>,
    /// Length and time of the file at the scan.
    file: Option<FileFacts>,
    timer: Arc<ReadTimer>,
    ended: Instant,
}

/// Length of a file and time of its last change.
type FileFacts = (u64, Option<SystemTime>);

/// Scans the packets of a video.
///
/// # Errors
/// When the video cannot be opened, or is not a directory and has an image rate.
pub fn scan(path: &Path, request: &FrameRequest, bounds: impl Into<Bounds>) -> Result<Scanned, Error> {
    Scanned::read(path, request, &mut ReadWatch::new(bounds.into(), &mut |_| Flow::Continue))
}

impl Scanned {
    pub(super) fn read(path: &Path, request: &FrameRequest, watch: &mut ReadWatch<'_>) -> Result<Self, Error> {
        if let Some(rate) = request.image_rate {
            rate.check_directory(path)?;
        }
        let file = facts(path);
        let PacketScan { timeline, indexed, hides_damage, single_image } = match path.is_dir() {
            true => PacketScan {
                timeline: images::timeline(path, request, &watch.limits)?,
                indexed: None,
                hides_damage: false,
                single_image: images::single_image(path, &watch.timer)?,
            },
            false => demux::scan(path, request, watch)?,
        };
        let (path, request, timer) = (path.to_owned(), request.clone(), watch.timer.clone());
        Ok(Self { path, request, timeline, indexed, hides_damage, single_image, file, timer, ended: Instant::now() })
    }

    /// Number of frames that the request is expected to give; the maximum for a rule that needs histograms.
    ///
    /// # Errors
    /// When the video is too short for the sampling rule.
    pub fn n_sampled(&self) -> Result<usize, Error> {
        if self.request.sample.needs_histograms() {
            return Ok(max_sampled(&self.request.sample, self.timeline.len()));
        }
        let selected = self.request.sample.select(&self.timeline);
        selected.map(|indices| indices.len()).about(&*self.path)
    }

    /// Returns the forecast of the reading.
    ///
    /// # Errors
    /// See [`Self::n_sampled`].
    pub fn forecast(&self) -> Result<ReadingForecast, Error> {
        let size = self.single_image;
        let (n_frames, n_sampled) = (self.timeline.len(), self.n_sampled()?);
        Ok(ReadingForecast { n_frames, n_sampled, is_single_image: size.is_some(), size })
    }

    /// Upright width and height of an input that is one still image: a directory with one image, or an image file;
    /// `None` for a video of one frame.
    pub fn single_image(&self) -> Option<(u32, u32)> {
        self.single_image
    }

    /// Returns whether the scan was made of this video for this request.
    pub(crate) fn is_of(&self, path: &Path, request: &FrameRequest) -> bool {
        self.path == path && self.request == *request
    }

    /// Returns whether the file is unchanged since the scan.
    pub(super) fn is_current(&self) -> bool {
        self.file.is_some() && self.file == facts(&self.path)
    }

    /// Duration of the scan.
    pub fn took(&self) -> Duration {
        self.timer.worked().saturating_sub(self.ended.elapsed())
    }

    /// Resumes the reading for a consumer.
    pub(super) fn resume<'e>(&self, bounds: Bounds, emit: &'e mut dyn FnMut(ReadEvent) -> Flow) -> ReadWatch<'e> {
        ReadWatch::resume(self.timer.clone(), self.ended.elapsed(), bounds, emit)
    }
}

impl std::fmt::Debug for Scanned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (n_frames, is_indexed) = (self.timeline.len(), self.indexed.is_some());
        write!(f, "Scanned {{ path: {:?}, n_frames: {n_frames}, is_indexed: {is_indexed} }}", self.path)
    }
}

fn facts(path: &Path) -> Option<FileFacts> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.len(), meta.modified().ok()))
}

/// Returns the maximum number of frames of a rule that needs histograms.
pub(super) fn max_sampled(sample: &Sample, n_frames: usize) -> usize {
    match sample {
        Sample::Scene(scene) => scene.frames.min(n_frames),
        _ => n_frames,
    }
}
