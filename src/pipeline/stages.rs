//! The stages between a list of videos and their visual tokens, each on threads of its own:
//!
//! videos ─▶ decode ─▶ preprocess ─▶ encode (tower and connector) ─▶ aggregate (projector and temporal strategy) ─▶ consumer
//!
//! They are joined by bounded channels, so only a few frames wait anywhere, and the memory of a run depends neither on the
//! length of a video nor on how many there are. Several videos are decoded side by side, and the images of different videos
//! go through the tower together. What fails for one video travels on as a value and reaches the consumer in its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;

use super::item::VideoRef;
use super::{FrameStamp, ItemError, PipelineError, Timings, aggregate, decode, encode};
use crate::exec::{self, ExecError, Inlet, OnSpan, StageReport, Stop, Threads};
use crate::spec::{Capacities, ExecPlan, Plan};
use crate::temporal::Temporal;
use crate::units::Tokens;
use crate::video::{FrameRequest, ReadReport};
use crate::vlm::Vlm;

/// The names of the stages.
pub(super) const DECODE: &str = "decode";
pub(super) const PREPROCESS: &str = "preprocess";
pub(super) const ENCODE: &str = "encode";
pub(super) const AGGREGATE: &str = "aggregate";
/// Images that go through the tower together where the plan does not say: one keeps a CPU busy, a GPU wants more.
const BATCH_ON_CPU: usize = 1;
const BATCH_ON_GPU: usize = 8;

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

/// What became of a video.
#[derive(Debug)]
pub struct Encoded {
    /// The video.
    pub video: VideoRef,
    /// Its tokens, or what happened to it.
    pub outcome: Result<EncodedVideo, ItemError>,
}

/// Hears of a video's progress, from several threads.
pub type OnProgress<'a> = dyn Fn(&VideoRef, Progress) + Sync + 'a;

/// The choices that the stages share.
pub struct Stages<'a> {
    pub(super) vlm: &'a Vlm,
    pub(super) request: FrameRequest,
    pub(super) temporal: Temporal,
    pub(super) encode_batch: usize,
    pub(super) on_progress: &'a OnProgress<'a>,
    /// Tokens of the longest prompt's text that will be asked, if that is known.
    pub(super) text: Option<Tokens>,
    decode_threads: Threads,
    capacity: Capacities,
}

impl<'a> Stages<'a> {
    /// The stages that `plan` describes for a loaded model.
    pub fn new(vlm: &'a Vlm, plan: &Plan, on_progress: &'a OnProgress<'a>) -> Self {
        let ExecPlan { decode_threads, encode_batch, capacity } = &plan.exec;
        let default_batch = if vlm.device().is_cpu() { BATCH_ON_CPU } else { BATCH_ON_GPU };
        Self {
            vlm,
            request: plan.frames(),
            temporal: plan.temporal,
            encode_batch: encode_batch.unwrap_or(default_batch).max(1),
            on_progress,
            text: None,
            decode_threads: Threads::new(*decode_threads).unwrap_or(Threads::MIN),
            capacity: capacity.clone(),
        }
    }

    /// Refuses a video whose tokens would not fit the context beside so much text, before it is decoded.
    #[must_use]
    pub fn with_text(self, text: Tokens) -> Self {
        Self { text: Some(text), ..self }
    }

    /// Encodes videos, and hands them to `consume` on the caller's thread as the stage `name`, in the order in which they
    /// are done.
    ///
    /// # Errors
    /// When a stage panics. What fails for one video is in its outcome.
    pub fn run<R>(
        &self,
        videos: impl Iterator<Item = PathBuf> + Send,
        stop: &Stop,
        on_span: Option<Arc<OnSpan>>,
        (name, consume): (&str, impl FnOnce(&Inlet<Encoded>) -> R),
    ) -> Result<(R, Vec<StageReport>), ExecError> {
        let Capacities { decoded, prepared, encoded, aggregated } = self.capacity;
        exec::run(stop, on_span, |scope| {
            let videos = scope.source("videos", 0, move |outlet| {
                for (number, path) in videos.enumerate() {
                    let video = VideoRef { number, path: Arc::new(path) };
                    if outlet.is_draining() || outlet.send(video).is_err() {
                        return;
                    }
                }
            });
            let one = Threads::MIN;
            let frames = scope.stage(DECODE, self.decode_threads, decoded, videos, |i, o| decode::decode(self, i, o));
            let images = scope.stage(PREPROCESS, one, prepared, frames, |i, o| decode::preprocess(self, i, o));
            let fused = scope.stage(ENCODE, one, encoded, images, |i, o| encode::encode(self, i, o));
            let tokens = scope.stage(AGGREGATE, one, aggregated, fused, |i, o| aggregate::aggregate(self, i, o));
            scope.here(name, tokens, consume)
        })
    }
}

/// Encodes one video.
///
/// # Errors
/// When the video cannot be read, or a frame cannot be prepared or encoded.
pub fn encode_video(
    vlm: &Vlm,
    path: &Path,
    plan: &Plan,
    on_progress: &(dyn Fn(Progress) + Sync),
) -> Result<EncodedVideo, PipelineError> {
    let on_progress = |_: &VideoRef, progress| on_progress(progress);
    let stages = Stages::new(vlm, plan, &on_progress);
    let one = std::iter::once(path.to_owned());
    let (encoded, _) = stages.run(one, &Stop::new(), None, ("wait", |inlet: &Inlet<Encoded>| inlet.recv()))?;
    match encoded {
        Some(Encoded { outcome, .. }) => outcome.map_err(|error| *error.source),
        None => Err(PipelineError::Nothing),
    }
}
