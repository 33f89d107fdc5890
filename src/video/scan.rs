//! Scan of a video's packets, before a frame is decoded. They are read once: a scan that was made to check a
//! request is handed on to the reading, with the file as it stands open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::demux::{self, Indexed, Scan};
use super::limits::{Bounds, Spent, Watch};
use super::reader::{Event, Flow, FrameRequest};
use super::sample::Timeline;
use super::{Sample, images};
use crate::error::{About, Error};

/// A video whose packets were read.
pub struct Scanned {
    pub(super) path: PathBuf,
    pub(super) request: FrameRequest,
    /// The frames that the window is expected to hold.
    pub(super) timeline: Timeline,
    /// Index by which single frames are fetched, where that can be done exactly.
    pub(super) indexed: Option<Indexed>,
    /// Whether one thread alone decodes the same frames each time.
    pub(super) hides_damage: bool,
    /// Upright width and height of an input that is one still image.
    pub(super) single_image: Option<(u32, u32)>,
    file: Option<FileFacts>,
    spent: Arc<Spent>,
    ended: Instant,
}

/// Length of a file and time of its last change.
type FileFacts = (u64, Option<SystemTime>);

/// Reads the packets of a video, without decoding.
///
/// # Errors
/// When the video cannot be opened.
pub fn scan(path: &Path, request: &FrameRequest, bounds: impl Into<Bounds>) -> Result<Scanned, Error> {
    Scanned::read(path, request, &mut Watch::new(bounds.into(), &mut |_| Flow::Continue))
}

impl Scanned {
    pub(super) fn read(path: &Path, request: &FrameRequest, watch: &mut Watch<'_>) -> Result<Self, Error> {
        let file = facts(path);
        let Scan { timeline, indexed, hides_damage, single_image } = match path.is_dir() {
            true => Scan {
                timeline: images::timeline(path, request)?,
                indexed: None,
                hides_damage: false,
                single_image: images::single_image(path, &watch.spent)?,
            },
            false => demux::scan(path, request, watch)?,
        };
        let (path, request, spent) = (path.to_owned(), request.clone(), watch.spent.clone());
        Ok(Self { path, request, timeline, indexed, hides_damage, single_image, file, spent, ended: Instant::now() })
    }

    /// Number of frames that the request is expected to give; the most that a rule can give which must see the frames
    /// first.
    ///
    /// # Errors
    /// When the video is too short for the sampling rule.
    pub fn n_sampled(&self) -> Result<usize, Error> {
        if self.request.sample.needs_histograms() {
            return Ok(most_sampled(&self.request.sample, self.timeline.len()));
        }
        let selected = self.request.sample.select(&self.timeline);
        selected.map(|indices| indices.len()).about(&*self.path)
    }

    /// Upright width and height of an input that is one still image: a directory with one image, or an image file. A
    /// video of one frame is none.
    pub fn single_image(&self) -> Option<(u32, u32)> {
        self.single_image
    }

    /// Whether it was made of this video for this request.
    pub fn is_of(&self, path: &Path, request: &FrameRequest) -> bool {
        self.path == path && self.request == *request
    }

    /// Whether the file has not changed since.
    pub(super) fn is_current(&self) -> bool {
        self.file.is_some() && self.file == facts(&self.path)
    }

    /// Time that it took.
    pub fn took(&self) -> Duration {
        self.spent.worked().saturating_sub(self.ended.elapsed())
    }

    /// A consumer of the reading that goes on from here.
    pub(super) fn resume<'e>(&self, bounds: Bounds, emit: &'e mut dyn FnMut(Event) -> Flow) -> Watch<'e> {
        Watch::resume((self.spent.clone(), self.ended.elapsed()), bounds, emit)
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

/// The most frames that a rule can give which must see the frames first.
pub(super) fn most_sampled(sample: &Sample, n_frames: usize) -> usize {
    match sample {
        Sample::Scene(scene) => scene.frames.min(n_frames),
        _ => n_frames,
    }
}
