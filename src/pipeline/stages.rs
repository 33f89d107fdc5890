//! The stages between a list of videos and their visual tokens, each on threads of its own:
//!
//! videos ─▶ decode ─▶ preprocess ─▶ encode (tower and connector) ─▶ aggregate (projector and temporal strategy) ─▶
//! consumer
//!
//! Several videos are decoded side by side; images are prepared on several threads, which keep their order, and those
//! of different videos go through the tower together. The stages are joined by bounded channels, so only a few frames
//! wait anywhere, and the memory of a run depends neither on the length of a video nor on how many there are. What
//! fails for one video travels on as a value and reaches the consumer in its place.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_core::{Device, DeviceLocation, Tensor};

use super::encode::BatchSize;
use super::item::VideoRef;
use super::{FeatureCache, FrameStamp, ItemError, Job, Limits, PipelineError, Timings, aggregate, decode, encode};
use crate::exec::{self, ExecError, Inlet, RunControl, StageReport, Threads, lock};
use crate::spec::{Capacities, ExecPlan, Plan, SingleImagePlan};
use crate::temporal::Temporal;
use crate::text::{ShownFrame, ShownFrames};
use crate::video::worker::Isolation;
use crate::video::{Access, FrameRequest, ReadReport, Scanned};
use crate::vlm::{ModelError, TextTokens, Vlm};

/// The names of the stages.
pub(super) const DECODE: &str = "decode";
pub(super) const PREPROCESS: &str = "preprocess";
pub(super) const ENCODE: &str = "encode";
pub(super) const AGGREGATE: &str = "aggregate";
/// Images that go through the tower together where the plan does not say: one keeps a CPU busy. On a GPU eight are
/// close to the best: PyTorch on one H200 takes 2.07 ms an image of eight through SigLIP-so400m, 1.95 of thirty-two.
const BATCH_ON_CPU: usize = 1;
const BATCH_ON_GPU: usize = 8;
/// PyTorch on one H200 takes 12 ms for one image through SigLIP-so400m and 17 ms for eight: the first image that comes
/// in time wins the wait back.
const WAIT_ON_GPU: Duration = Duration::from_millis(3);

/// What a listener hears while a video is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoProgress {
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
    /// The device has no memory for more images at once: later batches have so many.
    SmallerBatch {
        /// Images that go through the tower together from now on.
        n_images: usize,
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
    /// A small picture of it, as JPEG, if one was asked for.
    pub thumbnail: Option<Vec<u8>>,
    /// Whether it was kept from an earlier run, so that no frame had to be decoded.
    pub is_found: bool,
}

impl EncodedVideo {
    /// The frames as a prompt tells of them.
    pub(super) fn shown(&self, are_apart: bool) -> ShownFrames {
        let frame = |stamp: &FrameStamp| ShownFrame { index: stamp.index.0, time: stamp.time_seconds };
        let video = self.report.whole_duration().map(|duration| (self.report.n_frames, duration));
        let is_single_image = matches!(self.temporal, Temporal::AnyRes(_));
        ShownFrames { frames: self.frames.iter().map(frame).collect(), video, are_apart, is_single_image }
    }
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
pub type OnProgress<'a> = dyn Fn(&VideoRef, VideoProgress) + Sync + 'a;

/// The moment at which the time of a stage's operations ends. It matters on devices with a queue of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StageClock {
    /// When they are done: true times and limits, and a wait after each batch of images.
    #[default]
    Completion,
    /// When they are issued: nobody asks for times, and the next batch is prepared meanwhile.
    Issue,
}

/// What keeps a video from costing others more than its own: none of it by default.
#[derive(Clone, Copy, Default)]
pub struct VideoOptions<'a> {
    /// The most that one item may take.
    pub limits: Limits,
    /// Decoding in a process of its own.
    pub isolation: Option<&'a Isolation>,
    /// Counts the processes that had to be replaced.
    pub n_restarts: Option<&'a AtomicU64>,
    /// The moment at which an operation's time ends.
    pub clock: StageClock,
    /// What was encoded before, and where what is encoded now is kept.
    pub features: Option<&'a FeatureCache>,
    /// Whether a small picture of each video is made.
    pub thumbnails: bool,
    /// A video whose packets were read before, which is then read on, not scanned again. Decoding in a process of its
    /// own scans it there.
    pub scanned: Option<&'a KnownScan>,
}

