//! A video to visual tokens: decode and preprocess on one thread, encode and aggregate on the caller's.
//!
//! The two are joined by a bounded channel, so only a few prepared frames wait, and the memory of a run does
//! not depend on the length of the video.

use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;

use super::timing::timed;
use super::views::ViewMaker;
use super::{PipelineError, Timings};
use crate::temporal::{self, Place, Temporal};
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
    Frame(FrameStamp),
    /// An image for the tower: a frame's, or one of several frames.
    Image(Vec<f32>),
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
        let decoding = decoding.spawn_scoped(scope, move || decode(vlm, path, request, temporal, &sender));
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
fn decode(
    vlm: &Vlm,
    path: &Path,
    request: &FrameRequest,
    temporal: Temporal,
    sender: &Sender<Message>,
) -> Result<Decoded, PipelineError> {
    let start = Instant::now();
    let mut times = DecodeTimes::default();
    let mut failure = None;
    let new_views = || ViewMaker::new(temporal.views(), vlm.tower().config().image_size);
    let mut views = new_views();
    let send = |waiting: &mut Duration, message| timed(waiting, || sender.send(message)).map_err(|_| Flow::Stop);
    let report = read_frames(path, request, &mut |event| {
        let DecodeTimes { preprocess, waiting } = &mut times;
        let sent = match event {
            Event::Expected { n_frames } => send(waiting, Message::Progress(Progress::Expected { n_frames })),
            Event::Progress { n_decoded } => {
                send(waiting, Message::Progress(Progress::Decoded { n_frames: n_decoded }))
            }
            Event::Restart => {
                views = new_views();
                send(waiting, Message::Restart)
            }
            Event::Frame(Frame { index, time, image }) => {
                let view = timed(preprocess, || views.push(image).map(|image| vlm.prepare(image)).transpose());
                match view {
                    Ok(view) => send(waiting, Message::Frame(FrameStamp { index, time_seconds: time }))
                        .and_then(|()| view.map_or(Ok(()), |pixels| send(waiting, Message::Image(pixels)))),
                    Err(error) => {
                        failure = Some(error);
                        Err(Flow::Stop)
                    }
                }
            }
        };
        sent.map_or_else(|flow| flow, |()| Flow::Continue)
    })?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    let wrong = |rule| ModelError::Frames { path: path.to_owned(), rule };
    let last =
        timed(&mut times.preprocess, || views.finish().map_err(wrong)?.map(|image| vlm.prepare(image)).transpose())?;
    if let Some(pixels) = last {
        // Nobody may be listening any more, which is no error.
        let _ = send(&mut times.waiting, Message::Image(pixels));
    }
    Ok((report, times, start.elapsed()))
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
            Message::Frame(stamp) => {
                encoder.frames.push(stamp);
                listen(Progress::Encoded { n_frames: encoder.frames.len() });
            }
            Message::Image(pixels) => encoder.push(pixels)?,
        }
    }
    encoder.finish()
}

/// The tower, the projector and the aggregation over the frames so far.
struct Encoder<'m> {
    vlm: &'m Vlm,
    fold: Box<dyn temporal::Fold>,
    place: Place,
    frames: Vec<FrameStamp>,
    waiting: Vec<Vec<f32>>,
    timings: Timings,
}

impl<'m> Encoder<'m> {
    fn new(vlm: &'m Vlm, temporal: Temporal) -> Self {
        let (frames, waiting) = (Vec::new(), Vec::new());
        Self {
            vlm,
            fold: temporal.begin(vlm.frame_tokens()),
            place: temporal.place(),
            frames,
            waiting,
            timings: Timings::default(),
        }
    }

    /// Frames that go through the tower together: one keeps a CPU busy, a GPU wants more.
    fn batch(&self) -> usize {
        if self.vlm.device().is_cpu() { 1 } else { 8 }
    }

    fn push(&mut self, pixels: Vec<f32>) -> Result<(), ModelError> {
        self.waiting.push(pixels);
        if self.waiting.len() >= self.batch() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ModelError> {
        let pixels = self.vlm.pixels(std::mem::take(&mut self.waiting))?; // (t, 3, side, side)
        let fused = timed(&mut self.timings.encode, || self.vlm.fuse(&pixels))?; // (t, N', k D)
        timed(&mut self.timings.connect, || {
            let tokens = match self.place {
                Place::BeforeProjector => fused,
                Place::AfterProjector => self.vlm.project(&fused)?, // (t, N', H)
            };
            self.fold.push(&tokens).map_err(ModelError::compute("aggregating frames"))
        })
    }

    fn finish(mut self) -> Result<Encoded, ModelError> {
        if !self.waiting.is_empty() {
            self.flush()?;
        }
        let (vlm, fold, place) = (self.vlm, self.fold, self.place);
        let visual = timed(&mut self.timings.connect, || {
            let folded = fold.finish().map_err(ModelError::compute("aggregating frames"))?;
            match place {
                Place::BeforeProjector => vlm.project(&folded),
                Place::AfterProjector => Ok(folded),
            }
        })?; // (V, H)
        Ok((visual, self.frames, self.timings))
    }
}
