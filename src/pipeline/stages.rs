//! The stages from videos to visual tokens, each on threads of its own:
//!
//! videos ─▶ decode ─▶ preprocess ─▶ encode (tower and connector) ─▶ aggregate (projector and temporal strategy) ─▶
//! consumer
//!
//! Several videos are decoded in parallel; images are preprocessed on several threads that keep their order, and images
//! of different videos share batches of the tower. The channels between the stages are bounded, so the memory of a run
//! depends neither on the length of a video nor on the number of videos. A failure of one video travels on as a value
//! and reaches the consumer like its tokens.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_core::{Device, DeviceLocation, Tensor};

use super::encode::BatchSize;
use super::error::stopped;
use super::item::VideoRef;
use super::preview::Preview;
use super::{Downloads, FeatureCache, FrameStamp, ItemError, Job, Limits, Timings, aggregate, decode, encode};
use crate::error::Error;
use crate::exec::{self, Inlet, RunControl, StageConfig, StageReport, Threads, lock};
use crate::spec::{Capacities, ExecPlan, Plan, SingleImagePlan};
use crate::temporal::Temporal;
use crate::text::{ShownFrame, ShownFrames};
use crate::video::worker::Isolation;
use crate::video::{Access, FrameRequest, ReadReport, Scanned};
use crate::vlm::{TextTokens, Vlm};

// Names of the stages.
pub(super) const DECODE: &str = "decode";
pub(super) const PREPROCESS: &str = "preprocess";
pub(super) const ENCODE: &str = "encode";
pub(super) const AGGREGATE: &str = "aggregate";
/// Images per forward pass of the tower where the plan has none: one image keeps a CPU busy. On a GPU eight are close
/// to the best: PyTorch on one H200 takes 2.07 ms an image of eight through SigLIP-so400m, 1.95 of thirty-two.
const BATCH_ON_CPU: usize = 1;
const BATCH_ON_GPU: usize = 8;
/// Time that a batch waits for more images on a GPU. PyTorch on one H200 takes 12 ms for one image through
/// SigLIP-so400m and 17 ms for eight: one image that arrives in time is worth the wait.
const WAIT_ON_GPU: Duration = Duration::from_millis(3);

/// Progress of a video that is read and encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoProgress {
    /// Number of frames to decode, as expected before decoding.
    Expected {
        /// Number of frames, counted by packets.
        n_frames: usize,
    },
    /// Number of frames decoded so far.
    Decoded {
        /// Number of frames from the beginning of the video.
        n_frames: usize,
    },
    /// The device is out of memory: later batches of the tower are smaller.
    SmallerBatch {
        /// Images per forward pass from now on.
        n_images: usize,
    },
    /// Number of sampled frames encoded so far.
    Encoded {
        /// Number of frames from the first sampled frame.
        n_frames: usize,
    },
}

/// A video as visual tokens of the language model.
#[derive(Debug)]
pub struct EncodedVideo {
    /// Visual tokens, `(V, H)`.
    pub visual: Tensor,
    /// Sampled frames, in time order.
    pub frames: Vec<FrameStamp>,
    /// Report of the reader.
    pub report: ReadReport,
    /// Temporal strategy that aggregated the frames.
    pub temporal: Temporal,
    /// Time spent by stage.
    pub timings: Timings,
    /// Thumbnail of the video as JPEG, if requested.
    pub thumbnail: Option<Vec<u8>>,
    /// Whether the tokens come from the feature cache, so that no frame was decoded.
    pub is_cached: bool,
}

impl EncodedVideo {
    /// Returns the frames as a prompt refers to them.
    pub(super) fn shown(&self, are_separate: bool) -> ShownFrames {
        let frame = |stamp: &FrameStamp| ShownFrame { index: stamp.index.0, time: stamp.time_seconds };
        let video = self.report.whole_duration().map(|duration| (self.report.n_frames, duration));
        let is_single_image = matches!(self.temporal, Temporal::AnyRes(_));
        let frames = self.frames.iter().map(frame).collect();
        ShownFrames { frames, video, are_separate, is_single_image, ..ShownFrames::default() }
    }
}

/// Outcome of a video in the last stage.
#[derive(Debug)]
pub(super) struct Encoded {
    /// The video.
    pub video: VideoRef,
    /// Visual tokens, or the failure.
    pub outcome: Result<EncodedVideo, ItemError>,
}

/// Callback for the progress of videos, called from several threads.
pub(crate) type OnProgress<'a> = dyn Fn(&VideoRef, VideoProgress) + Sync + 'a;

