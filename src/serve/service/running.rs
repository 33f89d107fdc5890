//! A job whose media are encoded: its request of the engine, and the events of that request.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Instant;

use super::input::{JobMedium, OpenJob};
use super::job::{JobAnswer, JobEvent, JobReporter, JobTimes, MediaUse};
use crate::engine::{Request, RequestEvent, Visual};
use crate::error::Error;
use crate::pipeline::{Answer, Asking, ChatPrompt, EncodedVideo, FittingPrompt, Limits};

/// Last step of an outcome, before it is reported.
type OnEnd<'m> = Box<dyn Fn(Result<JobAnswer, Error>) -> Result<JobAnswer, Error> + 'm>;

/// Warning about a conversation of which the prompt shows the last question alone.
const ONE_TURN: &str = "this checkpoint takes single questions only: the answer is without the earlier ones";

/// Job whose media are encoded.
pub(super) struct RunningJob<'m> {
    asking: Asking<'m>,
    job: OpenJob,
    media: Vec<JobMedium>,
    encoded: Instant,
}

/// AnswerProgress of a request.
struct AnswerProgress {
    reporter: JobReporter,
    submitted: Instant,
    encoded: Instant,
    first_token: Option<Instant>,
    media: Vec<MediaUse>,
    warnings: Vec<String>,
}

impl<'m> RunningJob<'m> {
    pub(super) fn new(asking: Asking<'m>, job: OpenJob, media: Vec<JobMedium>) -> Self {
        Self { asking, job, media, encoded: Instant::now() }
    }

    /// Returns the job's request; `None` if it has none, which is reported.
    pub(super) fn request(self, limits: &Limits, on_end: OnEnd<'m>) -> Option<Request<'m>> {
        let Self { asking, job: OpenJob { chat, mut reporter, submitted }, media, encoded } = self;
        reporter.report(JobEvent::Prefilling);
        let videos: Vec<&EncodedVideo> = media.iter().map(|medium| &*medium.encoded.video).collect();
        let visuals: Vec<Visual> = media.iter().map(|medium| medium.encoded.visual.clone()).collect();
        let prompt = ChatPrompt { system: chat.system.as_deref(), turns: &chat.turns, media: &videos };
        let prompt = match asking.chat_prompt(&prompt, &chat.options) {
            Ok(prompt) => prompt,
            Err(error) => {
                reporter.finish(on_end(Err(error)));
                return None;
            }
        };
        let media = media.iter().map(media_use).collect();
        let has_lost_turns = chat.turns.len() > 1 && !asking.template.has_turns();
        let warnings = has_lost_turns.then(|| ONE_TURN.to_owned()).into_iter().collect();
        let progress = AnswerProgress { reporter, submitted, encoded, first_token: None, media, warnings };
        let progress = Rc::new(RefCell::new(progress));
        let on_end = Rc::new(on_end);
        let listener = {
            let (progress, prompt, on_end) = (progress.clone(), prompt.clone(), on_end.clone());
            Box::new(move |event: RequestEvent<'_>| {
                progress.borrow_mut().take(asking, &prompt, event, &**on_end);
                ControlFlow::Continue(())
            })
        };
        let request = asking.chat_request(&prompt, &visuals, limits, listener);
        request.map_err(|error| progress.borrow_mut().reporter.finish(on_end(Err(error)))).ok()
    }
}

impl AnswerProgress {
    fn take(
        &mut self,
        asking: Asking<'_>,
        prompt: &FittingPrompt,
        event: RequestEvent<'_>,
        on_end: &dyn Fn(Result<JobAnswer, Error>) -> Result<JobAnswer, Error>,
    ) {
        match event {
            RequestEvent::Token { text, .. } => {
                self.first_token.get_or_insert_with(Instant::now);
                self.text(text);
            }
            RequestEvent::Done(outcome) => {
                if let Ok(completion) = &outcome {
                    self.text(&completion.rest);
                }
                let answer = asking.answer(prompt, outcome).map(|answer| self.answer(answer));
                self.reporter.finish(on_end(answer));
            }
        }
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.reporter.report(JobEvent::Text(text.to_owned()));
        }
    }

    fn answer(&mut self, answer: Answer) -> JobAnswer {
        let times = JobTimes {
            media: self.encoded - self.submitted,
            first_token: self.first_token.map_or_else(|| self.encoded.elapsed(), |first| first - self.encoded),
            total: self.submitted.elapsed(),
        };
        let (media, warnings) = (std::mem::take(&mut self.media), std::mem::take(&mut self.warnings));
        JobAnswer { answer, media, times, warnings }
    }
}

fn media_use(medium: &JobMedium) -> MediaUse {
    let video = &medium.encoded.video;
    MediaUse {
        frames: video.frames.clone(),
        n_tokens: video.visual.dim(0).unwrap_or(0),
        is_cached: medium.is_cached || video.is_cached,
        warnings: video.report.warnings.clone(),
        timings: video.timings,
    }
}
