//! Frames of a video as small images, for people who want to see what the model sees.

use std::path::Path;

use ::image::codecs::jpeg::JpegEncoder;
use ::image::imageops::thumbnail;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::pipeline::Limits;
use crate::units::{FrameIndex, Seconds};
use crate::video::worker::{Isolation, Worker};
use crate::video::{Bounds, Flow, Frame, FrameRequest, ReadEvent, ReadLimits};

/// Longer side of an image, in pixels.
const SIDE: u32 = 320;
/// Quality of the JPEG images.
const QUALITY: u8 = 80;
/// Frames at most.
const MAX_FRAMES: usize = 256;

/// Isolation and limits of a reading.
#[derive(Debug, Clone, Copy)]
pub struct FrameReading<'r> {
    /// Isolation of decoding.
    pub isolation: &'r Isolation,
    /// Limits.
    pub limits: &'r Limits,
}

/// A frame as a small image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FrameThumbnail {
    /// Index among the decodable frames, in presentation order.
    pub index: FrameIndex,
    /// Presentation time.
    pub time_seconds: Option<Seconds>,
    /// JPEG image as a `data:` URI.
    pub jpeg: String,
}

/// Reads the frames of a request, at most 256, in a process of their own.
///
/// # Errors
/// Those of reading; [`Kind::NoConversion`] for a frame that is not encoded.
pub fn frame_thumbnails(
    path: &Path,
    request: &FrameRequest,
    reading: &FrameReading<'_>,
) -> Result<Vec<FrameThumbnail>> {
    let (mut frames, mut failure) = (Vec::new(), None);
    let limits = ReadLimits { threads: 0, ..reading.limits.of_scan() };
    let bounds = Bounds { limits, ..Bounds::default() };
    let read = Worker::new(reading.isolation).read_frames(path, request, &bounds, &mut |event| {
        match event {
            ReadEvent::Restart => frames.clear(),
            ReadEvent::Frame(frame) => match encode(&frame) {
                Ok(frame) => frames.push(frame),
                Err(error) => failure = Some(error),
            },
            ReadEvent::Expected { .. } | ReadEvent::Progress { .. } | ReadEvent::Waiting => {}
        }
        if failure.is_some() || frames.len() == MAX_FRAMES { Flow::Stop } else { Flow::Continue }
    });
    match failure {
        Some(error) => Err(error),
        None => read.map(|_| frames),
    }
}

fn encode(frame: &Frame) -> Result<FrameThumbnail> {
    let (width, height) = frame.image.dimensions();
    let scale = (f64::from(SIDE) / f64::from(width.max(height)).max(1.0)).min(1.0);
    let side = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
    let small = thumbnail(&frame.image, side(width), side(height));
    let mut jpeg = Vec::new();
    let encoded = JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&small);
    encoded.map_err(|error| Error::caused_by(Kind::NoConversion, error))?;
    let jpeg = format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg));
    Ok(FrameThumbnail { index: frame.index, time_seconds: frame.time, jpeg })
}
