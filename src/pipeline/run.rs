//! Questions about many videos: the stages of [`Stages`] with the language model at their end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::item::VideoRef;
use super::stages::Encoded;
use super::{Answer, Dialogue, EncodedVideo, FrameStamp, ItemError, Stages, Timings, Turns, conversation};
use crate::exec::{ExecError, Inlet, OnSpan, StageReport, Stop};
use crate::spec::Plan;
use crate::text::Template;
use crate::units::Tokens;
use crate::video::ReadReport;
use crate::vlm::{ModelError, PromptIds, Vlm};

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

impl Asking<'_> {
    /// Asks every question about every video. `listen` hears of each video, in the order in which they were given.
    ///
    /// # Errors
    /// When a stage panics. What fails for one video, or one question, is told to `listen`.
    pub fn run(
        &self,
        videos: impl Iterator<Item = PathBuf> + Send,
        questions: &[String],
        (stop, on_span): (&Stop, Option<Arc<OnSpan>>),
        listen: &mut dyn FnMut(Answered),
    ) -> Result<Vec<StageReport>, ExecError> {
        let stages = Stages::new(self.vlm, self.plan, &|_, _| {});
        // A question that cannot even be tokenised fails where it is asked.
        let stages = match self.longest_text(questions) {
            Ok(text) => stages.with_text(text),
            Err(_) => stages,
        };
        let generate = |inlet: &Inlet<Encoded>| {
            let mut in_order = InOrder { next: 0, waiting: BTreeMap::new() };
            while let Some(encoded) = inlet.recv() {
                let answered = self.answer(encoded, questions, stop);
                if stop.is_aborted() {
                    // An answer that was cut off is none.
                    break;
                }
                in_order.add(answered, listen);
            }
            in_order.finish(listen);
        };
        let ((), reports) = stages.run(videos, stop, on_span, (GENERATE, generate))?;
        Ok(reports)
    }

    /// Tokens of the longest prompt's text.
    fn longest_text(&self, questions: &[String]) -> Result<Tokens, ModelError> {
        let text = |question: &String| {
            let mut conversation = conversation(self.template, &self.plan.prompt, self.vlm.image_marks());
            Ok(PromptIds::encode(&conversation.ask(question), self.vlm.tokenizer())?.n_text())
        };
        let longest = questions.iter().map(text).collect::<Result<Vec<_>, ModelError>>()?;
        Ok(Tokens(longest.into_iter().max().unwrap_or(0)))
    }

    fn answer(&self, Encoded { video, outcome }: Encoded, questions: &[String], stop: &Stop) -> Answered {
        let outcome = outcome.map(|encoded| {
            let turns = if questions.len() > 1 { Turns::Many } else { Turns::One };
            let mut dialogue = Dialogue::new(*self, &encoded, turns).until(stop);
            let ask = |question: &String| {
                // Each question stands alone; what the cache holds of the video serves them all.
                dialogue.begin_again();
                dialogue.ask(question, &mut |_| {}).map_err(|source| ItemError::new(GENERATE, source))
            };
            let answers = questions.iter().map(ask).collect();
            drop(dialogue);
            let EncodedVideo { frames, report, timings, .. } = encoded;
            AnsweredVideo { frames, report, timings, answers }
        });
        Answered { video, outcome }
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
