//! Benchmark of reading sampled frames of a video.

use std::path::Path;

use serde::Serialize;

use super::{median_seconds, memory_peak};
use crate::error::Error;
use crate::video::{Flow, Frame, FrameRequest, ReadEvent, ReadLimits, read_frames};

/// Measurements of reading.
#[derive(Debug, Clone, Serialize)]
pub struct VideoBench {
    /// Frames of the video.
    pub video_frames: usize,
    /// Frames that were decoded for the sampled ones.
    pub decoded_frames: usize,
    /// Runs of which the median is taken.
    pub runs: usize,
    /// Seconds from opening the file to the last frame in RGB.
    pub seconds: f64,
    /// Indices of the sampled frames.
    pub indices: Vec<usize>,
    /// Mean value of each sampled frame.
    pub mean_rgb: Vec<f64>,
    /// Peak memory of the process.
    pub memory_peak_bytes: Option<u64>,
}

/// Times the reading of the requested frames.
///
/// # Errors
/// When the video cannot be read.
pub fn bench_video(path: &Path, request: &FrameRequest, limits: &ReadLimits, runs: usize) -> Result<VideoBench, Error> {
    let (mut frames, mut report) = (Vec::new(), None);
    let seconds = median_seconds(runs, || {
        frames.clear();
        report = Some(read_frames(path, request, limits, &mut |event| {
            match event {
                ReadEvent::Frame(frame) => frames.push(frame),
                ReadEvent::Restart => frames.clear(),
                ReadEvent::Expected { .. } | ReadEvent::Progress { .. } | ReadEvent::Waiting => {}
            }
            Flow::Continue
        })?);
        Ok::<_, Error>(())
    })?;
    let report = report.unwrap_or_default();
    Ok(VideoBench {
        video_frames: report.n_frames,
        decoded_frames: report.n_decoded,
        runs,
        seconds,
        indices: frames.iter().map(|frame: &Frame| frame.index.0).collect(),
        mean_rgb: frames.iter().map(|frame| mean(frame.image.as_raw())).collect(),
        memory_peak_bytes: memory_peak(),
    })
}

fn mean(values: &[u8]) -> f64 {
    values.iter().map(|&x| u64::from(x)).sum::<u64>() as f64 / values.len().max(1) as f64
}
