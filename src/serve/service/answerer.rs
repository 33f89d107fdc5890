//! Answerer of the service: the thread that owns the engine. Jobs wait for their media, then their requests run
//! together; each reports to its own listener.
//!
//! Media that several jobs ask for are encoded once, also while they are on the way.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::cache::{EncodedMedium, MediaCache};
use super::encoder::{EncodeId, EncodeJob, Interest};
use super::input::{AnswererInput, JobMedium, OpenJob};
use super::job::{JobAnswer, JobEvent, JobId};
use super::known::KnownMedia;
use super::load::{ServiceCounters, ServiceLoad};
use super::running::RunningJob;
use crate::engine::{Engine, RequestId};
use crate::error::{Error, Kind};
use crate::pipeline::{Asking, EncodedVideo, Limits};
use crate::serve::media::{Media, MediaKey};

/// State of the answerer's thread.
pub(super) struct Answerer<'m> {
    asking: Asking<'m>,
    engine: Engine<'m>,
    links: AnswererLinks,
    cache: MediaCache,
    /// Jobs with media that are not encoded.
    waiting: HashMap<JobId, WaitingJob>,
    /// Media on the way.
    encoding: HashMap<EncodeId, EncodingMedium>,
    /// Names of the media on the way, by their keys.
    encoding_by_key: HashMap<MediaKey, EncodeId>,
    n_encodings: u64,
    /// Requests in the engine.
    running: HashMap<JobId, RequestId>,
    /// Jobs whose request has ended.
    ended: Rc<RefCell<Vec<JobId>>>,
    /// Reason of the abort, once the service is aborted.
    abort: Rc<RefCell<Option<Error>>>,
    media_queries: u64,
    media_hits: u64,
}

/// Connections of an answerer to the rest of its service.
pub(super) struct AnswererLinks {
    pub(super) encoder: Sender<EncodeJob>,
    pub(super) counters: Arc<ServiceCounters>,
    pub(super) known: Arc<KnownMedia>,
    pub(super) limits: Limits,
    pub(super) cache_bytes: u64,
}

/// Job that waits for media.
struct WaitingJob {
    job: OpenJob,
    /// Media by their index, as far as they are encoded.
    media: Vec<Option<JobMedium>>,
}

/// Medium on the way.
struct EncodingMedium {
    /// Content as the first job sent it.
    media: Arc<Media>,
    interest: Interest,
    jobs: Vec<JobId>,
}

impl<'m> Answerer<'m> {
    /// Makes an answerer without jobs.
    ///
    /// # Errors
    /// When the key-value memory cannot be allocated.
    pub(super) fn new(asking: Asking<'m>, links: AnswererLinks) -> Result<Self, Error> {
        let answerer = Self {
            asking,
            engine: asking.engine()?,
            cache: MediaCache::new(links.cache_bytes),
            links,
            waiting: HashMap::new(),
            encoding: HashMap::new(),
            encoding_by_key: HashMap::new(),
            n_encodings: 0,
            running: HashMap::new(),
            ended: Rc::default(),
            abort: Rc::default(),
            media_queries: 0,
            media_hits: 0,
        };
        answerer.publish();
        Ok(answerer)
    }

    /// Returns the limit of requests that run at once.
    pub(super) fn max_sequences(&self) -> usize {
        self.engine.max_sequences()
    }

    /// Answers jobs until the service ends; those that are open then fail.
    pub(super) fn run(mut self, inputs: &Receiver<AnswererInput>) {
        loop {
            let next = match self.engine.is_idle() {
                true => inputs.recv().map_err(|_| TryRecvError::Disconnected),
                false => inputs.try_recv(),
            };
            match next {
                Ok(AnswererInput::Close) | Err(TryRecvError::Disconnected) => return self.abort(&stopped()),
                Ok(input) => self.take(input),
                Err(TryRecvError::Empty) => drop(self.engine.step()),
            }
            self.settle();
        }
    }

