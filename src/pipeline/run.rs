//! Questions about many videos: the stages of [`Stages`] with the engine at their end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Mutex;

use super::ask::{Answer, Asking, FittingPrompt};
use super::error::guarded;
use super::item::VideoRef;
use super::stages::Encoded;
use super::{
    EncodedVideo, FrameStamp, ItemError, Job, Limits, PipelineError, Stages, Timings, VideoOptions, VideoProgress,
};
use crate::engine::{Engine, EngineStats, RequestEvent, RequestListener, Visual};
use crate::exec::{Inlet, RunControl, StageReport, Stop, lock};
use crate::text::ShownFrames;
use crate::video::ReadReport;
use crate::vlm::{ModelError, PromptIds, TextTokens};

/// The name of the last stage.
pub(super) const GENERATE: &str = "generate";

/// What became of one video.
#[derive(Debug)]
pub struct VideoOutcome {
    /// The video.
    pub video: VideoRef,
    /// Its answers, or why there was nothing to ask about.
    pub outcome: Result<AnsweredVideo, ItemError>,
}

/// A video with its answers, without the tokens behind them.
#[derive(Debug)]
pub struct AnsweredVideo {
    /// The frames that were looked at.
    pub frames: Vec<FrameStamp>,
    /// What reading found.
    pub report: ReadReport,
    /// Time spent before the questions.
    pub timings: Timings,
    /// One answer a question, in their order; an error where a question could not be asked.
    pub answers: Vec<Result<Answer, ItemError>>,
}

/// An event of a run, as it happens: answers about several videos come in any order.
#[derive(Debug)]
pub enum RunEvent<'a> {
    /// A question was answered, or could not be.
    Answer {
        /// About this video.
        video: &'a VideoRef,
        /// What was seen of it.
        seen: &'a EncodedVideo,
        /// Its place among the job's questions.
        question: usize,
        /// The answer, or why there is none.
        answer: Result<Answer, ItemError>,
    },
    /// The last event of a video: all questions about it were answered, or none could be asked.
    Done {
        /// The video.
        video: &'a VideoRef,
        /// What was seen of it, or why nothing was.
        seen: Result<&'a EncodedVideo, ItemError>,
    },
}

/// Reports of a finished run.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// Report of each stage.
    pub stages: Vec<StageReport>,
    /// Counters of the engine.
    pub engine: EngineStats,
    /// Sentences about what had to be done otherwise than planned.
    pub warnings: Vec<String>,
}

/// A batch of images that had to become smaller, in words.
pub fn smaller_batch(n_images: usize) -> String {
    format!(
        "the device had no memory for more: {n_images} image(s) at a time go through the tower from now on; hint: a smaller --kv-memory, or exec.encode_batch={n_images}"
    )
}

impl<'a> Asking<'a> {
    /// Asks every question about every video, many at once. `listen` hears of each answer as it comes.
    ///
    /// # Errors
    /// When a stage panics, or the model has no key-value memory. What fails for one video, or one question, is told to `listen`.
    pub fn run(
        &self,
        jobs: impl Iterator<Item = Job> + Send,
        (apart, watch): (VideoOptions<'_>, &RunControl),
        listen: &mut dyn FnMut(RunEvent<'_>),
    ) -> Result<RunReport, PipelineError> {
        let warnings = Mutex::new(Vec::new());
        let on_progress = |_: &VideoRef, progress| {
            if let VideoProgress::SmallerBatch { n_images } = progress {
                lock(&warnings).push(smaller_batch(n_images));
            }
        };
        let stages = Stages::new(self.vlm, self.plan, &on_progress).with(apart);
        let with_text = jobs.map(|job| {
            // A question that cannot even be tokenised fails where it is asked.
            let text =
                guarded(|| Ok(self.texts(&job.all_questions).min_by_key(|text| text.with_frames(1)))).ok().flatten();
            (job, text)
        });
        // The memory is counted before the stages take theirs.
        let engine = self.engine()?;
        let generate = |inlet: &Inlet<Encoded>| {
            let listen = RefCell::new(listen);
            let tell = |event: RunEvent<'_>| (listen.borrow_mut())(event);
            AnswerStage { asking: *self, limits: apart.limits, stop: &watch.stop, tell: &tell }.run(engine, inlet)
        };
        let (engine, stages) = stages.run(with_text, watch, (GENERATE, generate))?;
        let warnings = std::mem::take(&mut *lock(&warnings));
        Ok(RunReport { stages, engine, warnings })
    }

    /// As [`Self::run`], but `listen` hears of whole videos, in the order in which they were given.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_in_order(
        &self,
        jobs: impl Iterator<Item = Job> + Send,
        (apart, watch): (VideoOptions<'_>, &RunControl),
        listen: &mut dyn FnMut(VideoOutcome),
    ) -> Result<RunReport, PipelineError> {
        let mut in_order = InOrder { next: 0, waiting: BTreeMap::new() };
        let mut answers: BTreeMap<usize, BTreeMap<usize, _>> = BTreeMap::new();
        let report = self.run(jobs, (apart, watch), &mut |event| match event {
            RunEvent::Answer { video, question, answer, .. } => {
                answers.entry(video.number).or_default().insert(question, answer);
            }
            RunEvent::Done { video, seen } => {
                let answers = answers.remove(&video.number).unwrap_or_default().into_values().collect();
                let outcome = seen.map(|seen| {
                    let (frames, report, timings) = (seen.frames.clone(), seen.report.clone(), seen.timings);
                    AnsweredVideo { frames, report, timings, answers }
                });
                in_order.add(VideoOutcome { video: video.clone(), outcome }, listen);
            }
        })?;
        in_order.finish(listen);
        Ok(report)
    }

    /// Tokens of each prompt's text, where it can be tokenised.
    fn texts(&self, questions: &[String]) -> impl Iterator<Item = TextTokens> {
        // Two frames tell the words between them.
        const N_FRAMES: usize = 2;
        let shown = ShownFrames::unknown(N_FRAMES, self.are_apart(self.plan.temporal()));
        questions.iter().filter_map(move |question| {
            let prompt = self.conversation(shown.clone()).ask(question).ok()?;
            Some(TextTokens::of(&PromptIds::encode(&prompt, self.vlm.tokenizer()).ok()?, N_FRAMES))
        })
    }
}

/// The last stage: encoded videos become requests, as long as the engine has places.
#[derive(Clone, Copy)]
struct AnswerStage<'r> {
    asking: Asking<'r>,
    limits: Limits,
    stop: &'r Stop,
    tell: &'r (dyn Fn(RunEvent<'_>) + 'r),
}