/// End of the measured time of a stage's operations, on devices with an asynchronous queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StageClock {
    /// Completion of the operations: device times and exact limits, at the cost of a wait after each batch of images.
    #[default]
    Completion,
    /// Launch of the operations: times are not needed, and the next batch is prepared meanwhile.
    Issue,
}

/// Strategy of another run over the same frames of the same model: its visual tokens are made along, and cached.
pub struct AlsoAggregated {
    /// Strategy.
    pub temporal: Temporal,
    /// Cache of the other run.
    pub features: FeatureCache,
}

/// Options of the videos of a run: limits and isolation of each, feature cache, preview. All are off by default.
#[derive(Clone, Copy, Default)]
pub struct VideoOptions<'a> {
    /// Limits of one item.
    pub limits: Limits,
    /// Isolation of the decoder in a process of its own.
    pub isolation: Option<&'a Isolation>,
    /// Counter of restarted decoder processes.
    pub n_restarts: Option<&'a AtomicU64>,
    /// End of the measured time of an operation.
    pub clock: StageClock,
    /// Cache of visual tokens.
    pub features: Option<&'a FeatureCache>,
    /// Further strategies over the same frames, whose visual tokens are cached for runs to come; only beside
    /// `features`. A strategy that fails or encodes other images than the frames is left to its own run.
    pub also: &'a [AlsoAggregated],
    /// Downloads of videos that are named by URL; without them, a URL is a path without a file.
    pub downloads: Option<&'a Downloads>,
    /// Preview that is made of each video.
    pub preview: Preview,
    /// Scan of a video whose packets were read before; that video is not scanned again. A decoder in a process of its
    /// own does not use it.
    pub scanned: Option<&'a KnownScan>,
}

/// Scan of a video, to be taken once by its reader.
#[derive(Debug, Default)]
pub struct KnownScan(Mutex<Option<Scanned>>);

impl KnownScan {
    /// Wraps a scan.
    pub fn new(scanned: Scanned) -> Self {
        Self(Mutex::new(Some(scanned)))
    }

    /// Takes the scan, if it is of this video and request.
    pub(super) fn take(&self, path: &Path, request: &FrameRequest) -> Option<Scanned> {
        lock(&self.0).take_if(|scanned| scanned.is_of(path, request))
    }
}

/// Model, settings and callbacks that the stages share.
pub struct Stages<'a> {
    pub(super) vlm: &'a Vlm,
    pub(super) request: FrameRequest,
    pub(super) temporal: Temporal,
    pub(super) single_image: Option<SingleImagePlan>,
    pub(super) encode_batch: BatchSize,
    /// Time that a batch waits for more images.
    pub(super) encode_wait: Duration,
    pub(super) on_progress: &'a OnProgress<'a>,
    pub(super) options: VideoOptions<'a>,
    pub(super) access: Access,
    decode_threads: Threads,
    preprocess_threads: Threads,
    capacity: Capacities,
}