    fn take(&mut self, input: AnswererInput) {
        match input {
            AnswererInput::Job { id, job } => self.open(id, *job),
            AnswererInput::Cancel(id) => self.cancel(id),
            AnswererInput::Progress { id, n_frames } => self.progress(id, n_frames),
            AnswererInput::Encoded { id, outcome } => self.encoded(id, outcome),
            AnswererInput::Abort(error) => self.abort(&error),
            AnswererInput::Close => self.abort(&stopped()),
        }
    }

    /// Forgets the requests that have ended, and publishes the counters.
    fn settle(&mut self) {
        for id in self.ended.take() {
            self.running.remove(&id);
        }
        self.publish();
    }

    fn open(&mut self, id: JobId, job: OpenJob) {
        let mut media = Vec::with_capacity(job.chat.media.len());
        for medium in &job.chat.media {
            self.media_queries += 1;
            let cached = self.cache.get(&medium.key).map(|encoded| JobMedium { encoded, is_cached: true });
            let on_the_way = self.encoding_by_key.get(&medium.key).copied();
            self.media_hits += u64::from(cached.is_some() || on_the_way.is_some());
            match (&cached, on_the_way) {
                (Some(_), _) => {}
                (None, Some(encoding)) => {
                    self.encoding.get_mut(&encoding).into_iter().for_each(|encoding| encoding.jobs.push(id));
                }
                (None, None) if medium.is_absent() => {}
                (None, None) => self.encode(id, medium.clone()),
            }
            media.push(cached);
        }
        let is_missing = |(medium, found): &(&Arc<Media>, &Option<JobMedium>)| {
            found.is_none() && medium.is_absent() && !self.encoding_by_key.contains_key(&medium.key)
        };
        let missing = job.chat.media.iter().zip(&media).find(is_missing).map(|(medium, _)| no_content(medium));
        self.waiting.insert(id, WaitingJob { job, media });
        match missing {
            Some(error) => self.fail(id, error),
            None => self.start_if_complete(id),
        }
    }

    /// Sends a medium to the encoder, for a job.
    fn encode(&mut self, job: JobId, media: Arc<Media>) {
        self.n_encodings += 1;
        let (id, interest) = (EncodeId(self.n_encodings), Interest::default());
        self.links.known.add(&media);
        self.encoding_by_key.insert(media.key, id);
        let encoding = EncodingMedium { media: media.clone(), interest: interest.clone(), jobs: vec![job] };
        self.encoding.insert(id, encoding);
        // The encoder ends after this thread.
        let _ = self.links.encoder.send(EncodeJob { id, media, interest });
    }

    fn progress(&mut self, id: EncodeId, n_frames: usize) {
        self.links.counters.n_frames.fetch_add(1, Ordering::Relaxed);
        for job in self.encoding.get(&id).into_iter().flat_map(|medium| &medium.jobs) {
            if let Some(waiting) = self.waiting.get_mut(job) {
                waiting.job.reporter.report(JobEvent::Encoded { n_frames });
            }
        }
    }

    fn encoded(&mut self, id: EncodeId, outcome: Result<Box<EncodedVideo>, Error>) {
        // Without an entry, all jobs were cancelled.
        let Some(EncodingMedium { media, jobs, .. }) = self.encoding.remove(&id) else { return };
        let key = media.key;
        self.encoding_by_key.remove(&key);
        match outcome {
            Err(error) => {
                self.links.known.remove(&key);
                for job in jobs {
                    let waiting = self.waiting.get(&job).map(|waiting| &waiting.job.chat.media);
                    let own = waiting.and_then(|media| media.iter().find(|medium| medium.key == key)).cloned();
                    let own = own.as_ref().unwrap_or(&media);
                    self.fail(job, media.named(error.clone(), &own.name).about(own.param.clone()));
                }
            }
            Ok(video) => {
                let encoded = EncodedMedium::new(*video);
                for evicted in self.cache.put(&key, encoded.clone()) {
                    self.links.known.remove(&evicted);
                }
                let mut is_first = true;
                for job in jobs {
                    let Some(waiting) = self.waiting.get_mut(&job) else { continue };
                    for (medium, slot) in waiting.job.chat.media.iter().zip(&mut waiting.media) {
                        if medium.key == key && slot.is_none() {
                            *slot = Some(JobMedium { encoded: encoded.clone(), is_cached: !is_first });
                        }
                    }
                    is_first = false;
                    self.start_if_complete(job);
                }
            }
        }
    }