/// A video that is asked about.
struct AskedVideo {
    video: VideoRef,
    seen: EncodedVideo,
    /// Questions without an answer.
    n_open: Cell<usize>,
}

impl<'r> AnswerStage<'r> {
    fn run(self, mut engine: Engine<'r>, inlet: &Inlet<Encoded>) -> EngineStats {
        while !self.stop.is_aborted() {
            while engine.takes_more() {
                let next = if engine.is_idle() { inlet.recv() } else { inlet.recv_now() };
                match next {
                    Some(Encoded { video, outcome: Ok(seen) }) => self.submit(video, seen, &mut engine),
                    Some(Encoded { video, outcome: Err(error) }) => {
                        (self.tell)(RunEvent::Done { video: &video, seen: Err(error) });
                    }
                    None if engine.is_idle() => return engine.stats(),
                    None => break,
                }
                if self.stop.is_aborted() {
                    return engine.stats();
                }
            }
            engine.step();
        }
        engine.stats()
    }

    /// Submits every question about a video.
    fn submit(self, video: VideoRef, seen: EncodedVideo, engine: &mut Engine<'r>) {
        let visual = Visual::new(seen.visual.clone());
        let n_open = Cell::new(video.job.questions.len());
        let asked = Rc::new(AskedVideo { video, seen, n_open });
        if asked.n_open.get() == 0 {
            (self.tell)(RunEvent::Done { video: &asked.video, seen: Ok(&asked.seen) });
        }
        for (place, text) in asked.video.job.questions.iter().enumerate() {
            let request = guarded(|| {
                let question = self.question(text, &asked.seen)?;
                let listener = self.listener(asked.clone(), place, question.clone());
                self.asking.request(&question, &visual, &self.limits, listener)
            });
            match request {
                Err(error) => self.answer(&asked, place, Err(error)),
                Ok(request) => drop(engine.submit(request)),
            }
        }
    }

    fn question(self, text: &str, seen: &EncodedVideo) -> Result<FittingPrompt, PipelineError> {
        let prompt = self.asking.conversation_about(seen).ask(text).map_err(ModelError::from)?;
        self.asking.question(PromptIds::encode(&prompt, self.asking.vlm.tokenizer())?, seen)
    }

    fn listener(self, asked: Rc<AskedVideo>, place: usize, question: FittingPrompt) -> RequestListener<'r> {
        Box::new(move |event| {
            match event {
                RequestEvent::Token { .. } => {}
                RequestEvent::Done(outcome) => self.answer(&asked, place, self.asking.answer(&question, outcome)),
            }
            ControlFlow::Continue(())
        })
    }

    /// Tells an answer, and after the last one that the video is done.
    fn answer(self, asked: &AskedVideo, place: usize, answer: Result<Answer, PipelineError>) {
        // An answer that was cut off is none.
        if self.stop.is_aborted() {
            return;
        }
        let AskedVideo { video, seen, n_open } = asked;
        let answer = answer.map_err(|source| ItemError::new(GENERATE, source));
        (self.tell)(RunEvent::Answer { video, seen, question: place, answer });
        n_open.set(n_open.get().saturating_sub(1));
        if n_open.get() == 0 {
            (self.tell)(RunEvent::Done { video, seen: Ok(seen) });
        }
    }
}

/// Puts what comes in any order into the order of its numbers.
struct InOrder {
    next: usize,
    waiting: BTreeMap<usize, VideoOutcome>,
}

impl InOrder {
    fn add(&mut self, answered: VideoOutcome, listen: &mut dyn FnMut(VideoOutcome)) {
        self.waiting.insert(answered.video.number, answered);
        while let Some(answered) = self.waiting.remove(&self.next) {
            self.next += 1;
            listen(answered);
        }
    }

    /// What still waits when a run was ended: a video before it never came.
    fn finish(self, listen: &mut dyn FnMut(VideoOutcome)) {
        self.waiting.into_values().for_each(listen);
    }
}