/// A scan that waits for its video.
#[derive(Debug, Default)]
pub struct KnownScan(Mutex<Option<Scanned>>);

impl KnownScan {
    /// Keeps a scan until its video is read.
    pub fn new(scanned: Scanned) -> Self {
        Self(Mutex::new(Some(scanned)))
    }

    /// The scan, if it is of this video for this request and was not taken yet.
    pub(super) fn take(&self, path: &Path, request: &FrameRequest) -> Option<Scanned> {
        lock(&self.0).take_if(|scanned| scanned.is_of(path, request))
    }
}

/// The choices that the stages share.
pub struct Stages<'a> {
    pub(super) vlm: &'a Vlm,
    pub(super) request: FrameRequest,
    pub(super) temporal: Temporal,
    pub(super) single_image: Option<SingleImagePlan>,
    pub(super) encode_batch: BatchSize,
    /// Time that a batch waits for more images.
    pub(super) encode_wait: Duration,
    pub(super) on_progress: &'a OnProgress<'a>,
    pub(super) apart: VideoOptions<'a>,
    pub(super) access: Access,
    decode_threads: Threads,
    preprocess_threads: Threads,
    capacity: Capacities,
}

impl<'a> Stages<'a> {
    /// The stages that `plan` describes for a loaded model.
    pub fn new(vlm: &'a Vlm, plan: &Plan, on_progress: &'a OnProgress<'a>) -> Self {
        let ExecPlan { decode_threads, preprocess_threads, access, encode_batch, encode_wait_ms, capacity, .. } =
            &plan.exec;
        let tower = vlm.vision_device();
        let (default_batch, default_wait) =
            if tower.is_cpu() { (BATCH_ON_CPU, Duration::ZERO) } else { (BATCH_ON_GPU, WAIT_ON_GPU) };
        let default_preprocess = default_preprocess_threads(n_cores(), tower.location());
        Self {
            vlm,
            request: plan.frames(),
            temporal: plan.temporal(),
            single_image: plan.single_image,
            encode_batch: BatchSize::new(encode_batch.unwrap_or(default_batch)),
            encode_wait: encode_wait_ms.map_or(default_wait, Duration::from_millis),
            on_progress,
            apart: VideoOptions::default(),
            access: *access,
            decode_threads: Threads::new(*decode_threads).unwrap_or(Threads::MIN),
            preprocess_threads: preprocess_threads.and_then(Threads::new).unwrap_or(default_preprocess),
            capacity: capacity.clone(),
        }
    }

    /// Waits until a device's operations are done, where somebody asked for the time that they take: a GPU has a queue
    /// of its own, and the time until operations are in it is not theirs.
    pub(super) fn complete(&self, device: &Device) -> Result<(), PipelineError> {
        match self.apart.clock {
            StageClock::Completion => device.synchronize().map_err(ModelError::compute("waiting for the device"))?,
            StageClock::Issue => {}
        }
        Ok(())
    }

    /// The same, with every video kept apart from the others so far.
    #[must_use]
    pub fn with(self, apart: VideoOptions<'a>) -> Self {
        Self { apart, ..self }
    }

