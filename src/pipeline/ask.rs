//! Requests of the engine from questions about encoded videos, and answers from its completions. Called by the last
//! stage of a run and by [`chat`](super::chat).

use std::time::Duration;

use super::error::of_engine;
use super::run::GENERATE;
use super::{EncodedVideo, Limits};
use crate::engine::{
    Completion, DecodeLaunch, Engine, EngineConfig, FinishReason, PromptPart, Request, RequestListener, StopRules,
    Visual,
};
use crate::error::Error;
use crate::language::PromptHistory;
use crate::spec::{Plan, PromptPlan};
use crate::temporal::Temporal;
use crate::text::{Conversation, FrameMarks, Passage, ShownFrames, Template};
use crate::units::Tokens;
use crate::vlm::{FrameRows, PromptIds, TextTokens, TokenBudget, Vlm};

/// A loaded model with the template and the plan of its prompts.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// Loaded model.
    pub vlm: &'a Vlm,
    /// Template of the prompts.
    pub template: &'a Template,
    /// Plan: sampling, stop rules, memory.
    pub plan: &'a Plan,
}

/// An answer with its token counts and times.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Text, without white space at its ends.
    pub text: String,
    /// All token ids, including the stop token.
    pub token_ids: Vec<u32>,
    /// Reason of the end.
    pub finish_reason: FinishReason,
    /// Whether the answer ended because the model's context was full.
    pub context_full: bool,
    /// Number of text tokens of the prompt.
    pub prompt_tokens: Tokens,
    /// Number of visual tokens of the prompt.
    pub visual_tokens: Tokens,
    /// Positions of the prompt that were reused from the key-value memory.
    pub reused: Tokens,
    /// Share of the engine's steps that read the prompt.
    pub prefill: Duration,
    /// Share of the engine's steps that generated the answer.
    pub generate: Duration,
}

/// A prompt that fits the context.
#[derive(Debug, Clone)]
pub(super) struct FittingPrompt {
    ids: PromptIds,
    /// Rows of each frame in the visual tokens.
    rows: FrameRows,
    history: PromptHistory,
    budget: TokenBudget,
    /// Maximum number of new tokens that fit the context.
    max_new_tokens: usize,
}

impl FittingPrompt {
    /// Returns the parts of the engine's prompt, with the visual tokens of a video.
    fn parts(&self, visual: &Visual) -> Result<Vec<PromptPart>, Error> {
        let part = |part: &Passage<Vec<u32>>| {
            let Passage::Text(ids) = part else {
                let rows = self.rows.of(part).map_err(candle_core::Error::msg)?.unwrap_or_default();
                return visual.rows(rows).map(PromptPart::Visual);
            };
            Ok(PromptPart::Ids(ids.clone()))
        };
        let parts: candle_core::Result<_> = self.ids.parts.iter().map(part).collect();
        parts.map_err(Error::compute("splicing the prompt"))
    }
}

impl<'a> Asking<'a> {
    /// Returns an empty conversation about some frames, with the plan's prompt.
    pub fn conversation(&self, shown: ShownFrames) -> Conversation {
        conversation(self.template, &self.plan.prompt, self.vlm.marks()).with_frames(shown)
    }

    /// Returns an empty conversation about a video.
    pub fn conversation_about(&self, video: &EncodedVideo) -> Conversation {
        self.conversation(video.shown(self.keeps_frames_separate(video.temporal)))
    }

    /// Returns whether a strategy keeps the visual tokens of each frame separate, so that text can stand between them.
    pub(super) fn keeps_frames_separate(&self, temporal: Temporal) -> bool {
        temporal.frame_rows(self.vlm.frame_tokens()).is_some()
    }

    /// Creates an engine for the model, with the plan's key-value memory.
    ///
    /// # Errors
    /// When the key-value memory cannot be allocated.
    pub fn engine(&self) -> Result<Engine<'a>, Error> {
        let kv_bytes = self.plan.exec.kv_memory.map(|size| size.as_u64());
        let decode = match self.plan.exec.cuda_graphs {
            Some(false) => DecodeLaunch::Operations,
            _ => DecodeLaunch::Graph,
        };
        let config = EngineConfig::for_model(self.vlm.language(), kv_bytes);
        let max_sequences = self.plan.exec.sequences.unwrap_or(config.max_sequences);
        let config = EngineConfig { decode, max_sequences, ..config };
        let engine = Engine::new(self.vlm.language(), Some(self.vlm.tokenizer()), config);
        engine.map_err(Error::compute("making the key-value memory"))
    }

    /// Returns the next prompt of a conversation about a video, if it fits the context.
    pub(super) fn question(&self, ids: PromptIds, video: &EncodedVideo) -> Result<FittingPrompt, Error> {
        let n_frames = video.frames.len();
        let budget = TokenBudget {
            temporal: video.temporal,
            n_frames,
            frame: self.vlm.frame_tokens(),
            text: TextTokens::of(&ids, n_frames),
            context: Tokens(self.vlm.context()),
        };
        let max_new_tokens = self.plan.generate.max_new_tokens.min(budget.room()?.0);
        let each = budget.temporal.frame_rows(budget.frame);
        let rows = FrameRows { n_visual: budget.visual().0, n_frames, each };
        let history = match video.temporal {
            Temporal::AnyRes(_) => self.vlm.single_image_history(&ids, rows)?,
            _ => self.vlm.prompt_history(&ids, rows)?,
        };
        Ok(FittingPrompt { ids, rows, history, budget, max_new_tokens })
    }

    /// Returns the request of a question about a video.
    pub(super) fn request(
        &self,
        question: &FittingPrompt,
        visual: &Visual,
        limits: &Limits,
        listener: RequestListener<'a>,
    ) -> Result<Request<'a>, Error> {
        Ok(Request {
            prompt: question.parts(visual)?,
            history: question.history.clone(),
            decoding: self.vlm.decoding(&self.plan.generate.sampling),
            stop: StopRules {
                tokens: self.vlm.stop_tokens(self.template).into(),
                strings: self.vlm.stop_strings(self.template).into(),
            },
            max_new_tokens: question.max_new_tokens,
            time_limit: limits.time(GENERATE),
            listener,
        })
    }

    /// Returns the answer of a completion.
    pub(super) fn answer(&self, question: &FittingPrompt, outcome: Result<Completion, Error>) -> Result<Answer, Error> {
        let Completion { ids, text, finish_reason, reused, prefill, generate, .. } = outcome.map_err(of_engine)?;
        let requested = self.plan.generate.max_new_tokens;
        Ok(Answer {
            text,
            token_ids: ids,
            finish_reason,
            context_full: finish_reason == FinishReason::Length && question.max_new_tokens < requested,
            prompt_tokens: question.budget.text_tokens(),
            visual_tokens: question.budget.visual(),
            reused: Tokens(reused),
            prefill,
            generate,
        })
    }
}

/// Returns an empty conversation with a plan's prompt.
pub fn conversation(template: &Template, prompt: &PromptPlan, marks: &FrameMarks) -> Conversation {
    let conversation = Conversation::new(template.clone(), prompt.system.clone());
    conversation.with_wording(&prompt.question, &prompt.answer).with_marks(marks.clone(), prompt.timestamps)
}
