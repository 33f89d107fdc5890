//! Running an evaluation: videos are decoded while others are answered, and each video is encoded once for all its
//! questions. Called by `eval`.

use std::path::Path;
use std::sync::Arc;

use super::{EvalQuestion, ExactMatchScores};
use crate::error::Error;
use crate::exec::{RunControl, Stop};
use crate::pipeline::{AnsweredVideo, Asking, ItemError, Job, RunReport, VideoOptions, VideoOutcome};

/// Event of an evaluation.
#[derive(Debug)]
pub enum EvalEvent<'a> {
    /// A question was answered.
    Answered {
        /// Question.
        question: &'a EvalQuestion,
        /// Answer of the model.
        answer: &'a str,
    },
    /// A question, or a video with all its questions, failed; the questions count as wrong.
    Failed {
        /// Path of the video.
        video: &'a Path,
        /// Questions.
        questions: &'a [EvalQuestion],
        /// Failure.
        error: ItemError,
    },
}

/// Evaluation of a model on questions with reference answers.
#[derive(Clone, Copy)]
pub struct Evaluation<'a> {
    /// Model, template and plan.
    pub asking: Asking<'a>,
    /// Questions. Those about one video should be adjacent: each run of them encodes the video once.
    pub questions: &'a [EvalQuestion],
    /// Options of the videos.
    pub options: VideoOptions<'a>,
    /// Control of the run.
    pub control: &'a RunControl,
}

impl Evaluation<'_> {
    /// Asks all questions, and counts exact matches. `on_event` is called in the order of the questions.
    ///
    /// # Errors
    /// When a stage panics. Failures of a video or a question are events. An error of `on_event` ends the run, and is
    /// the inner result.
    pub fn run<E>(
        &self,
        on_event: &mut dyn FnMut(EvalEvent<'_>) -> Result<(), E>,
    ) -> Result<Result<(ExactMatchScores, RunReport), E>, Error> {
        let is_of_one = |a: &EvalQuestion, b: &EvalQuestion| a.video == b.video && a.image_rate == b.image_rate;
        let groups: Vec<&[EvalQuestion]> = self.questions.chunk_by(is_of_one).collect();
        let jobs: Vec<Job> = groups.iter().map(|group| job(group)).collect();
        let mut tracker =
            EvalTracker { scores: ExactMatchScores::default(), observed: Ok(()), stop: &self.control.stop, on_event };
        let report = self.asking.run_in_order(jobs.into_iter(), self.options, self.control, &mut |outcome| {
            tracker.add(groups[outcome.video.number], outcome);
        })?;
        let EvalTracker { scores, observed, .. } = tracker;
        Ok(observed.map(|()| (scores, report)))
    }
}

/// Returns the job of all questions about one video.
fn job(group: &[EvalQuestion]) -> Job {
    let questions: Arc<[String]> = group.iter().map(|question| question.question.clone()).collect();
    Job { image_rate: group[0].image_rate, ..Job::new(group[0].video.clone(), questions) }
}

/// Scores of the answers so far, and the callback until its first error.
struct EvalTracker<'t, E> {
    scores: ExactMatchScores,
    observed: Result<(), E>,
    stop: &'t Stop,
    on_event: &'t mut dyn FnMut(EvalEvent<'_>) -> Result<(), E>,
}

impl<E> EvalTracker<'_, E> {
    /// Scores the answers about one video.
    fn add(&mut self, questions: &[EvalQuestion], VideoOutcome { video, outcome }: VideoOutcome) {
        match outcome {
            Ok(AnsweredVideo { answers, .. }) => {
                for (question, answer) in questions.iter().zip(answers) {
                    match answer {
                        Ok(answer) => {
                            self.scores.add(question, &answer.text);
                            self.emit(EvalEvent::Answered { question, answer: &answer.text });
                        }
                        Err(error) => {
                            self.scores.add_unanswered(question);
                            let questions = std::slice::from_ref(question);
                            self.emit(EvalEvent::Failed { video: video.path(), questions, error });
                        }
                    }
                }
            }
            Err(error) => {
                for question in questions {
                    self.scores.add_unanswered(question);
                }
                self.emit(EvalEvent::Failed { video: video.path(), questions, error });
            }
        }
    }

    /// Calls the callback unless it failed before; its error aborts the run.
    fn emit(&mut self, event: EvalEvent<'_>) {
        if self.observed.is_ok() {
            self.observed = (self.on_event)(event);
            if self.observed.is_err() {
                self.stop.abort();
            }
        }
    }
}
