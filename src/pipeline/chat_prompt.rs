//! Prompts of conversations as clients send them, about any number of media: checked before a video is read, and made
//! of encoded videos. Called by servers, which submit the requests to an engine of their own.

use super::ask::{Asking, conversation};
use super::error::guarded;
use super::{
    AnswerOptions, ChatContent, ChatPrompt, ChatTurn, EncodedVideo, ExpectedMedium, FittingPrompt, PromptSize,
};
use crate::error::Error;
use crate::spec::Plan;
use crate::temporal::FrameTokens;
use crate::text::{Conversation, MediumIndex, Prompt, QuestionPart, ShownFrames};
use crate::vlm::{MediumShape, PromptIds, SingleImageRule};

/// Medium of a prompt: its visual tokens by frame, and its frames as a template writes them.
pub(super) struct MediumFacts {
    pub(super) shape: MediumShape,
    pub(super) shown: ShownFrames,
}

impl ExpectedMedium {
    /// Returns the facts of the medium in a plan's prompts; `rule` is the model's processing of single images, `frame`
    /// the tokens of a frame.
    ///
    /// # Errors
    /// When the plan encodes a still image by AnyRes, and the checkpoint's rule is unusable.
    pub(super) fn facts(&self, plan: &Plan, rule: &SingleImageRule, frame: FrameTokens) -> Result<MediumFacts, Error> {
        // A window without a frame is reported by the reader, which knows the times.
        let n_frames = self.n_frames.max(1);
        let takes_any_res = plan.single_image.is_some_and(|way| way.takes_any_res(n_frames));
        let (temporal, shown) = match self.image.filter(|_| takes_any_res) {
            Some(size) => (rule.usable()?.temporal(size), ShownFrames::of_single_image()),
            None => {
                let are_separate = plan.temporal().frame_rows(frame).is_some();
                (plan.temporal(), ShownFrames { are_separate, ..ShownFrames::unknown(n_frames) })
            }
        };
        Ok(MediumFacts { shape: MediumShape { temporal, n_frames }, shown })
    }
}

impl EncodedVideo {
    /// Returns the number of frames and the strategy that made the visual tokens.
    pub(super) fn shape(&self) -> MediumShape {
        MediumShape { temporal: self.temporal, n_frames: self.frames.len() }
    }
}

impl Asking<'_> {
    /// Checks a conversation before any medium is read, with the number of frames that each is expected to have.
    ///
    /// # Errors
    /// As [`Self::chat_prompt`]; a prompt over the context has the arithmetic of each medium.
    pub fn check_chat(
        &self,
        chat: &ChatPrompt<'_, ExpectedMedium>,
        options: &AnswerOptions,
    ) -> Result<PromptSize, Error> {
        let (rule, frame) = (self.vlm.single_image(), self.vlm.frame_tokens());
        let media: Result<Vec<MediumFacts>, Error> =
            chat.media.iter().map(|medium| medium.facts(self.plan, rule, frame)).collect();
        guarded(|| Ok(self.fit_chat(chat.system, chat.turns, media?, options)?.size()))
    }

    /// Returns the prompt of a conversation about encoded videos. `max_new_tokens` is lowered to the room that the
    /// prompt leaves. A template of one turn asks the last question alone, behind the media of earlier ones.
    ///
    /// # Errors
    /// For a conversation without a question, a system text or an answer that the template cannot write, a medium that
    /// no question shows, or a prompt over the context.
    pub fn chat_prompt(
        &self,
        chat: &ChatPrompt<'_, &EncodedVideo>,
        options: &AnswerOptions,
    ) -> Result<FittingPrompt, Error> {
        let facts = |video: &&EncodedVideo| {
            let shown = video.shown(self.keeps_frames_separate(video.temporal));
            MediumFacts { shape: video.shape(), shown }
        };
        let media = chat.media.iter().map(facts).collect();
        guarded(|| self.fit_chat(chat.system, chat.turns, media, options))
    }

    fn fit_chat(
        &self,
        system: Option<&str>,
        turns: &[ChatTurn],
        media: Vec<MediumFacts>,
        options: &AnswerOptions,
    ) -> Result<FittingPrompt, Error> {
        check_options(options)?;
        check_turns(turns, media.len())?;
        let (shapes, shown) = media.into_iter().map(|medium| (medium.shape, medium.shown)).unzip::<_, _, Vec<_>, _>();
        let empty = conversation(self.template, &self.plan.prompt, self.vlm.marks()).with_media(shown);
        let empty = match system {
            Some(system) => empty.with_system(system)?,
            None => empty,
        };
        let prompt = prompt_of(empty, turns)?;
        self.fit(PromptIds::encode(&prompt, self.vlm.tokenizer())?, &shapes, options)
    }
}

/// Returns the prompt of some turns, the last of which is answered or continued.
fn prompt_of(mut conversation: Conversation, turns: &[ChatTurn]) -> Result<Prompt, Error> {
    let part = |content: &ChatContent| match content {
        ChatContent::Text(text) => QuestionPart::Text(text.clone()),
        ChatContent::Medium(index) => QuestionPart::Medium(MediumIndex(*index)),
    };
    let last = turns.len().saturating_sub(1);
    for (i, turn) in turns.iter().enumerate() {
        conversation.add(turn.question.iter().map(part).collect());
        if let Some(answer) = turn.answer.as_deref().filter(|_| i < last) {
            conversation.answer(answer);
        }
    }
    match turns.last().and_then(|turn| turn.answer.as_deref()).filter(|beginning| !beginning.is_empty()) {
        Some(beginning) => conversation.continue_answer(beginning),
        None => conversation.prompt(),
    }
}

/// Checks that every turn but the last has an answer, and that the questions show all media and no others.
fn check_turns(turns: &[ChatTurn], n_media: usize) -> Result<(), Error> {
    let Some((_, earlier)) = turns.split_last() else {
        return Err(Error::invalid("a conversation without a question"));
    };
    if let Some(i) = earlier.iter().position(|turn| turn.answer.is_none()) {
        return Err(Error::invalid(format!("question {} of {} has no answer", i + 1, turns.len())));
    }
    let mut is_shown = vec![false; n_media];
    for content in turns.iter().flat_map(|turn| &turn.question) {
        let ChatContent::Medium(index) = content else { continue };
        let unknown = || Error::invalid(format!("unknown medium {index} of {n_media}"));
        *is_shown.get_mut(*index).ok_or_else(unknown)? = true;
    }
    match is_shown.iter().position(|is_shown| !is_shown) {
        Some(index) => Err(Error::invalid(format!("no question shows medium {index} of {n_media}"))),
        None => Ok(()),
    }
}

fn check_options(options: &AnswerOptions) -> Result<(), Error> {
    if options.max_new_tokens == 0 {
        return Err(Error::invalid("0 tokens, and an answer has at least 1").about("max_new_tokens"));
    }
    if options.stop.iter().any(String::is_empty) {
        return Err(Error::invalid("an empty string would end every answer").about("stop"));
    }
    Ok(())
}
