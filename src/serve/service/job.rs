//! Jobs of the service: a conversation with its media, the conditions of its answer, and a listener.

use std::sync::Arc;
use std::time::Duration;

use super::load::ServiceCounters;
use crate::error::{Error, Kind};
use crate::pipeline::{Answer, AnswerOptions, ChatTurn, FrameStamp, Timings};
use crate::serve::media::Media;

/// Conversation to answer.
pub struct ChatJob {
    /// System text in place of the plan's.
    pub system: Option<String>,
    /// Turns; the last one is to be answered.
    pub turns: Vec<ChatTurn>,
    /// Media that the turns refer to by their index.
    pub media: Vec<Arc<Media>>,
    /// Conditions of the answer.
    pub options: AnswerOptions,
    /// Receiver of the events.
    pub listener: JobListener,
}

/// Conversation of a job, without its listener.
pub(super) struct JobChat {
    pub(super) system: Option<String>,
    pub(super) turns: Vec<ChatTurn>,
    pub(super) media: Vec<Arc<Media>>,
    pub(super) options: AnswerOptions,
}

/// Callback for the events of a job. Called from the service's threads, which it must not block.
pub type JobListener = Box<dyn FnMut(JobEvent) + Send>;

/// Event of a job.
#[derive(Debug)]
pub enum JobEvent {
    /// Frames of one of the media were encoded.
    Encoded {
        /// Number of frames of it so far.
        n_frames: usize,
    },
    /// All media are encoded; the prompt is read.
    Prefilling,
    /// Text that has become certain.
    Text(String),
    /// Last event: the answer, or the failure.
    Done(Result<JobAnswer, Error>),
}

/// Answer of a job.
#[derive(Debug, Clone)]
pub struct JobAnswer {
    /// Answer with its token counts.
    pub answer: Answer,
    /// Media that it is about, in the order of the job.
    pub media: Vec<MediaUse>,
    /// Wall times.
    pub times: JobTimes,
    /// Warnings about the conversation.
    pub warnings: Vec<String>,
}

/// Use of a medium by a job.
#[derive(Debug, Clone)]
pub struct MediaUse {
    /// Sampled frames.
    pub frames: Vec<FrameStamp>,
    /// Number of visual tokens.
    pub n_tokens: usize,
    /// Whether the tokens were computed for an earlier job.
    pub is_cached: bool,
    /// Warnings of its reading.
    pub warnings: Vec<String>,
    /// Time spent by stage, where it was encoded for this job.
    pub timings: Timings,
}

/// Wall times of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobTimes {
    /// From the submission until all media were encoded.
    pub media: Duration,
    /// From then to the first token: the wait for a slot, and the prompt.
    pub first_token: Duration,
    /// From the submission to the end.
    pub total: Duration,
}

/// Name of a job within its service, in the order of submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub(super) u64);

/// Listener of a job that is not done. It hears of the end exactly once, also if the job is dropped; the job counts as
/// open until then.
pub(super) struct JobReporter {
    listener: Option<JobListener>,
    counters: Arc<ServiceCounters>,
}

impl JobReporter {
    /// Takes the listener of a job that was counted as open.
    pub(super) fn new(listener: JobListener, counters: Arc<ServiceCounters>) -> Self {
        Self { listener: Some(listener), counters }
    }

    /// Reports an event other than the end.
    pub(super) fn report(&mut self, event: JobEvent) {
        if let Some(listener) = &mut self.listener {
            listener(event);
        }
    }

    /// Reports the end; later events are dropped.
    pub(super) fn finish(&mut self, outcome: Result<JobAnswer, Error>) {
        if let Some(mut listener) = self.listener.take() {
            listener(JobEvent::Done(outcome));
            self.counters.close();
        }
    }
}

impl Drop for JobReporter {
    fn drop(&mut self) {
        self.finish(Err(Error::new(Kind::Defect, "the answer was lost by a defect of this program")));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_end_is_reported_once_also_for_a_job_that_is_dropped() {
        let kinds = Arc::new(Mutex::new(Vec::new()));
        let listener = |kinds: Arc<Mutex<Vec<Kind>>>| -> JobListener {
            Box::new(move |event| {
                if let JobEvent::Done(Err(error)) = event {
                    kinds.lock().expect("no panic").push(error.kind());
                }
            })
        };
        let counters = Arc::new(ServiceCounters::default());
        assert!(counters.open(2) && counters.open(2));
        drop(JobReporter::new(listener(kinds.clone()), counters.clone()));
        let mut reporter = JobReporter::new(listener(kinds.clone()), counters.clone());
        reporter.finish(Err(Error::new(Kind::Stopped, "cancelled")));
        drop(reporter);
        assert_eq!(*kinds.lock().expect("no panic"), [Kind::Defect, Kind::Stopped]);
        assert_eq!(counters.load().n_open, 0);
    }
}
