//! Asking every question of a list: a video is encoded once for all questions about it.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Asked, Scores};
use crate::exec::Stop;
use crate::pipeline::{Asking, Limits, PipelineError, encode_video_within};

/// What a listener hears.
#[derive(Debug)]
pub enum EvalEvent<'a> {
    /// A question is answered.
    Answered {
        /// The question.
        asked: &'a Asked,
        /// What the model said.
        given: &'a str,
    },
    /// A video could not be read, or a question not be asked; what was not answered counts as wrong.
    Failed {
        /// The video.
        video: &'a Path,
        /// Why.
        error: PipelineError,
    },
}

/// Asks all questions as `asking` says, and counts the exact answers. Questions about one video should stand together.
///
/// # Errors
/// Only those of `listen`.
pub fn evaluate<E>(
    asking: Asking<'_>,
    asked: &[Asked],
    limits: &Limits,
    listen: &mut dyn FnMut(EvalEvent<'_>) -> Result<(), E>,
) -> Result<Scores, E> {
    let mut scores = Scores::default();
    for about_one in asked.chunk_by(|a, b| a.video == b.video) {
        let video = &about_one[0].video;
        let encoded = match encode_video_within(asking.vlm, video, (asking.plan, limits), &|_| {}) {
            Ok(encoded) => encoded,
            Err(error) => {
                about_one.iter().for_each(|asked| scores.add_unanswered(&asked.kind, &asked.answer));
                listen(EvalEvent::Failed { video, error })?;
                continue;
            }
        };
        let questions: Vec<String> = about_one.iter().map(|asked| asked.question.clone()).collect();
        let mut answers = BTreeMap::new();
        asking.ask_each(&encoded, &questions, (limits, &Stop::new()), &mut |place, answer| {
            answers.insert(place, answer);
        });
        for (place, answer) in answers {
            let asked = &about_one[place];
            match answer {
                Ok(answer) => {
                    scores.add(&asked.kind, &asked.answer, &answer.text);
                    listen(EvalEvent::Answered { asked, given: &answer.text })?;
                }
                Err(error) => {
                    scores.add_unanswered(&asked.kind, &asked.answer);
                    listen(EvalEvent::Failed { video, error })?;
                }
            }
        }
    }
    Ok(scores)
}