    /// Encodes videos, each with the tokens of its shortest prompt's text if they are known, and hands them to
    /// `consume` on the caller's thread as the stage `name`, in the order in which they are done. A video whose tokens
    /// do not fit the context beside the text fails before it is decoded.
    ///
    /// # Errors
    /// When a stage panics. What fails for one video is in its outcome.
    pub fn run<R>(
        &self,
        videos: impl Iterator<Item = (Job, Option<TextTokens>)> + Send,
        watch: &RunControl,
        (name, consume): (&str, impl FnOnce(&Inlet<Encoded>) -> R),
    ) -> Result<(R, Vec<StageReport>), ExecError> {
        let Capacities { decoded, prepared, encoded, aggregated } = self.capacity;
        let n_videos = videos.size_hint().1.unwrap_or(usize::MAX);
        let threads = threads_each(self.decode_threads.get().min(n_videos));
        exec::run(watch, |scope| {
            let videos = scope.source("videos", 0, move |outlet| {
                for (number, (job, text)) in videos.enumerate() {
                    let video = VideoRef::new(number, job, text);
                    if outlet.is_draining() || outlet.send(video).is_err() {
                        return;
                    }
                }
            });
            let one = Threads::MIN;
            let frames = scope
                .stage(DECODE, self.decode_threads, decoded, videos, move |i, o| decode::decode(self, threads, i, o));
            let images = scope.map_in_order(PREPROCESS, self.preprocess_threads, prepared, frames, |item| {
                decode::preprocess(self, item)
            });
            let fused = scope.stage(ENCODE, one, encoded, images, |i, o| encode::encode(self, i, o));
            let tokens = scope.stage(AGGREGATE, one, aggregated, fused, |i, o| aggregate::aggregate(self, i, o));
            scope.here(name, tokens, consume)
        })
    }
}

/// Threads of each decoder, where so many decode side by side; 0 is one for each core.
fn threads_each(n_decoders: usize) -> usize {
    if n_decoders <= 1 { 0 } else { n_cores().div_ceil(n_decoders) }
}

fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, Threads::get)
}

/// Threads that prepare images where the plan does not say.
///
/// A GPU takes an image of 336 x 336 in about 2 ms, a thread prepares one of a large frame in about 10 ms: half of the
/// cores, up to 8, keep it busy, and the decoders have the rest. On the CPU the tower takes longer than that and wants
/// the cores itself; one in eight, up to 4, serves small towers on large machines.
fn default_preprocess_threads(n_cores: usize, tower: DeviceLocation) -> Threads {
    let n_threads = match tower {
        DeviceLocation::Cpu => (n_cores / 8).min(4),
        DeviceLocation::Cuda { .. } | DeviceLocation::Metal { .. } => (n_cores / 2).min(8),
    };
    Threads::new(n_threads).unwrap_or(Threads::MIN)
}

/// Encodes one video.
///
/// # Errors
/// When the video cannot be read, or a frame cannot be prepared or encoded.
pub fn encode_video(
    vlm: &Vlm,
    path: &Path,
    plan: &Plan,
    on_progress: &(dyn Fn(VideoProgress) + Sync),
) -> Result<EncodedVideo, PipelineError> {
    encode_video_with(vlm, path, (plan, VideoOptions::default()), on_progress)
}

/// As [`encode_video`], within the limits of `apart` and with what it knows of the video.
///
/// # Errors
/// As [`encode_video`]; besides, when a limit is reached.
pub fn encode_video_with(
    vlm: &Vlm,
    path: &Path,
    (plan, apart): (&Plan, VideoOptions<'_>),
    on_progress: &(dyn Fn(VideoProgress) + Sync),
) -> Result<EncodedVideo, PipelineError> {
    let on_progress = |_: &VideoRef, progress| on_progress(progress);
    let stages = Stages::new(vlm, plan, &on_progress).with(apart);
    let job = Job { path: path.to_owned(), window: None, questions: Arc::new([]), all_questions: Arc::new([]) };
    let one = std::iter::once((job, None));
    let (encoded, _) = stages.run(one, &RunControl::default(), ("wait", |inlet: &Inlet<Encoded>| inlet.recv()))?;
    match encoded {
        Some(Encoded { outcome, .. }) => outcome.map_err(|error| *error.source),
        None => Err(PipelineError::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_prepare_images_follow_the_cores_and_the_device_of_the_tower() {
        let threads = |tower| [1, 2, 4, 16, 64].map(|n_cores| default_preprocess_threads(n_cores, tower).get());
        assert_eq!(threads(DeviceLocation::Cpu), [1, 1, 1, 2, 4]);
        assert_eq!(threads(DeviceLocation::Cuda { gpu_id: 0 }), [1, 1, 2, 8, 8]);
        assert_eq!(threads(DeviceLocation::Metal { gpu_id: 0 }), [1, 1, 2, 8, 8]);
    }
}
