//! Questions about many videos: the stages of [`Stages`], with the engine as the last stage. Called by `run`, `eval`
//! and `batch`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::ask::{Answer, Asking};
use super::error::guarded;
use super::item::VideoRef;
use super::stages::Encoded;
use super::{
    EncodedVideo, FittingPrompt, FrameStamp, ItemError, Job, Limits, Stages, Timings, VideoOptions, VideoProgress,
};
use crate::engine::{Engine, EngineStats, RequestEvent, RequestListener, Visual};
use crate::error::{Error, Kind};
use crate::exec::{Inlet, RunControl, StageReport, Stop, lock};
use crate::text::{ShownFrames, Subtitle};
use crate::video::ReadReport;
use crate::vlm::{PromptIds, TextTokens};

/// Name of the last stage.
pub(super) const GENERATE: &str = "generate";

/// Outcome of one video.
#[derive(Debug)]
pub struct VideoOutcome {
    /// Video.
    pub video: VideoRef,
    /// Answers, or the failure of the video.
    pub outcome: Result<AnsweredVideo, ItemError>,
}

/// A video with its answers, without its visual tokens.
#[derive(Debug)]
pub struct AnsweredVideo {
    /// Sampled frames.
    pub frames: Vec<FrameStamp>,
    /// Report of the reader.
    pub report: ReadReport,
    /// Time spent by stage before the questions.
    pub timings: Timings,
    /// One answer per question, in the order of the questions; an error where a question failed.
    pub answers: Vec<Result<Answer, ItemError>>,
}

/// Event of a run. Answers about several videos come in any order.
#[derive(Debug)]
pub(crate) enum RunEvent<'a> {
    /// A question was answered or failed.
    Answer {
        /// Video of the question.
        video: &'a VideoRef,
        /// Encoded video.
        encoded: &'a EncodedVideo,
        /// Index of the question in the job.
        question: usize,
        /// Answer, or the failure of the question.
        answer: Result<Answer, ItemError>,
    },
    /// Last event of a video: all its questions were answered or failed, or the video failed.
    Done {
        /// Video.
        video: &'a VideoRef,
        /// Encoded video, or its failure.
        encoded: Result<&'a EncodedVideo, ItemError>,
    },
}

/// Reports of a finished run.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// Report of each stage.
    pub stages: Vec<StageReport>,
    /// Counters of the engine.
    pub engine: EngineStats,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// Returns the warning about a smaller batch of images.
pub fn smaller_batch(n_images: usize) -> String {
    let rule = format!("the tower takes {n_images} image(s) at a time from now on");
    let error = Error::new(Kind::OutOfMemory, rule).about("out of device memory");
    error.with_hint(format!("a smaller --kv-memory, or exec.encode_batch={n_images}")).to_string()
}

impl<'a> Asking<'a> {
    /// Asks every question about every video, many at once. `on_event` receives each answer as it is completed.
    ///
    /// # Errors
    /// When a stage panics, or the model has no key-value memory. Failures of a video or a question are events.
    pub(crate) fn run(
        &self,
        jobs: impl Iterator<Item = Job> + Send,
        options: VideoOptions<'_>,
        control: &RunControl,
        on_event: &mut dyn FnMut(RunEvent<'_>),
    ) -> Result<RunReport, Error> {
        let warnings = Mutex::new(Vec::new());
        let on_progress = |_: &VideoRef, progress| {
            if let VideoProgress::SmallerBatch { n_images } = progress {
                lock(&warnings).push(smaller_batch(n_images));
            }
        };
        let stages = Stages::new(self.vlm, self.plan, &on_progress).with(options);
        let with_text = jobs.map(|job| {
            // A question that cannot be tokenized fails when it is asked.
            let text =
                guarded(|| Ok(self.texts(&job.all_questions).min_by_key(|text| text.with_frames(1)))).ok().flatten();
            (job, text)
        });
        // The engine sizes its memory before the stages allocate theirs.
        let engine = self.engine()?;
        let generate = |inlet: &Inlet<Encoded>| {
            let on_event = RefCell::new(on_event);
            let emit = |event: RunEvent<'_>| (on_event.borrow_mut())(event);
            AnswerStage { asking: *self, limits: options.limits, stop: &control.stop, emit: &emit }.run(engine, inlet)
        };
        let (engine, stages) = stages.run(with_text, control, GENERATE, generate)?;
        let warnings = std::mem::take(&mut *lock(&warnings));
        Ok(RunReport { stages, engine, warnings })
    }

    /// Asks every question about every video, many at once. `on_video` receives whole videos in the order of the jobs.
    ///
    /// # Errors
    /// When a stage panics, or the model has no key-value memory. Failures of a video or a question are outcomes.
    pub fn run_in_order(
        &self,
        jobs: impl Iterator<Item = Job> + Send,
        options: VideoOptions<'_>,
        control: &RunControl,
        on_video: &mut dyn FnMut(VideoOutcome),
    ) -> Result<RunReport, Error> {
        let mut in_order = InOrder { next: 0, waiting: BTreeMap::new() };
        let mut answers: BTreeMap<usize, BTreeMap<usize, _>> = BTreeMap::new();
        let report = self.run(jobs, options, control, &mut |event| match event {
            RunEvent::Answer { video, question, answer, .. } => {
                answers.entry(video.number).or_default().insert(question, answer);
            }
            RunEvent::Done { video, encoded } => {
                let answers = answers.remove(&video.number).unwrap_or_default().into_values().collect();
                let outcome = encoded.map(|encoded| {
                    let (frames, report, timings) = (encoded.frames.clone(), encoded.report.clone(), encoded.timings);
                    AnsweredVideo { frames, report, timings, answers }
                });
                in_order.add(VideoOutcome { video: video.clone(), outcome }, on_video);
            }
        })?;
        in_order.finish(on_video);
        Ok(report)
    }

    /// Returns the token counts of each prompt's text; questions that cannot be tokenized are left out.
    fn texts(&self, questions: &[String]) -> impl Iterator<Item = TextTokens> {
        // Two frames give the count of the text between frames.
        const N_FRAMES: usize = 2;
        let are_separate = self.keeps_frames_separate(self.plan.temporal());
        let shown = ShownFrames { are_separate, ..ShownFrames::unknown(N_FRAMES) };
        questions.iter().filter_map(move |question| {
            let prompt = self.conversation(shown.clone()).ask(question).ok()?;
            Some(TextTokens::of(&PromptIds::encode(&prompt, self.vlm.tokenizer()).ok()?, N_FRAMES))
        })
    }
}

/// Last stage: submits requests about encoded videos while the engine has free slots.
#[derive(Clone, Copy)]
struct AnswerStage<'r> {
    asking: Asking<'r>,
    limits: Limits,
    stop: &'r Stop,
    emit: &'r (dyn Fn(RunEvent<'_>) + 'r),
}