    /// Submits the request of a job whose media are all encoded.
    fn start_if_complete(&mut self, id: JobId) {
        let is_complete = |waiting: &WaitingJob| waiting.media.iter().all(Option::is_some);
        if !self.waiting.get(&id).is_some_and(is_complete) {
            return;
        }
        let Some(WaitingJob { job, media }) = self.waiting.remove(&id) else { return };
        let media = media.into_iter().flatten().collect();
        let (ended, abort) = (self.ended.clone(), self.abort.clone());
        let on_end = Box::new(move |outcome: Result<JobAnswer, Error>| {
            ended.borrow_mut().push(id);
            let reason = |error: Error| match &*abort.borrow() {
                Some(reason) if error.kind() == Kind::Stopped => reason.clone(),
                _ => error,
            };
            outcome.map_err(reason)
        });
        if let Some(request) = RunningJob::new(self.asking, job, media).request(&self.links.limits, on_end) {
            let request = self.engine.submit(request);
            self.running.insert(id, request);
        }
    }

    /// Fails a job that waits for media.
    fn fail(&mut self, id: JobId, error: Error) {
        let Some(mut waiting) = self.waiting.remove(&id) else { return };
        for medium in &waiting.job.chat.media {
            let Some(&encoding) = self.encoding_by_key.get(&medium.key) else { continue };
            let Some(entry) = self.encoding.get_mut(&encoding) else { continue };
            entry.jobs.retain(|job| *job != id);
            if entry.jobs.is_empty() {
                entry.interest.withdraw();
                self.encoding.remove(&encoding);
                self.encoding_by_key.remove(&medium.key);
                self.links.known.remove(&medium.key);
            }
        }
        waiting.job.reporter.finish(Err(error));
    }

    fn cancel(&mut self, id: JobId) {
        self.fail(id, cancelled());
        if let Some(request) = self.running.remove(&id) {
            self.engine.cancel(request);
        }
    }

    fn abort(&mut self, error: &Error) {
        *self.abort.borrow_mut() = Some(error.clone());
        let waiting: Vec<JobId> = self.waiting.keys().copied().collect();
        waiting.into_iter().for_each(|id| self.fail(id, error.clone()));
        self.engine.cancel_all();
    }

    fn publish(&self) {
        self.links.counters.store(ServiceLoad {
            n_running: self.engine.n_running(),
            n_encoding: self.encoding.len(),
            kv_bytes: self.engine.kv_bytes(),
            n_cached: self.cache.len(),
            cached_bytes: self.cache.bytes(),
            media_queries: self.media_queries,
            media_hits: self.media_hits,
            engine: self.engine.stats(),
            ..ServiceLoad::default()
        });
    }
}

/// Returns the error of a medium that was sent as a name alone, and whose tokens are no longer in memory.
fn no_content(medium: &Media) -> Error {
    let rule = "the content of an earlier request is no longer known";
    let error = Error::invalid(rule).with_hint("send the content again").about(medium.name.clone());
    error.about(medium.param.clone())
}

/// Returns the error of a job that its client gave up.
pub(super) fn cancelled() -> Error {
    Error::new(Kind::Stopped, "cancelled")
}

/// Returns the error of a job that the end of the service cut off.
pub(super) fn stopped() -> Error {
    Error::new(Kind::Stopped, "the server is shutting down")
}
