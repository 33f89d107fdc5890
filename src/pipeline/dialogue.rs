//! Questions about one encoded video, over one key-value cache.
//!
//! The positions that a new prompt shares with what the cache holds, the video first of all, are not computed again.

use std::time::Duration;

use candle_core::Tensor;

use super::limits::Running;
use super::timing::timed;
use super::{Asking, EncodedVideo, PipelineError};
use crate::exec::Stop;
use crate::language::{FinishReason, GenerateConfig, KvCache, PREFILL_CHUNK, PromptHistory, Step, generate};
use crate::spec::PromptPlan;
use crate::text::{Conversation, Template, TextStream};
use crate::units::Tokens;
use crate::vlm::{ModelError, PromptIds, TokenBudget, Vlm};

/// How long a dialogue is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turns {
    /// One question: the cache is as long as its prompt and answer.
    One,
    /// Many: the cache is as long as the model's context.
    Many,
}

/// An answer, and what it took.
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
    /// Positions of the prompt that the cache held already.
    pub reused: Tokens,
    /// The prompt through the language model.
    pub prefill: Duration,
    /// The answer's tokens.
    pub generate: Duration,
}

/// A conversation that has not begun, in the words of a plan.
pub fn conversation(template: &Template, prompt: &PromptPlan, image_marks: bool) -> Conversation {
    let conversation = Conversation::new(template.clone(), prompt.system.clone());
    let conversation = conversation.worded(&prompt.question, &prompt.answer);
    if image_marks { conversation.with_image_marks() } else { conversation }
}

/// A conversation about one video.
pub struct Dialogue<'a> {
    vlm: &'a Vlm,
    video: &'a EncodedVideo,
    conversation: Conversation,
    stop_strings: Vec<String>,
    config: GenerateConfig,
    turns: Turns,
    cache: Option<KvCache>,
    /// The text ids that the cache holds around the video.
    cached: PromptIds,
}

impl<'a> Dialogue<'a> {
    /// A dialogue that has not begun.
    pub fn new(asking: Asking<'a>, video: &'a EncodedVideo, turns: Turns) -> Self {
        let Asking { vlm, template, plan } = asking;
        let config = GenerateConfig {
            max_new_tokens: plan.generate.max_new_tokens,
            decoding: vlm.decoding(&plan.generate.sampling),
            prompt: PromptHistory::default(),
            stop_tokens: vlm.stop_tokens(template),
        };
        let cached = PromptIds { before_visual: Vec::new(), after_visual: Vec::new() };
        let (stop_strings, conversation) =
            (vlm.stop_strings(template), conversation(template, &plan.prompt, vlm.image_marks()));
        Self { vlm, video, conversation, stop_strings, config, turns, cache: None, cached }
    }

    /// Asks a question. `on_text` hears the answer as it comes.
    ///
    /// # Errors
    /// When the prompt does not fit the context; the question is then forgotten.
    pub fn ask(&mut self, question: &str, on_text: &mut dyn FnMut(&str)) -> Result<Answer, PipelineError> {
        let prompt = self.conversation.ask(question).map_err(ModelError::from);
        let ids = prompt.and_then(|prompt| PromptIds::encode(&prompt, self.vlm.tokenizer()));
        let answer = ids.map_err(PipelineError::from).and_then(|ids| self.answer(&ids, on_text));
        match answer {
            Ok(answer) => {
                self.conversation.answer(&answer.text);
                Ok(answer)
            }
            Err(error) => {
                self.conversation.withdraw();
                Err(error)
            }
        }
    }

    fn answer(&mut self, ids: &PromptIds, on_text: &mut dyn FnMut(&str)) -> Result<Answer, PipelineError> {
        let budget = self.budget(ids);
        let room = budget.room()?.0;
        let max_new_tokens = self.config.max_new_tokens.min(room);
        let failed = ModelError::compute("answering");

        let mut prefill = Duration::ZERO;
        let (mut cache, reused) = self.take_cache(ids, budget.prompt().0, max_new_tokens)?;
        let logits = timed(&mut prefill, || self.prefill(ids, &mut cache))?;

        let mut stream = TextStream::new(self.vlm.tokenizer(), &self.stop_strings);
        let prompt = self.vlm.prompt_history(ids, budget.visual().0);
        let config = GenerateConfig { max_new_tokens, prompt, ..self.config.clone() };
        let mut generate_time = Duration::ZERO;
        let generation = timed(&mut generate_time, || {
            generate(self.vlm.language(), logits, &mut cache, &config, &mut |id| {
                on_text(&stream.push(id));
                if stream.is_stopped() { Step::Stop } else { Step::Continue }
            })
        })
        .map_err(failed)?;
        on_text(&stream.finish());

        let in_cache = cache.len() - budget.prompt().0;
        self.cached = ids.clone();
        self.cached.after_visual.extend(&generation.ids[..in_cache.min(generation.ids.len())]);
        self.cache = Some(cache);
        Ok(Answer {
            text: stream.answer().to_owned(),
            finish_reason: generation.finish_reason,
            context_full: generation.finish_reason == FinishReason::Length
                && max_new_tokens < self.config.max_new_tokens,
            token_ids: generation.ids,
            prompt_tokens: budget.text,
            visual_tokens: budget.visual(),
            reused,
            prefill,
            generate: generate_time,
        })
    }

