//! Prompts that fit the model's context, and the engine's requests for their answers. Made of the ids of a prompt by
//! `ask`, `chat`, `run` and [`chat_prompt`](super::Asking::chat_prompt).

use super::run::GENERATE;
use super::{AnswerOptions, Asking, Limits, PromptSize};
use crate::engine::{PromptPart, Request, RequestListener, StopRules, Visual};
use crate::error::Error;
use crate::language::PromptHistory;
use crate::text::Passage;
use crate::units::Tokens;
use crate::vlm::{FrameRows, MediaBudget, MediumRows, MediumShape, PromptIds, TextTokens, media_of};

/// Prompt that fits the context, with the conditions of its answer.
#[derive(Debug, Clone)]
pub struct FittingPrompt {
    ids: PromptIds,
    /// Rows of each medium, by its index.
    media: Vec<MediumRows>,
    history: PromptHistory,
    size: PromptSize,
    options: AnswerOptions,
}

impl FittingPrompt {
    /// Returns the token counts of the prompt.
    pub fn size(&self) -> PromptSize {
        self.size
    }

    /// Returns the conditions of the answer.
    pub fn options(&self) -> &AnswerOptions {
        &self.options
    }

    /// Returns the parts of the engine's prompt, with the visual tokens of each medium.
    pub(super) fn parts(&self, visuals: &[Visual]) -> Result<Vec<PromptPart>, Error> {
        let part = |part: &Passage<Vec<u32>>| {
            let Some(medium) = part.medium() else {
                return Ok(PromptPart::Ids(part.text().cloned().unwrap_or_default()));
            };
            let spliced = Error::compute("splicing the prompt");
            let (MediumRows { rows, .. }, visual) = (media_of(&self.media, medium)?, media_of(visuals, medium)?);
            let rows = rows.of(part).map_err(candle_core::Error::msg).map_err(&spliced)?.unwrap_or_default();
            visual.rows(rows).map(PromptPart::Visual).map_err(spliced)
        };
        self.ids.parts.iter().map(part).collect()
    }
}

impl<'a> Asking<'a> {
    /// Returns the prompt of some ids about media of these shapes, if it fits the context.
    pub(super) fn fit(
        &self,
        ids: PromptIds,
        media: &[MediumShape],
        options: &AnswerOptions,
    ) -> Result<FittingPrompt, Error> {
        let frame = self.vlm.frame_tokens();
        let shown: Result<Vec<MediumShape>, Error> =
            ids.shown().into_iter().map(|medium| media_of(media, medium).copied()).collect();
        let shown = shown?;
        let text = TextTokens::of(&ids, shown.first().map_or(0, |medium| medium.n_frames));
        let budget = MediaBudget { media: shown, frame, text, context: Tokens(self.vlm.context()) };
        let answer = budget.room()?.min(Tokens(options.max_new_tokens));
        let rows = |medium: &MediumShape| {
            let MediumShape { temporal, n_frames } = *medium;
            let (n_visual, each) = (temporal.n_tokens(n_frames, frame).0, temporal.frame_rows(frame));
            MediumRows { rows: FrameRows { n_visual, n_frames, each }, kind: medium.kind() }
        };
        let media: Vec<MediumRows> = media.iter().map(rows).collect();
        let history = self.vlm.prompt_history(&ids, &media)?;
        let size = PromptSize { text: budget.text_tokens(), visual: budget.visual(), answer };
        Ok(FittingPrompt { ids, media, history, size, options: options.clone() })
    }

    /// Returns the request of a prompt. `visuals` are the visual tokens of its media, in the order of their indices:
    /// requests with clones of the same [`Visual`] share the memory of a common beginning.
    ///
    /// # Errors
    /// When `visuals` are not those of the prompt's media.
    pub fn chat_request(
        &self,
        prompt: &FittingPrompt,
        visuals: &[Visual],
        limits: &Limits,
        listener: RequestListener<'a>,
    ) -> Result<Request<'a>, Error> {
        let AnswerOptions { sampling, stop, .. } = &prompt.options;
        let strings: Vec<String> =
            self.vlm.stop_strings(self.template).into_iter().chain(stop.iter().cloned()).collect();
        Ok(Request {
            prompt: prompt.parts(visuals)?,
            history: prompt.history.clone(),
            decoding: self.vlm.decoding(sampling),
            stop: StopRules { tokens: self.vlm.stop_tokens(self.template).into(), strings: strings.into() },
            max_new_tokens: prompt.size.answer.0,
            time_limit: limits.time(GENERATE),
            listener,
        })
    }
}
