//! Questions about many videos: the stages of [`Stages`] with the language model at their end.

use std::collections::BTreeMap;

use super::error::guarded;
use super::item::VideoRef;
use super::stages::Encoded;
use super::{Answer, Apart, EncodedVideo, FrameStamp, ItemError, Job, Stages, Timings, conversation};
use crate::exec::{ExecError, Inlet, StageReport, Watch};
use crate::spec::Plan;
use crate::text::Template;
use crate::units::Tokens;
use crate::video::ReadReport;
use crate::vlm::{PromptIds, Vlm};

/// The name of the last stage.
pub(super) const GENERATE: &str = "generate";

/// A loaded model, and how it is asked.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// The model.
    pub vlm: &'a Vlm,
    /// The words around a question.
    pub template: &'a Template,
    /// All other choices.
    pub plan: &'a Plan,
}

/// What became of one video.
#[derive(Debug)]
pub struct Answered {
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

/// What happens in a run, told at once.
#[derive(Debug)]
pub enum Told<'a> {
    /// A question was asked.
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
    /// All questions about a video were asked, or none could be.
    Done {
        /// The video.
        video: &'a VideoRef,
        /// What was seen of it, or why nothing was.
        seen: Result<&'a EncodedVideo, ItemError>,
    },
}

impl Asking<'_> {
    /// Asks every question about every video. `listen` hears of each answer as it comes.
    ///
    /// # Errors
    /// When a stage panics. What fails for one video, or one question, is told to `listen`.
    pub fn run(
        &self,
        jobs: impl Iterator<Item = Job> + Send,
        (apart, watch): (Apart<'_>, &Watch),
        listen: &mut dyn FnMut(Told<'_>),
    ) -> Result<Vec<StageReport>, ExecError> {
        let stages = Stages::new(self.vlm, self.plan, &|_, _| {}).with(apart);
        let with_text = jobs.map(|job| {
            // A question that cannot even be tokenised fails where it is asked.
            let text = guarded(|| Ok(self.texts(&job.all_questions).min())).ok().flatten();
            (job, text)
        });
        let generate = |inlet: &Inlet<Encoded>| {
            while let Some(Encoded { video, outcome }) = inlet.recv() {
                if let Ok(seen) = &outcome {
                    self.ask_each(seen, &video.job.questions, (&apart.limits, &watch.stop), &mut |question, answer| {
                        // An answer that was cut off is none.
                        if !watch.stop.is_aborted() {
                            let answer = answer.map_err(|source| ItemError::new(GENERATE, source));
                            listen(Told::Answer { video: &video, seen, question, answer });
                        }
                    });
                }
                if watch.stop.is_aborted() {
                    return;
                }
                match outcome {
                    Ok(seen) => listen(Told::Done { video: &video, seen: Ok(&seen) }),
                    Err(error) => listen(Told::Done { video: &video, seen: Err(error) }),
                }
            }
        };
        let ((), reports) = stages.run(with_text, watch, (GENERATE, generate))?;
        Ok(reports)
    }

    /// As [`Self::run`], but `listen` hears of whole videos, in the order in which they were given.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_in_order(
        &self,
        jobs: impl Iterator<Item = Job> + Send,
        (apart, watch): (Apart<'_>, &Watch),
        listen: &mut dyn FnMut(Answered),
    ) -> Result<Vec<StageReport>, ExecError> {
        let mut in_order = InOrder { next: 0, waiting: BTreeMap::new() };
        let mut answers = BTreeMap::new();
        let reports = self.run(jobs, (apart, watch), &mut |told| match told {
            Told::Answer { question, answer, .. } => drop(answers.insert(question, answer)),
            Told::Done { video, seen } => {
                let answers = std::mem::take(&mut answers).into_values().collect();
                let outcome = seen.map(|seen| {
                    let (frames, report, timings) = (seen.frames.clone(), seen.report.clone(), seen.timings);
                    AnsweredVideo { frames, report, timings, answers }
                });
                in_order.add(Answered { video: video.clone(), outcome }, listen);
            }
        })?;
        in_order.finish(listen);
        Ok(reports)
    }

    /// Tokens of each prompt's text, where it can be tokenised.
    fn texts(&self, questions: &[String]) -> impl Iterator<Item = Tokens> {
        questions.iter().filter_map(|question| {
            let mut conversation = conversation(self.template, &self.plan.prompt, self.vlm.image_marks());
            let ids = PromptIds::encode(&conversation.ask(question).ok()?, self.vlm.tokenizer()).ok()?;
            Some(Tokens(ids.n_text()))
        })
    }
}

/// Puts what comes in any order into the order of its numbers.
struct InOrder {
    next: usize,
    waiting: BTreeMap<usize, Answered>,
}

impl InOrder {
    fn add(&mut self, answered: Answered, listen: &mut dyn FnMut(Answered)) {
        self.waiting.insert(answered.video.number, answered);
        while let Some(answered) = self.waiting.remove(&self.next) {
            self.next += 1;
            listen(answered);
        }
    }

    /// What still waits when a run was ended: a video before it never came.
    fn finish(self, listen: &mut dyn FnMut(Answered)) {
        self.waiting.into_values().for_each(listen);
    }
}
