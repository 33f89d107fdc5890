//! Requests of the engine from questions about encoded videos, and answers from its completions. Called by the last
//! stage of a run and by [`chat`](super::chat).

use std::sync::Arc;
use std::time::Duration;

use super::error::of_engine;
use super::{AnswerOptions, EncodedVideo, FittingPrompt, Limits, PromptSize};
use crate::engine::{
    Completion, DecodeLaunch, Engine, EngineConfig, FinishReason, PromptPart, Request, RequestListener, Visual,
};
use crate::error::Error;
use crate::spec::{Plan, PromptPlan};
use crate::temporal::Temporal;
use crate::text::{Conversation, FrameMarks, ShownFrames, Subtitle, Template};
use crate::units::Tokens;
use crate::vlm::{PromptIds, Vlm};

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

impl<'a> Asking<'a> {
    /// Returns an empty conversation about some frames, with the plan's prompt.
    pub fn conversation(&self, shown: ShownFrames) -> Conversation {
        conversation(self.template, &self.plan.prompt, self.vlm.marks()).with_frames(shown)
    }

    /// Returns an empty conversation about a video.
    pub fn conversation_about(&self, video: &EncodedVideo) -> Conversation {
        self.conversation(video.shown(self.keeps_frames_separate(video.temporal)))
    }

    /// Returns an empty conversation about a video with subtitles between its frames.
    pub(super) fn conversation_with(&self, video: &EncodedVideo, subtitles: &Arc<[Subtitle]>) -> Conversation {
        let shown = video.shown(self.keeps_frames_separate(video.temporal));
        self.conversation(ShownFrames { subtitles: subtitles.clone(), ..shown })
    }

    /// Refuses subtitles for a plan whose temporal strategy mixes frames, so that no text can stand between them.
    ///
    /// # Errors
    /// A strategy that mixes frames.
    pub fn check_subtitles(&self) -> Result<(), Error> {
        let temporal = self.plan.temporal();
        if self.keeps_frames_separate(temporal) {
            return Ok(());
        }
        let rule = format!("subtitles stand between frames, but {} mixes the frames", temporal.name());
        Err(Error::invalid(rule).with_hint("a strategy that keeps frames apart, such as concat").about("temporal"))
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
        self.fit(ids, &[video.shape()], &AnswerOptions::of(self.plan))
    }

    /// Returns the parts of the engine's prompt for a first question about a video.
    ///
    /// # Errors
    /// When the prompt does not fit the context.
    pub fn prompt_parts(&self, video: &EncodedVideo, question: &str) -> Result<Vec<PromptPart>, Error> {
        let prompt = self.conversation_about(video).ask(question)?;
        let ids = PromptIds::encode(&prompt, self.vlm.tokenizer())?;
        self.question(ids, video)?.parts(&[Visual::new(video.visual.clone())])
    }

    /// Returns the request of a question about a video.
    pub(super) fn request(
        &self,
        question: &FittingPrompt,
        visual: &Visual,
        limits: &Limits,
        listener: RequestListener<'a>,
    ) -> Result<Request<'a>, Error> {
        self.chat_request(question, std::slice::from_ref(visual), limits, listener)
    }

    /// Returns the answer of a completion.
    ///
    /// # Errors
    /// The failure of the request.
    pub fn answer(&self, prompt: &FittingPrompt, outcome: Result<Completion, Error>) -> Result<Answer, Error> {
        let Completion { ids, text, finish_reason, reused, prefill, generate, .. } = outcome.map_err(of_engine)?;
        let PromptSize { text: prompt_tokens, visual: visual_tokens, answer } = prompt.size();
        let is_clamped = answer < Tokens(prompt.options().max_new_tokens);
        Ok(Answer {
            text,
            token_ids: ids,
            finish_reason,
            context_full: finish_reason == FinishReason::Length && is_clamped,
            prompt_tokens,
            visual_tokens,
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