    fn budget(&self, ids: &PromptIds) -> TokenBudget {
        TokenBudget {
            temporal: self.video.temporal,
            n_frames: self.video.frames.len(),
            frame: self.vlm.frame_tokens(),
            text: Tokens(ids.n_text()),
            context: Tokens(self.vlm.context()),
        }
    }

    /// A cache cut back to what it shares with the new prompt, and how much that is; at least the last position of the
    /// prompt is left to compute, for its logits.
    fn take_cache(
        &mut self,
        ids: &PromptIds,
        n_prompt: usize,
        max_new_tokens: usize,
    ) -> Result<(KvCache, Tokens), ModelError> {
        let needed = n_prompt + max_new_tokens;
        let capacity = match self.turns {
            Turns::One => needed,
            Turns::Many => self.vlm.context(),
        };
        // One that does not serve is freed before another is made.
        let serves = |cache: &KvCache| {
            // Without a word after the video there would be nothing left to compute.
            cache.serves(self.vlm.language().config(), n_prompt, needed)
                && self.cached.before_visual == ids.before_visual
                && !ids.after_visual.is_empty()
        };
        let kept = self.cache.take().filter(serves);
        match kept {
            Some(mut cache) => {
                let pairs = self.cached.after_visual.iter().zip(&ids.after_visual);
                let common = pairs.take_while(|(a, b)| a == b).count().min(ids.after_visual.len().saturating_sub(1));
                cache.truncate(ids.before_visual.len() + self.n_visual()? + common);
                let reused = Tokens(cache.len());
                Ok((cache, reused))
            }
            None => {
                let cache = self.vlm.language().new_cache_with_room(n_prompt, capacity);
                let cache = cache.map_err(ModelError::compute("allocating the cache"))?;
                Ok((cache, Tokens(0)))
            }
        }
    }

    /// Runs what the cache does not hold of a prompt, and gives the logits at its end.
    ///
    /// The part that all prompts share goes through on its own, so that what follows it is computed in the same pieces whether
    /// the cache holds that part already or not.
    fn prefill(&self, ids: &PromptIds, cache: &mut KvCache) -> Result<Tensor, PipelineError> {
        let failed = ModelError::compute("reading the prompt");
        let n_shared = ids.before_visual.len() + self.n_visual()?;
        let mut last = None;
        if cache.is_empty() {
            let shared = PromptIds { after_visual: Vec::new(), ..ids.clone() };
            last = Some(self.run_chunks(&self.vlm.splice(&shared, &self.video.visual)?, cache)?);
        }
        let rest = &ids.after_visual[cache.len() - n_shared..];
        if !rest.is_empty() {
            let embeds = self.vlm.language().embed(rest).map_err(&failed)?;
            last = Some(self.run_chunks(&embeds, cache)?);
        }
        let last = last.ok_or_else(|| failed(candle_core::Error::msg("nothing of the prompt is left to read")))?;
        self.vlm.language().logits(&last).and_then(|logits| logits.squeeze(0)).map_err(&failed).map_err(Into::into)
    }

    fn run_chunks(&self, embeds: &Tensor, cache: &mut KvCache) -> Result<Tensor, PipelineError> {
        Prefill::default().run(embeds, &mut |chunk| self.vlm.language().forward(chunk, cache))
    }

    fn n_visual(&self) -> Result<usize, ModelError> {
        self.video.visual.dim(0).map_err(ModelError::compute("reading the prompt"))
    }
}

/// Reading a prompt, chunk by chunk, until it is read or there is a reason to end.
#[derive(Default)]
pub(super) struct Prefill<'a> {
    pub(super) time: Option<&'a Running>,
    pub(super) stop: Option<&'a Stop>,
}

impl Prefill<'_> {
    /// Runs positions through `forward`, and gives the last one's hidden state.
    ///
    /// # Shapes
    /// `embeds (S, H)` to `(1, H)`.
    pub(super) fn run(
        &self,
        embeds: &Tensor,
        forward: &mut dyn FnMut(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor, PipelineError> {
        let failed = ModelError::compute("reading the prompt");
        let n = embeds.dim(0).map_err(&failed)?;
        let mut last = None;
        for start in (0..n).step_by(PREFILL_CHUNK) {
            self.time.map_or(Ok(()), Running::check)?;
            if self.stop.is_some_and(Stop::is_aborted) {
                return Err(PipelineError::Nothing);
            }
            let chunk = embeds.narrow(0, start, PREFILL_CHUNK.min(n - start));
            let hidden = chunk.and_then(|chunk| forward(&chunk)).map_err(&failed)?;
            last = Some(hidden.dim(0).and_then(|s| hidden.narrow(0, s - 1, 1)).map_err(&failed)?);
        }
        last.ok_or_else(|| failed(candle_core::Error::msg("an empty part of the prompt")).into())
    }
}
