//! Encoder of the service: one run of the pipeline's stages that never ends, fed with media as jobs need them.
//!
//! Media of all clients share the decoders and the batches of the tower. A stage that panics ends the run; the media
//! under way then fail, and a new run begins. Called by [`Service`](super::Service) on a thread of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::input::AnswererInput;
use crate::error::{Error, Kind};
use crate::exec::{RunControl, Stop, lock};
use crate::pipeline::{
    EncodedVideo, FeatureCache, Job, Limits, LoadedModel, StageClock, Stages, VideoOptions, VideoProgress, VideoRef,
};
use crate::serve::media::Media;
use crate::units::Seconds;
use crate::video::ReadReport;
use crate::video::worker::Isolation;

/// Medium that at least one job waits for.
pub(super) struct EncodeJob {
    pub(super) id: EncodeId,
    pub(super) media: Arc<Media>,
    pub(super) interest: Interest,
}

/// Name of one encoding within its service: a medium that was given up may be asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct EncodeId(pub(super) u64);

/// Interest of jobs in a medium that is being encoded; without any, its reading is given up.
#[derive(Debug, Clone, Default)]
pub(super) struct Interest(Arc<AtomicBool>);

impl Interest {
    /// Marks the medium as wanted by no job.
    pub(super) fn withdraw(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_withdrawn(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Options of the stages.
pub(super) struct EncoderOptions {
    pub(super) limits: Limits,
    pub(super) isolation: Option<Isolation>,
    pub(super) features: Option<FeatureCache>,
}

/// Time between two looks whether a run that waits for media has failed.
const PATIENCE: Duration = Duration::from_millis(200);

/// Abort of the encoder, whichever run is on.
#[derive(Debug, Default)]
pub(super) struct EncoderStop(Mutex<EncoderState>);

#[derive(Debug, Default)]
struct EncoderState {
    is_aborted: bool,
    /// Stop of the current run.
    current: Option<Stop>,
}

impl EncoderStop {
    /// Gives up all media.
    pub(super) fn abort(&self) {
        let mut state = lock(&self.0);
        state.is_aborted = true;
        if let Some(stop) = &state.current {
            stop.abort();
        }
    }

    fn is_aborted(&self) -> bool {
        lock(&self.0).is_aborted
    }

    /// Returns the control of a new run.
    fn begin(&self) -> RunControl {
        let control = RunControl::default();
        let mut state = lock(&self.0);
        state.current = Some(control.stop.clone());
        if state.is_aborted {
            control.stop.abort();
        }
        control
    }
}

/// Connections of an encoder to the rest of its service.
pub(super) struct EncoderLinks {
    pub(super) jobs: Receiver<EncodeJob>,
    pub(super) answerer: Sender<AnswererInput>,
    pub(super) stop: Arc<EncoderStop>,
}

/// Media of a run that are not encoded yet, by their index in it.
type Underway = Mutex<HashMap<usize, EncodeJob>>;

/// Encodes media until their channel closes, or the encoder is aborted.
pub(super) fn encode_media(model: &LoadedModel, options: &EncoderOptions, links: &EncoderLinks) {
    let EncoderLinks { jobs, answerer, stop } = links;
    let mut is_open = true;
    while is_open && !stop.is_aborted() {
        let (underway, control) = (Underway::default(), stop.begin());
        let feed = EncoderFeed { jobs, underway: &underway, answerer, control: &control };
        let failure = run(model, options, feed).err();
        is_open = failure.is_some();
        for (_, job) in lock(&underway).drain() {
            let error = failure.clone().unwrap_or_else(cancelled);
            let _ = answerer.send(AnswererInput::Encoded { id: job.id, outcome: Err(error) });
        }
    }
}

/// Source of a run.
#[derive(Clone, Copy)]
struct EncoderFeed<'f> {
    jobs: &'f Receiver<EncodeJob>,
    underway: &'f Underway,
    answerer: &'f Sender<AnswererInput>,
    control: &'f RunControl,
}

impl EncoderFeed<'_> {
    /// Returns the next medium that is still wanted, under the index `number`.
    fn next(self, number: usize) -> Option<Job> {
        loop {
            let job = match self.jobs.recv_timeout(PATIENCE) {
                Ok(job) => job,
                // A run whose stage has failed takes no more media.
                Err(RecvTimeoutError::Timeout) if !self.control.stop.is_aborted() => continue,
                Err(_) => return None,
            };
            let media = job.media.clone();
            if job.interest.is_withdrawn() {
                let _ = self.answerer.send(AnswererInput::Encoded { id: job.id, outcome: Err(cancelled()) });
                continue;
            }
            if let Err(error) = media.store() {
                let _ = self.answerer.send(AnswererInput::Encoded { id: job.id, outcome: Err(error) });
                continue;
            }
            lock(self.underway).insert(number, job);
            let frames = Some(media.request.clone());
            return Some(Job { frames, ..Job::new(media.path.clone(), Arc::default()) });
        }
    }

    fn id(self, number: usize) -> Option<EncodeId> {
        lock(self.underway).get(&number).map(|job| job.id)
    }
}

/// Returns the outcome of a medium that no job wants.
fn cancelled() -> Error {
    Error::new(Kind::Stopped, "cancelled")
}

/// Runs the stages until the channel of media closes.
fn run(model: &LoadedModel, options: &EncoderOptions, feed: EncoderFeed<'_>) -> Result<(), Error> {
    let on_progress = |video: &VideoRef, progress| {
        let is_withdrawn = lock(feed.underway).get(&video.number).is_some_and(|job| job.interest.is_withdrawn());
        if is_withdrawn {
            video.mark_failed();
        } else if let VideoProgress::Encoded { n_frames } = progress
            && let Some(id) = feed.id(video.number)
        {
            let _ = feed.answerer.send(AnswererInput::Progress { id, n_frames });
        }
    };
    let video_options = VideoOptions {
        limits: options.limits,
        isolation: options.isolation.as_ref(),
        clock: StageClock::Completion,
        features: options.features.as_ref(),
        ..VideoOptions::default()
    };
    let stages = Stages::new(&model.vlm, &model.plan, &on_progress).with(video_options);
    let mut number = 0;
    let media = std::iter::from_fn(move || {
        let job = feed.next(number)?;
        number += 1;
        Some(job)
    });
    stages.encode_each(media, feed.control, &mut |number, outcome| {
        let Some(job) = lock(feed.underway).remove(&number) else { return };
        let outcome = outcome.map_err(|error| error.error).and_then(|video| stamped(video, &job.media));
        let outcome = outcome.map(Box::new);
        let _ = feed.answerer.send(AnswererInput::Encoded { id: job.id, outcome });
    })
}

/// Sets the times of frames that the client sent apart from them.
///
/// # Errors
/// Frames of a list that were not read.
fn stamped(video: EncodedVideo, media: &Media) -> Result<EncodedVideo, Error> {
    let frames = media.stamps(video.frames)?;
    let Some(timing) = &media.timing else { return Ok(EncodedVideo { frames, ..video }) };
    let known = frames.last().map_or(0, |frame| frame.index.0 + 1);
    let report = ReadReport {
        n_frames: timing.total_num_frames.unwrap_or(known),
        times: Some((Seconds(0.0), timing.duration_of(frames.len())?)),
        last_duration: Some(Seconds(0.0)),
        ..video.report
    };
    Ok(EncodedVideo { frames, report, ..video })
}