/// A video with questions in the engine.
struct OpenVideo {
    video: VideoRef,
    encoded: EncodedVideo,
    /// Number of questions without an answer.
    n_open: Cell<usize>,
}

impl<'r> AnswerStage<'r> {
    fn run(self, mut engine: Engine<'r>, inlet: &Inlet<Encoded>) -> EngineStats {
        while !self.stop.is_aborted() {
            while engine.takes_more() {
                let next = if engine.is_idle() { inlet.recv() } else { inlet.recv_now() };
                match next {
                    Some(Encoded { video, outcome: Ok(encoded) }) => self.submit(video, encoded, &mut engine),
                    Some(Encoded { video, outcome: Err(error) }) => {
                        (self.emit)(RunEvent::Done { video: &video, encoded: Err(error) });
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
    fn submit(self, video: VideoRef, encoded: EncodedVideo, engine: &mut Engine<'r>) {
        let visual = Visual::new(encoded.visual.clone());
        let n_open = Cell::new(video.job.questions.len());
        let open = Rc::new(OpenVideo { video, encoded, n_open });
        if open.n_open.get() == 0 {
            (self.emit)(RunEvent::Done { video: &open.video, encoded: Ok(&open.encoded) });
        }
        for (index, text) in open.video.job.questions.iter().enumerate() {
            let request = guarded(|| {
                let question = self.question(text, &open.encoded, &open.video.job.subtitles)?;
                let listener = self.listener(open.clone(), index, question.clone());
                self.asking.request(&question, &visual, &self.limits, listener)
            });
            match request {
                Err(error) => self.answer(&open, index, Err(error)),
                Ok(request) => drop(engine.submit(request)),
            }
        }
    }

    fn question(self, text: &str, encoded: &EncodedVideo, subtitles: &Arc<[Subtitle]>) -> Result<FittingPrompt, Error> {
        let prompt = self.asking.conversation_with(encoded, subtitles).ask(text)?;
        self.asking.question(PromptIds::encode(&prompt, self.asking.vlm.tokenizer())?, encoded)
    }

    fn listener(self, open: Rc<OpenVideo>, index: usize, question: FittingPrompt) -> RequestListener<'r> {
        Box::new(move |event| {
            match event {
                RequestEvent::Token { .. } => {}
                RequestEvent::Done(outcome) => self.answer(&open, index, self.asking.answer(&question, outcome)),
            }
            ControlFlow::Continue(())
        })
    }

    /// Emits an answer, and after the last one of a video that the video is done.
    fn answer(self, open: &OpenVideo, index: usize, answer: Result<Answer, Error>) {
        // An answer cut off by an abort is discarded.
        if self.stop.is_aborted() {
            return;
        }
        let OpenVideo { video, encoded, n_open } = open;
        let answer = answer.map_err(|source| ItemError::new(GENERATE, source));
        (self.emit)(RunEvent::Answer { video, encoded, question: index, answer });
        n_open.set(n_open.get().saturating_sub(1));
        if n_open.get() == 0 {
            (self.emit)(RunEvent::Done { video, encoded: Ok(encoded) });
        }
    }
}

/// Buffer that restores the order of the jobs.
struct InOrder {
    next: usize,
    waiting: BTreeMap<usize, VideoOutcome>,
}

impl InOrder {
    fn add(&mut self, outcome: VideoOutcome, on_video: &mut dyn FnMut(VideoOutcome)) {
        self.waiting.insert(outcome.video.number, outcome);
        while let Some(outcome) = self.waiting.remove(&self.next) {
            self.next += 1;
            on_video(outcome);
        }
    }

    /// Emits the buffered outcomes of a stopped run, in which an earlier video was never finished.
    fn finish(self, on_video: &mut dyn FnMut(VideoOutcome)) {
        self.waiting.into_values().for_each(on_video);
    }
}
