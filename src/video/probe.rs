//! What a container says of itself: header facts, apart from the facts that decoding finds.

use std::path::{Path, PathBuf};

use super::limits::Bounds;
use super::{images, streams};
use crate::error::Error;
use crate::units::Seconds;

/// The header facts of a video argument.
#[derive(Debug, Clone)]
pub struct VideoInfo {
    /// The video argument.
    pub path: PathBuf,
    /// The container's name, such as `QuickTime / MOV`.
    pub container: String,
    /// The duration that the header claims.
    pub duration: Option<Seconds>,
    /// All streams, in file order.
    pub streams: Vec<StreamInfo>,
    /// The index in `streams` of the one that is decoded: the one asked for, or FFmpeg's *best* video stream. `None`
    /// for an audio file whose only pictures are covers.
    pub best: Option<usize>,
}

/// The header facts of one stream.
#[derive(Debug, Clone)]
pub struct StreamInfo {
    /// Video, audio and so on.
    pub kind: StreamKind,
    /// The codec's name, such as `h264`.
    pub codec: String,
    /// The picture, for a video stream.
    pub picture: Option<PictureInfo>,
    /// The frame count that the header claims; never trusted for sampling.
    pub declared_frames: Option<usize>,
}

/// The kind of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum StreamKind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
    /// Text or pictures laid over the video.
    Subtitle,
    /// Anything else.
    #[strum(to_string = "data")]
    Other,
}

impl StreamKind {
    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The picture of a video stream, as coded.
#[derive(Debug, Clone)]
pub struct PictureInfo {
    /// Coded width in pixels, before rotation.
    pub width: u32,
    /// Coded height in pixels, before rotation.
    pub height: u32,
    /// Width to height of a pixel, where they differ. Frames are given pixel by pixel.
    pub pixel_aspect: Option<(i32, i32)>,
    /// FFmpeg's name of the pixel format, such as `yuv420p10le`.
    pub pixel_format: String,
    /// The colour matrix and range, such as `bt709, limited`.
    pub colour: String,
    /// The transfer and primaries of a video of high dynamic range, whose values are taken as they are.
    pub dynamic_range: Option<String>,
    /// The order of the fields of an interlaced video, whose frames are taken whole.
    pub fields: Option<&'static str>,
    /// The average rate that the header claims, in frames a second.
    pub frame_rate: Option<f64>,
    /// The rotation metadata in words; `None` when the picture stands upright.
    pub rotation: Option<&'static str>,
    /// Whether it is one attached picture, such as an album's cover.
    pub is_cover: bool,
}

/// Reads the header facts of a media file, or of a directory of images. `stream` is the index of the one to be decoded,
/// if it is chosen.
///
/// # Errors
/// [`Error`] when there is nothing to read or nothing readable in it, or no such video stream.
pub fn probe(path: &Path, stream: Option<usize>, bounds: impl Into<Bounds>) -> Result<VideoInfo, Error> {
    match path.is_dir() {
        true => images::probe(path, stream),
        false => streams::probe(path, stream, bounds.into()),
    }
}
