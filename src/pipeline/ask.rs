//! From a question about an encoded video to a request of the engine, and from its completion to an answer.

use std::time::Duration;

use super::run::GENERATE;
use super::{EncodedVideo, Limits, PipelineError};
use crate::engine::{
    Completion, DecodeLaunch, Engine, EngineConfig, EngineError, FinishReason, PromptPart, Request, RequestListener,
    StopRules, Visual,
};
use crate::spec::{Plan, PromptPlan};
use crate::text::{Conversation, Template};
use crate::units::Tokens;
use crate::vlm::{ModelError, PromptIds, TokenBudget, Vlm};

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
    pub(super) ids: PromptIds,
    budget: TokenBudget,
    /// New tokens that fit the context.
    max_new_tokens: usize,
}

impl<'a> Asking<'a> {
    /// A conversation that has not begun, in the words of the plan.
    pub fn conversation(&self) -> Conversation {
        conversation(self.template, &self.plan.prompt, self.vlm.image_marks())
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
        let budget = TokenBudget {
            temporal: seen.temporal,
            n_frames: seen.frames.len(),
            frame: self.vlm.frame_tokens(),
            text: Tokens(ids.n_text()),
            context: Tokens(self.vlm.context()),
        };
        let max_new_tokens = self.plan.generate.max_new_tokens.min(budget.room()?.0);
        Ok(FittingPrompt { ids, budget, max_new_tokens })
    }

    /// The request that answers a question about a video.
    pub(super) fn request(
        &self,
        question: &FittingPrompt,
        visual: &Visual,
        limits: &Limits,
        listener: RequestListener<'a>,
    ) -> Request<'a> {
        let PromptIds { before_visual, after_visual } = question.ids.clone();
        let prompt =
            vec![PromptPart::Ids(before_visual), PromptPart::Visual(visual.clone()), PromptPart::Ids(after_visual)];
        Request {
            prompt,
            history: self.vlm.prompt_history(&question.ids, question.budget.visual().0),
            decoding: self.vlm.decoding(&self.plan.generate.sampling),
            stop: StopRules {
                tokens: self.vlm.stop_tokens(self.template).into(),
                strings: self.vlm.stop_strings(self.template).into(),
            },
            max_new_tokens: question.max_new_tokens,
            time_limit: limits.time(GENERATE),
            listener,
        }
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
            prompt_tokens: question.budget.text,
            visual_tokens: question.budget.visual(),
            reused: Tokens(reused),
            prefill,
            generate,
        })
    }
}

/// A conversation that has not begun, in the words of a plan.
pub fn conversation(template: &Template, prompt: &PromptPlan, image_marks: bool) -> Conversation {
    let conversation = Conversation::new(template.clone(), prompt.system.clone());
    let conversation = conversation.worded(&prompt.question, &prompt.answer);
    if image_marks { conversation.with_image_marks() } else { conversation }
}
