//! Header facts of a container and its streams, as opposed to the facts that decoding finds. Called by `inspect`.

use std::path::{Path, PathBuf};

use super::limits::Bounds;
use super::{images, streams};
use crate::error::Error;
use crate::units::Seconds;

/// Header facts of a video argument.
#[derive(Debug, Clone)]
pub struct VideoInfo {
    /// Path of the video argument.
    pub path: PathBuf,
    /// Name of the container, such as `QuickTime / MOV`.
    pub container: String,
    /// Duration by the header.
    pub duration: Option<Seconds>,
    /// All streams, in file order.
    pub streams: Vec<StreamInfo>,
    /// Index in `streams` of the decoded stream: the requested stream, or FFmpeg's *best* video stream. `None` for an
    /// audio file whose only images are covers.
    pub best: Option<usize>,
}

/// Header facts of one stream.
#[derive(Debug, Clone)]
pub struct StreamInfo {
    /// Kind of the stream.
    pub kind: StreamKind,
    /// Name of the codec, such as `h264`.
    pub codec: String,
    /// Properties of the frames, for a video stream.
    pub frame: Option<FrameInfo>,
    /// Number of frames by the header; never used for sampling.
    pub declared_frames: Option<usize>,
}

/// Kind of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum StreamKind {
    /// Video or an attached image.
    Video,
    /// Audio.
    Audio,
    /// Subtitles, as text or images.
    Subtitle,
    /// Anything else.
    #[strum(to_string = "data")]
    Other,
}

impl StreamKind {
    /// Name in lower case.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Properties of the frames of a video stream, as coded.
#[derive(Debug, Clone)]
pub struct FrameInfo {
    /// Coded width in pixels, before rotation.
    pub width: u32,
    /// Coded height in pixels, before rotation.
    pub height: u32,
    /// Aspect ratio of a pixel, width to height, unless it is square. Frames are not rescaled by it.
    pub pixel_aspect: Option<(i32, i32)>,
    /// FFmpeg's name for the pixel format, such as `yuv420p10le`.
    pub pixel_format: String,
    /// Colour matrix and range, such as `bt709, limited`.
    pub colour: String,
    /// Transfer and primaries of a video of high dynamic range, whose values are not tone-mapped.
    pub dynamic_range: Option<String>,
    /// Field order of an interlaced video, whose frames are not deinterlaced.
    pub fields: Option<&'static str>,
    /// Average rate by the header, in frames a second.
    pub frame_rate: Option<f64>,
    /// Rotation metadata in words; `None` for upright frames.
    pub rotation: Option<&'static str>,
    /// Whether the stream is an attached image, such as an album's cover.
    pub is_cover: bool,
}

/// Reads the header facts of a media file, or of a directory of images. `stream` is the index of the stream to
/// decode; `None` for the best one.
///
/// # Errors
/// [`Error`] for a missing or unreadable file, and for a missing stream.
pub fn probe(path: &Path, stream: Option<usize>, bounds: impl Into<Bounds>) -> Result<VideoInfo, Error> {
    let bounds = bounds.into();
    match path.is_dir() {
        true => images::probe(path, stream, &bounds.limits),
        false => streams::probe(path, stream, bounds),
    }
}
