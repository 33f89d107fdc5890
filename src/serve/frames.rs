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
use crate::video::{Bounds, Flow, Frame, FrameRequest, Halt, ReadEvent, ReadLimits};

/// Longer side of an image, in pixels.
const SIDE: u32 = 320;
/// Quality of the JPEG images.
const QUALITY: u8 = 80;
/// Frames at most.
const MAX_FRAMES: usize = 256;
/// Bytes of a frame as RGB at most: 44 million pixels, above 8K. Up to three frames of a reading are in memory.
const FRAME_BYTES: u64 = 128 << 20;

/// Isolation, limits and end of a reading.
#[derive(Debug, Clone)]
pub struct FrameReading<'r> {
    /// Isolation of decoding.
    pub isolation: &'r Isolation,
    /// Limits.
    pub limits: &'r Limits,
    /// Request to stop.
    pub halt: Halt,
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

/// Reads the frames of a request, at most 256, in a process of their own. Each is scaled down as it arrives.
///
/// # Errors
/// Errors of reading; [`Kind::FrameSize`] for frames of more than 128 MiB as RGB; [`Kind::NoConversion`] for a frame
/// that is not encoded.
pub fn frame_thumbnails(
    path: &Path,
    request: &FrameRequest,
    reading: &FrameReading<'_>,
) -> Result<Vec<FrameThumbnail>> {
    let (mut frames, mut failure) = (Vec::new(), None);
    let bounds = Bounds { limits: read_limits(reading.limits), halt: reading.halt.clone() };
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

fn read_limits(limits: &Limits) -> ReadLimits {
    ReadLimits { threads: 0, frame_bytes: limits.frame_bytes.min(FRAME_BYTES), ..limits.of_scan() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_a_limit_of_their_own_below_that_of_videos() {
        let mut limits = Limits::default();
        assert_eq!(read_limits(&limits).frame_bytes, 128 << 20);
        limits.frame_bytes = 1 << 20;
        assert_eq!(read_limits(&limits).frame_bytes, 1 << 20);
    }
}
