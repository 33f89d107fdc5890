//! Asking every question of a list, through the stages of a run: videos are decoded while others are answered, and a
//! video is encoded once for all questions about it.

use std::path::Path;
use std::sync::Arc;

use super::{EvalQuestion, ExactMatchScores};
use crate::exec::RunControl;
use crate::pipeline::{Asking, ItemError, Job, PipelineError, RunReport, VideoOptions, VideoOutcome};

/// What a listener hears.
#[derive(Debug)]
pub enum EvalEvent<'a> {
    /// A question is answered.
    Answered {
        /// The question.
        asked: &'a EvalQuestion,
        /// What the model said.
        given: &'a str,
    },
    /// A video could not be read, or a question not be asked; what was not answered counts as wrong.
    Failed {
        /// The video.
        video: &'a Path,
        /// Why.
        error: ItemError,
    },
}

/// Asks all questions as `asking` says, and counts the exact answers. Questions about one video should stand together.
/// `listen` hears of the questions in their order, until it fails.
///
/// # Errors
/// When a stage panics. What fails for one video, or one question, is told to `listen`; an error of `listen` ends the run, and is
/// the inner one.
pub fn evaluate<E>(
    asking: Asking<'_>,
    asked: &[EvalQuestion],
    (apart, watch): (VideoOptions<'_>, &RunControl),
    listen: &mut dyn FnMut(EvalEvent<'_>) -> Result<(), E>,
) -> Result<Result<(ExactMatchScores, RunReport), E>, PipelineError> {
    let about_each: Vec<&[EvalQuestion]> = asked.chunk_by(|a, b| a.video == b.video).collect();
    let jobs: Vec<Job> = about_each.iter().map(|about_one| job(about_one)).collect();
    let (mut scores, mut heard) = (ExactMatchScores::default(), Ok(()));
    let report = asking.run_in_order(jobs.into_iter(), (apart, watch), &mut |VideoOutcome { video, outcome }| {
        let about_one = about_each[video.number];
        let answers = match outcome {
            Ok(seen) => seen.answers,
            Err(error) => {
                about_one.iter().for_each(|asked| scores.add_unanswered(&asked.kind, &asked.answer));
                tell(&mut heard, watch, || listen(EvalEvent::Failed { video: video.path(), error }));
                return;
            }
        };
        for (asked, answer) in about_one.iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    scores.add(&asked.kind, &asked.answer, &answer.text);
                    tell(&mut heard, watch, || listen(EvalEvent::Answered { asked, given: &answer.text }));
                }
                Err(error) => {
                    scores.add_unanswered(&asked.kind, &asked.answer);
                    tell(&mut heard, watch, || listen(EvalEvent::Failed { video: video.path(), error }));
                }
            }
        }
    })?;
    Ok(heard.map(|()| (scores, report)))
}

/// All questions about one video.
fn job(about_one: &[EvalQuestion]) -> Job {
    let questions: Arc<[String]> = about_one.iter().map(|asked| asked.question.clone()).collect();
    Job { path: about_one[0].video.clone(), window: None, questions: questions.clone(), all_questions: questions }
}

/// Tells a listener that has not failed yet; its failure ends the run.
fn tell<E>(heard: &mut Result<(), E>, watch: &RunControl, listen: impl FnOnce() -> Result<(), E>) {
    if heard.is_ok() {
        *heard = listen();
        if heard.is_err() {
            watch.stop.abort();
        }
    }
}
