//! From a question about an encoded video to a request of the engine, and from its completion to an answer.

use std::time::Duration;

use super::run::GENERATE;
use super::{EncodedVideo, Limits, PipelineError};
use crate::engine::{
    Completion, DecodeLaunch, Engine, EngineConfig, EngineError, FinishReason, PromptPart, Request, RequestListener,
    StopRules, Visual,
};
use crate::language::PromptHistory;
use crate::spec::{Plan, PromptPlan};
use crate::temporal::Temporal;
use crate::text::{Conversation, FrameMarks, Passage, ShownFrames, Template};
use crate::units::Tokens;
use crate::vlm::{FrameRows, ModelError, PromptIds, TextTokens, TokenBudget, Vlm};

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

/// An answer, and the work that it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text, without white space at its ends.
    pub text: String,
    /// All ids, the stop token included.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Whether it ended because the model's context is full.
    pub context_full: bool,
    /// Tokens of the prompt's text.
    pub prompt_tokens: Tokens,
    /// Tokens of the video.
    pub visual_tokens: Tokens,
    /// Positions of the prompt that were found in the key-value memory.
    pub reused: Tokens,
    /// Its share of the steps that read its prompt.
    pub prefill: Duration,
    /// Its share of the steps that made its tokens.
    pub generate: Duration,
}

/// A prompt that fits the context.
#[derive(Debug, Clone)]
pub(super) struct FittingPrompt {
    ids: PromptIds,
    /// Rows of the visual tokens of each frame.
    rows: FrameRows,
    history: PromptHistory,
    budget: TokenBudget,
    /// New tokens that fit the context.
    max_new_tokens: usize,
}

impl FittingPrompt {
    /// The parts of the engine's prompt, with the visual tokens of a video.
    fn parts(&self, visual: &Visual) -> Result<Vec<PromptPart>, ModelError> {
        let part = |part: &Passage<Vec<u32>>| {
            let Passage::Words(ids) = part else {
                let rows = self.rows.of(part).map_err(candle_core::Error::msg)?.unwrap_or_default();
                return visual.rows(rows).map(PromptPart::Visual);
            };
            Ok(PromptPart::Ids(ids.clone()))
        };
        let parts: candle_core::Result<_> = self.ids.parts.iter().map(part).collect();
        parts.map_err(ModelError::compute("splicing the prompt"))
    }
}

impl<'a> Asking<'a> {
    /// A conversation about some frames that has not begun, in the words of the plan.
    pub fn conversation(&self, shown: ShownFrames) -> Conversation {
        conversation(self.template, &self.plan.prompt, self.vlm.marks()).showing(shown)
    }

    /// A conversation about a video that has not begun.
    pub fn conversation_about(&self, seen: &EncodedVideo) -> Conversation {
        self.conversation(seen.shown(self.are_apart(seen.temporal)))
    }

    /// Whether a strategy keeps the visual tokens of each frame apart from those of the others.
    pub(super) fn are_apart(&self, temporal: Temporal) -> bool {
        temporal.frame_rows(self.vlm.frame_tokens()).is_some()
    }

    /// An engine for this model, with the memory that the plan gives it.
    ///
    /// # Errors
    /// When the model's geometry has no key-value memory.
    pub fn engine(&self) -> Result<Engine<'a>, PipelineError> {
        let kv_bytes = self.plan.exec.kv_memory.map(|size| size.as_u64());
        let decode = match self.plan.exec.cuda_graphs {
            Some(false) => DecodeLaunch::Operations,
            _ => DecodeLaunch::Graph,
        };
        let config = EngineConfig::for_model(self.vlm.language(), kv_bytes);
        let max_sequences = self.plan.exec.sequences.unwrap_or(config.max_sequences);
        let config = EngineConfig { decode, max_sequences, ..config };
        let engine = Engine::new(self.vlm.language(), Some(self.vlm.tokenizer()), config);
        engine.map_err(ModelError::compute("making the key-value memory")).map_err(Into::into)
    }

    /// The ids of the next prompt of a conversation about a video, if they fit the context.
    pub(super) fn question(&self, ids: PromptIds, seen: &EncodedVideo) -> Result<FittingPrompt, PipelineError> {
        let n_frames = seen.frames.len();
        let budget = TokenBudget {
            temporal: seen.temporal,
            n_frames,
            frame: self.vlm.frame_tokens(),
            text: TextTokens::of(&ids, n_frames),
            context: Tokens(self.vlm.context()),
        };
        let max_new_tokens = self.plan.generate.max_new_tokens.min(budget.room()?.0);
        let each = budget.temporal.frame_rows(budget.frame);
        let rows = FrameRows { n_visual: budget.visual().0, n_frames, each };
        let history = match seen.temporal {
            Temporal::AnyRes(_) => self.vlm.single_image_history(&ids, rows)?,
            _ => self.vlm.prompt_history(&ids, rows)?,
        };
        Ok(FittingPrompt { ids, rows, history, budget, max_new_tokens })
    }

    /// The request that answers a question about a video.
    pub(super) fn request(
        &self,
        question: &FittingPrompt,
        visual: &Visual,
        limits: &Limits,
        listener: RequestListener<'a>,
    ) -> Result<Request<'a>, PipelineError> {
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

    /// The answer that a completion is.
    pub(super) fn answer(
        &self,
        question: &FittingPrompt,
        outcome: Result<Completion, EngineError>,
    ) -> Result<Answer, PipelineError> {
        let Completion { ids, text, finish_reason, reused, prefill, generate, .. } = outcome?;
        let wanted = self.plan.generate.max_new_tokens;
        Ok(Answer {
            text,
            token_ids: ids,
            finish_reason,
            context_full: finish_reason == FinishReason::Length && question.max_new_tokens < wanted,
            prompt_tokens: question.budget.text_tokens(),
            visual_tokens: question.budget.visual(),
            reused: Tokens(reused),
            prefill,
            generate,
        })
    }
}

/// A conversation that has not begun, in the words of a plan.
pub fn conversation(template: &Template, prompt: &PromptPlan, marks: &FrameMarks) -> Conversation {
    let conversation = Conversation::new(template.clone(), prompt.system.clone());
    conversation.worded(&prompt.question, &prompt.answer).marked(marks.clone(), prompt.timestamps)
}
