//! A video to visual tokens: decode and preprocess on one thread, encode and aggregate on the caller's.
//!
//! The two are joined by a bounded channel, so only a few prepared frames wait, and the memory of a run does
//! not depend on the length of the video.

use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;

use super::timing::timed;
use super::{PipelineError, Timings};
use crate::temporal::{self, Temporal};
use crate::units::{FrameIndex, Seconds};
use crate::video::{Event, Flow, Frame, FrameRequest, ReadReport, read_frames};
use crate::vlm::{ModelError, Vlm};
use candle_core::Tensor;

/// Prepared frames that may wait for the tower.
const CAPACITY: usize = 2;

/// What a listener hears while a video is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// This many frames are expected to decode.
    Expected {
        /// Counted by packets.
        n_frames: usize,
    },
    /// So many frames are decoded.
    Decoded {
        /// From the beginning of the video.
        n_frames: usize,
    },
    /// So many sampled frames are encoded.
    Encoded {
        /// From the first sampled frame.
        n_frames: usize,
    },
}

/// Which frame was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FrameStamp {
    /// Place among the decodable frames.
    pub index: FrameIndex,
    /// Its own timestamp.
    pub time_seconds: Option<Seconds>,
}

/// A video as the language model sees it.
#[derive(Debug)]
pub struct EncodedVideo {
    /// `(V, H)`.
    pub visual: Tensor,
    /// The frames behind it, in time order.
    pub frames: Vec<FrameStamp>,
    /// What reading found.
    pub report: ReadReport,
    /// The strategy that aggregated them.
    pub temporal: Temporal,
    /// Time spent on it.
    pub timings: Timings,
}

/// From the decoding thread to the encoding one.
enum Message {
    Progress(Progress),
    Frame(FrameStamp, Vec<f32>),
    Restart,
}

/// Busy times of the decoding thread.
#[derive(Default)]
struct DecodeTimes {
    preprocess: Duration,
    waiting: Duration,
}

/// Reads, encodes and aggregates the frames that `request` chooses.
///
/// # Errors
/// When the video cannot be read, or a frame cannot be prepared or encoded.
pub fn encode_video(
    vlm: &Vlm,
    path: &Path,
    request: &FrameRequest,
    temporal: Temporal,
    listen: &mut dyn FnMut(Progress),
) -> Result<EncodedVideo, PipelineError> {
    let (sender, receiver) = bounded(CAPACITY);
    let (encoded, decoded) = std::thread::scope(|scope| {
        let decoding = std::thread::Builder::new().name("decode".to_owned());
        let decoding = decoding.spawn_scoped(scope, move || decode(vlm, path, request, &sender));
        let encoded = encode(vlm, temporal, receiver, listen);
        let decoded = decoding.map(std::thread::ScopedJoinHandle::join);
        (encoded, decoded)
    });
    let panicked = || PipelineError::Panic { stage: "decode" };
    // A failure to decode is the cause of whatever encoding then missed.
    let (report, times, busy) = decoded.map_err(|_| panicked())?.map_err(|_| panicked())??;
    let (visual, frames, mut timings) = encoded?;
    timings.preprocess = times.preprocess;
    timings.decode = busy.saturating_sub(times.preprocess + times.waiting);
    Ok(EncodedVideo { visual, frames, report, temporal, timings })
}

type Decoded = (ReadReport, DecodeTimes, Duration);

/// The decoding thread: ends when the video does, or when nobody listens any more.
fn decode(vlm: &Vlm, path: &Path, request: &FrameRequest, sender: &Sender<Message>) -> Result<Decoded, PipelineError> {
    let start = Instant::now();
    let mut times = DecodeTimes::default();
    let mut failure = None;
    let report = read_frames(path, request, &mut |event| {
        let message = match event {
            Event::Expected { n_frames } => Message::Progress(Progress::Expected { n_frames }),
            Event::Progress { n_decoded } => Message::Progress(Progress::Decoded { n_frames: n_decoded }),
            Event::Restart => Message::Restart,
            Event::Frame(Frame { index, time, image }) => match timed(&mut times.preprocess, || vlm.prepare(image)) {
                Ok(pixels) => Message::Frame(FrameStamp { index, time_seconds: time }, pixels),
                Err(error) => {
                    failure = Some(error);
                    return Flow::Stop;
                }
            },
        };
        match timed(&mut times.waiting, || sender.send(message)) {
            Ok(()) => Flow::Continue,
            Err(_) => Flow::Stop,
        }
    })?;
    match failure {
        Some(error) => Err(error.into()),
        None => Ok((report, times, start.elapsed())),
    }
}

type Encoded = (Tensor, Vec<FrameStamp>, Timings);

/// The encoding side: ends when the channel closes.
fn encode(
    vlm: &Vlm,
    temporal: Temporal,
    receiver: Receiver<Message>,
    listen: &mut dyn FnMut(Progress),
) -> Result<Encoded, ModelError> {
    let mut encoder = Encoder::new(vlm, temporal);
    for message in receiver {
        match message {
            Message::Progress(progress) => listen(progress),
            Message::Restart => encoder = Encoder::new(vlm, temporal),
            Message::Frame(stamp, pixels) => {
                encoder.push(stamp, pixels)?;
                listen(Progress::Encoded { n_frames: encoder.frames.len() });
            }
        }
    }
    encoder.finish()
}

/// The tower, the projector and the aggregation over the frames so far.
struct Encoder<'m> {
    vlm: &'m Vlm,
    fold: Box<dyn temporal::Fold>,
    frames: Vec<FrameStamp>,
    waiting: Vec<Vec<f32>>,
    timings: Timings,
}

impl<'m> Encoder<'m> {
    fn new(vlm: &'m Vlm, temporal: Temporal) -> Self {
        let (frames, waiting) = (Vec::new(), Vec::new());
        Self { vlm, fold: temporal.begin(), frames, waiting, timings: Timings::default() }
    }

    /// Frames that go through the tower together: one keeps a CPU busy, a GPU wants more.
    fn batch(&self) -> usize {
        if self.vlm.device().is_cpu() { 1 } else { 8 }
    }

    fn push(&mut self, stamp: FrameStamp, pixels: Vec<f32>) -> Result<(), ModelError> {
        self.frames.push(stamp);
        self.waiting.push(pixels);
        if self.waiting.len() >= self.batch() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ModelError> {
        let pixels = self.vlm.pixels(std::mem::take(&mut self.waiting))?; // (t, 3, side, side)
        let fused = timed(&mut self.timings.encode, || self.vlm.fuse(&pixels))?; // (t, N', k D)
        timed(&mut self.timings.connect, || {
            let tokens = self.vlm.project(&fused)?; // (t, N', H)
            self.fold.push(&tokens).map_err(ModelError::compute("aggregating frames"))
        })
    }

    fn finish(mut self) -> Result<Encoded, ModelError> {
        if !self.waiting.is_empty() {
            self.flush()?;
        }
        let fold = self.fold;
        let visual = timed(&mut self.timings.connect, || fold.finish()); // (V, H)
        Ok((visual.map_err(ModelError::compute("aggregating frames"))?, self.frames, self.timings))
    }
}
