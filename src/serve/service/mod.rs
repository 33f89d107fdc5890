//! Service: conversations of many clients through one encoder and one engine. Synchronous; called by `vidense serve`
//! from any thread.
//!
//! A job waits for its media, which are read and encoded once for all jobs (`encoder`), then its request runs beside
//! the others in the engine's steps (`answerer`). Jobs are refused before they wait: over the token budget with the
//! arithmetic, over the limit of the queue, and while the service drains.

mod answerer;
mod cache;
mod encoder;
mod input;
mod job;
mod known;
mod load;
mod running;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, unbounded};

pub use job::{ChatJob, JobAnswer, JobEvent, JobId, JobListener, JobTimes, MediaUse};
pub use load::ServiceLoad;

use self::answerer::{Answerer, AnswererLinks, stopped};
use self::encoder::{EncoderLinks, EncoderOptions, EncoderStop, encode_media};
use self::input::{AnswererInput, OpenJob};
use self::job::{JobChat, JobReporter};
use self::known::KnownMedia;
use self::load::ServiceCounters;
use super::media::MediaKey;
use crate::error::{Error, Kind};
use crate::pipeline::{ChatPrompt, ExpectedMedium, FeatureCache, Limits, LoadedModel};
use crate::video::worker::Isolation;

/// Sizes and limits of a service.
pub struct ServiceConfig {
    /// Limits of each medium and answer.
    pub limits: Limits,
    /// Isolation of decoding.
    pub isolation: Option<Isolation>,
    /// Jobs that may wait beside those that the engine runs.
    pub max_waiting: usize,
    /// Bytes of visual tokens that are kept in memory.
    pub cache_bytes: u64,
    /// Cache of visual tokens on disk.
    pub features: Option<FeatureCache>,
}

/// Loaded model that answers jobs of many clients.
pub struct Service {
    model: Arc<LoadedModel>,
    inputs: Sender<AnswererInput>,
    counters: Arc<ServiceCounters>,
    known: Arc<KnownMedia>,
    max_open: usize,
    next: AtomicU64,
    encoder: Arc<EncoderStop>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Starts the threads of a service.
    ///
    /// # Errors
    /// When the key-value memory cannot be allocated, or a thread does not start.
    #[allow(clippy::disallowed_methods, reason = "open jobs, which are limited, bound what waits in the channels")]
    pub fn start(model: Arc<LoadedModel>, config: ServiceConfig) -> Result<Self, Error> {
        let ServiceConfig { limits, isolation, max_waiting, cache_bytes, features } = config;
        let (inputs, received) = unbounded();
        let (encoder, encodings) = unbounded();
        let (counters, known) = (Arc::<ServiceCounters>::default(), Arc::<KnownMedia>::default());
        let links = AnswererLinks { encoder, counters: counters.clone(), known: known.clone(), limits, cache_bytes };
        let encoder_stop = Arc::<EncoderStop>::default();
        let (ready, is_ready) = bounded(1);
        let own = model.clone();
        let answer = move || match Answerer::new(own.asking(), links) {
            Ok(answerer) => {
                let _ = ready.send(Ok(answerer.max_sequences()));
                answerer.run(&received);
            }
            Err(error) => drop(ready.send(Err(error))),
        };
        let links = EncoderLinks { jobs: encodings, answerer: inputs.clone(), stop: encoder_stop.clone() };
        let (own, options) = (model.clone(), EncoderOptions { limits, isolation, features });
        let encode = move || encode_media(&own, &options, &links);

        let started = |name: &str, error: std::io::Error| {
            Error::new(Kind::Defect, format!("the thread `{name}` did not start: {error}"))
        };
        let engine = Builder::new().name("engine".to_owned()).spawn(answer).map_err(|e| started("engine", e))?;
        let max_sequences = is_ready.recv().unwrap_or_else(|_| Err(stopped()))?;
        let encoder = Builder::new().name("encoder".to_owned()).spawn(encode).map_err(|e| started("encoder", e))?;
        let max_open = max_sequences.saturating_add(max_waiting);
        let threads = vec![engine, encoder];
        let (next, encoder) = (AtomicU64::new(0), encoder_stop);
        Ok(Self { model, inputs, counters, known, max_open, next, encoder, threads })
    }

    /// Returns the model.
    pub fn model(&self) -> &LoadedModel {
        &self.model
    }

    /// Takes a job. All further events go to its listener.
    ///
    /// # Errors
    /// [`Kind::TokenBudget`] with the arithmetic, and other errors of a prompt that cannot be made; [`Kind::Busy`] when
    /// too many jobs wait; [`Kind::Stopped`] while the service drains. The listener then hears nothing.
    pub fn submit(&self, job: ChatJob) -> Result<JobId, Error> {
        if self.counters.is_draining() {
            return Err(stopped());
        }
        let media: Vec<ExpectedMedium> = job.media.iter().map(|media| media.expected).collect();
        let prompt = ChatPrompt { system: job.system.as_deref(), turns: &job.turns, media: &media };
        self.model.asking().check_chat(&prompt, &job.options)?;
        if !self.counters.open(self.max_open) {
            let rule = format!("{} requests are open, the limit", self.max_open);
            return Err(Error::new(Kind::Busy, rule).with_hint("try again later").about("the server is busy"));
        }
        let id = JobId(self.next.fetch_add(1, Ordering::Relaxed));
        let ChatJob { system, turns, media, options, listener } = job;
        let chat = JobChat { system, turns, media, options };
        let reporter = JobReporter::new(listener, self.counters.clone());
        let job = Box::new(OpenJob { chat, reporter, submitted: Instant::now() });
        // A closed channel drops the job, whose listener then hears so.
        let _ = self.inputs.send(AnswererInput::Job { id, job });
        Ok(id)
    }

    /// Cancels a job that is not done: its listener hears so, and its memory is free for others.
    pub fn cancel(&self, id: JobId) {
        let _ = self.inputs.send(AnswererInput::Cancel(id));
    }

    /// Returns the sizes of a medium whose tokens are in memory or on the way, so that it need not be read.
    pub fn known(&self, key: &MediaKey) -> Option<ExpectedMedium> {
        self.known.get(key)
    }

    /// Returns the counters.
    pub fn load(&self) -> ServiceLoad {
        self.counters.load()
    }

    /// Refuses new jobs, and waits for the open ones; those that are open after `grace` fail.
    pub fn drain(&self, grace: Duration) {
        self.counters.drain();
        if self.counters.wait_idle(Instant::now() + grace) {
            return;
        }
        let _ = self.inputs.send(AnswererInput::Abort(stopped()));
        self.encoder.abort();
        self.counters.wait_idle(Instant::now() + ABORT);
    }
}

impl Drop for Service {
    /// Fails the open jobs, and waits for the threads.
    fn drop(&mut self) {
        self.counters.drain();
        self.encoder.abort();
        let _ = self.inputs.send(AnswererInput::Close);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Time that open jobs have to fail after an abort: at most one step of the engine.
const ABORT: Duration = Duration::from_secs(10);