impl<'a> Stages<'a> {
    /// Creates the stages of a plan for a loaded model.
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
            options: VideoOptions::default(),
            access: *access,
            decode_threads: Threads::new(*decode_threads).unwrap_or(Threads::MIN),
            preprocess_threads: preprocess_threads.and_then(Threads::new).unwrap_or(default_preprocess),
            capacity: capacity.clone(),
        }
    }

    /// Waits for a device's operations under [`StageClock::Completion`]: the queue of a GPU is asynchronous, and the
    /// time of a launch is not that of its operations.
    pub(super) fn complete(&self, device: &Device) -> Result<(), Error> {
        match self.options.clock {
            StageClock::Completion => device.synchronize().map_err(Error::compute("waiting for the device"))?,
            StageClock::Issue => {}
        }
        Ok(())
    }

    /// Sets the options of the videos.
    #[must_use]
    pub fn with(self, options: VideoOptions<'a>) -> Self {
        Self { options, ..self }
    }

    /// Encodes videos, each with the text tokens of its shortest prompt if they are known. `consume` receives them on
    /// the caller's thread, as the stage `name`, in the order of completion. A video whose tokens do not fit the
    /// context beside the text fails before it is decoded.
    ///
    /// # Errors
    /// When a stage panics. The failure of one video is its outcome.
    pub(super) fn run<R>(
        &self,
        videos: impl Iterator<Item = (Job, Option<TextTokens>)> + Send,
        control: &RunControl,
        name: &str,
        consume: impl FnOnce(&Inlet<Encoded>) -> R,
    ) -> Result<(R, Vec<StageReport>), Error> {
        let Capacities { decoded, prepared, encoded, aggregated } = self.capacity;
        let n_videos = videos.size_hint().1.unwrap_or(usize::MAX);
        let threads = threads_each(self.decode_threads.get().min(n_videos));
        exec::run(control, |scope| {
            let videos = scope.source("videos", 0, move |outlet| {
                for (number, (job, text)) in videos.enumerate() {
                    let video = VideoRef::new(number, job, text);
                    if outlet.is_draining() || outlet.send(video).is_err() {
                        return;
                    }
                }
            });
            let decoding = StageConfig::new(DECODE, self.decode_threads, decoded);
            let preprocessing = StageConfig::new(PREPROCESS, self.preprocess_threads, prepared);
            let encoding = StageConfig::new(ENCODE, Threads::MIN, encoded);
            let aggregation = StageConfig::new(AGGREGATE, Threads::MIN, aggregated);
            let frames = scope.stage(decoding, videos, move |i, o| decode::decode(self, threads, i, o));
            let images = scope.map_in_order(preprocessing, frames, |item| decode::preprocess(self, item));
            let fused = scope.stage(encoding, images, |i, o| encode::encode(self, i, o));
            let tokens = scope.stage(aggregation, fused, |i, o| aggregate::aggregate(self, i, o));
            scope.here(name, tokens, consume)
        })
    }

    /// Encodes videos as they come. `on_video` receives each on the caller's thread, in the order of completion, with
    /// its index in the order of `videos`.
    ///
    /// # Errors
    /// When a stage panics. The failure of one video is its outcome.
    pub(crate) fn encode_each(
        &self,
        videos: impl Iterator<Item = Job> + Send,
        control: &RunControl,
        on_video: &mut dyn FnMut(usize, Result<EncodedVideo, ItemError>),
    ) -> Result<(), Error> {
        let videos = videos.map(|job| (job, None));
        let consume = |inlet: &Inlet<Encoded>| {
            while let Some(Encoded { video, outcome }) = inlet.recv() {
                on_video(video.number, outcome);
            }
        };
        self.run(videos, control, "hand over", consume).map(|_| ())
    }

    /// Encodes one video.
    ///
    /// # Errors
    /// When the video cannot be read, a frame cannot be preprocessed or encoded, or a limit is reached.
    pub fn encode_one(&self, path: &Path) -> Result<EncodedVideo, Error> {
        let job = Job::new(path.to_owned(), Arc::default());
        let one = std::iter::once((job, None));
        let (encoded, _) = self.run(one, &RunControl::default(), "wait", |inlet: &Inlet<Encoded>| inlet.recv())?;
        match encoded {
            Some(Encoded { outcome, .. }) => outcome.map_err(|error| error.error),
            None => Err(stopped()),
        }
    }
}

/// Returns the number of threads of each of `n_decoders` parallel decoders; 0 is one per core.
fn threads_each(n_decoders: usize) -> usize {
    if n_decoders <= 1 { 0 } else { n_cores().div_ceil(n_decoders) }
}

fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, Threads::get)
}

/// Returns the number of preprocessing threads where the plan has none.
///
/// A GPU takes an image of 336 x 336 in about 2 ms, a thread preprocesses one of a large frame in about 10 ms: half of
/// the cores, up to 8, keep it busy, and the decoders have the rest. On the CPU the tower takes longer than that and
/// uses the cores itself; one in eight, up to 4, serves small towers on large machines.
fn default_preprocess_threads(n_cores: usize, tower: DeviceLocation) -> Threads {
    let n_threads = match tower {
        DeviceLocation::Cpu => (n_cores / 8).min(4),
        DeviceLocation::Cuda { .. } | DeviceLocation::Metal { .. } => (n_cores / 2).min(8),
    };
    Threads::new(n_threads).unwrap_or(Threads::MIN)
}

/// Encodes one video with the default options.
///
/// # Errors
/// When the video cannot be read, or a frame cannot be prepared or encoded.
pub fn encode_video(
    vlm: &Vlm,
    path: &Path,
    plan: &Plan,
    on_progress: &(dyn Fn(VideoProgress) + Sync),
) -> Result<EncodedVideo, Error> {
    let on_progress = |_: &VideoRef, progress| on_progress(progress);
    Stages::new(vlm, plan, &on_progress).encode_one(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preprocessing_threads_follow_the_cores_and_the_device_of_the_tower() {
        let threads = |tower| [1, 2, 4, 16, 64].map(|n_cores| default_preprocess_threads(n_cores, tower).get());
        assert_eq!(threads(DeviceLocation::Cpu), [1, 1, 1, 2, 4]);
        assert_eq!(threads(DeviceLocation::Cuda { gpu_id: 0 }), [1, 1, 2, 8, 8]);
        assert_eq!(threads(DeviceLocation::Metal { gpu_id: 0 }), [1, 1, 2, 8, 8]);
    }
}
