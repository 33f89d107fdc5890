//! Questions about one video that each stand alone, side by side: the video goes through the language model once, and each
//! reading of the weights makes a token of every answer.
//!
//! Each question gets the tokens that it would get alone, to the bit on the CPU: see [`crate::language::branches`].

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::dialogue::{Answer, Prefill, conversation};
use super::error::guarded;
use super::limits::Running;
use super::run::GENERATE;
use super::timing::timed;
use super::{Asking, EncodedVideo, Limits, PipelineError};
use crate::exec::Stop;
use crate::language::{Branch, FinishReason, KvCache, PromptHistory, Sampler};
use crate::text::TextStream;
use crate::units::Tokens;
use crate::vlm::{ModelError, PromptIds, TokenBudget};

/// Answers that are made at once.
const MAX_TOGETHER: usize = 32;
/// Bytes that they may take beside the video, at least; more if a whole context takes more.
const ROOM: usize = 1 << 30;

/// Hears of each answer, by its question's place; they come as they are done.
pub type TellAnswer<'t> = dyn FnMut(usize, Result<Answer, PipelineError>) + 't;

impl Asking<'_> {
    /// Asks every question about an encoded video, each alone. Once `stop` is aborted no more is told.
    pub fn ask_each(
        &self,
        seen: &EncodedVideo,
        questions: &[String],
        (limits, stop): (&Limits, &Stop),
        tell: &mut TellAnswer<'_>,
    ) {
        let together = Together { asking: *self, seen, limits, stop };
        let mut waiting = VecDeque::new();
        for (place, question) in questions.iter().enumerate() {
            match guarded(|| together.prompt(place, question)) {
                Ok(prompt) => waiting.push_back(prompt),
                Err(error) => tell(place, Err(error)),
            }
        }
        let mut cache = None;
        while !waiting.is_empty() && !stop.is_aborted() {
            let group = together.next_group(&mut waiting);
            let mut told = HashSet::new();
            let answered = guarded(|| {
                together.answer(&group, &mut cache, &mut |place, answer| {
                    told.insert(place);
                    tell(place, answer);
                })
            });
            let Err(error) = answered else { continue };
            cache = None;
            let left: Vec<Prompt> = group.into_iter().filter(|prompt| !told.contains(&prompt.place)).collect();
            match (left.as_slice(), error) {
                ([prompt], error) => tell(prompt.place, Err(error)),
                // The others would take as long.
                (left, PipelineError::TimeLimit { stage, limit }) => {
                    left.iter().for_each(|prompt| tell(prompt.place, Err(PipelineError::TimeLimit { stage, limit })));
                }
                // One question must not fail with another.
                _ => left.into_iter().rev().for_each(|prompt| waiting.push_front(Prompt { is_lone: true, ..prompt })),
            }
        }
    }
}

/// What the questions share.
struct Together<'a> {
    asking: Asking<'a>,
    seen: &'a EncodedVideo,
    limits: &'a Limits,
    stop: &'a Stop,
}

/// A question that waits.
struct Prompt {
    place: usize,
    ids: PromptIds,
    budget: TokenBudget,
    /// Those that fit the context.
    max_new_tokens: usize,
    /// Not to be answered beside others.
    is_lone: bool,
}

impl Prompt {
    /// Positions of prompt and answer.
    fn length(&self) -> usize {
        self.budget.prompt().0 + self.max_new_tokens
    }

    /// Those after what it shares with the others.
    fn own(&self) -> usize {
        self.ids.after_visual.len() + self.max_new_tokens
    }
}

/// An answer on its way.
struct Answering<'p, 's> {
    prompt: &'p Prompt,
    branch: Branch,
    logits: Tensor,
    sampler: Sampler,
    stream: TextStream<'s>,
    ids: Vec<u32>,
    time: Running,
    reused: Tokens,
    prefill: Duration,
    generate: Duration,
}

impl<'a> Together<'a> {
    /// A question in the words of the plan, if it fits the context.
    fn prompt(&self, place: usize, question: &str) -> Result<Prompt, PipelineError> {
        let Asking { vlm, template, plan } = self.asking;
        let text = conversation(template, &plan.prompt, vlm.image_marks()).ask(question).map_err(ModelError::from)?;
        let ids = PromptIds::encode(&text, vlm.tokenizer())?;
        let budget = TokenBudget {
            temporal: self.seen.temporal,
            n_frames: self.seen.frames.len(),
            frame: vlm.frame_tokens(),
            text: Tokens(ids.n_text()),
            context: Tokens(vlm.context()),
        };
        let max_new_tokens = plan.generate.max_new_tokens.min(budget.room()?.0);
        Ok(Prompt { place, ids, budget, max_new_tokens, is_lone: false })
    }

    /// The first that waits, and all that can be answered beside it.
    fn next_group(&self, waiting: &mut VecDeque<Prompt>) -> Vec<Prompt> {
        let language = self.asking.vlm.language();
        let bytes = |positions| KvCache::bytes(language.config(), positions, language.dtype());
        let room = ROOM.max(bytes(language.config().context));
        let deciding = |prompt: &Prompt| language.config().rope_scaling.deciding_length(prompt.budget.prompt().0);
        let mut group: Vec<Prompt> = Vec::new();
        let mut others = VecDeque::new();
        for prompt in waiting.drain(..) {
            let fits = group.first().is_none_or(|first| {
                !first.is_lone
                    && !prompt.is_lone
                    && group.len() < MAX_TOGETHER
                    && first.ids.before_visual == prompt.ids.before_visual
                    && deciding(first) == deciding(&prompt)
                    && bytes(group.iter().map(Prompt::own).sum::<usize>() + prompt.own()) <= room
            });
            if fits { group.push(prompt) } else { others.push_back(prompt) }
        }
        *waiting = others;
        group
    }

    /// Answers a group. What fails of one answer is told of it; an error is of all that are not told.
    fn answer(
        &self,
        group: &[Prompt],
        cache: &mut Option<(Vec<u32>, KvCache)>,
        tell: &mut TellAnswer<'_>,
    ) -> Result<(), PipelineError> {
        let [first, ..] = group else { return Ok(()) };
        let stop_strings = self.asking.vlm.stop_strings(self.asking.template);
        let decoding = self.asking.vlm.decoding(&self.asking.plan.generate.sampling);
        let stop_tokens = self.asking.vlm.stop_tokens(self.asking.template);
        let time = self.limits.begin(GENERATE);
        let mut shared = Duration::ZERO;
        let (cache, mut reused) = timed(&mut shared, || self.prefix(group, cache, &time))?;
        let mut live = Vec::new();
        for prompt in group {
            let time = if prompt.place == first.place { time } else { self.limits.begin(GENERATE) };
            let start = Instant::now();
            let mut branch = Branch::new();
            match self.read(prompt, &mut branch, cache, &time) {
                Err(error) => tell(prompt.place, Err(error)),
                Ok(logits) => live.push(Answering {
                    prompt,
                    branch,
                    logits,
                    sampler: Sampler::new(&decoding, self.history(prompt)),
                    stream: TextStream::new(self.asking.vlm.tokenizer(), &stop_strings),
                    ids: Vec::new(),
                    time,
                    reused,
                    prefill: std::mem::take(&mut shared) + start.elapsed(),
                    generate: Duration::ZERO,
                }),
            }
            reused = Tokens(cache.len());
        }
        while !live.is_empty() && !self.stop.is_aborted() {
            let start = Instant::now();
            let mut going_on = Vec::with_capacity(live.len());
            for mut answering in live {
                match answering.step(&stop_tokens) {
                    Ok(None) => going_on.push(answering),
                    Ok(Some(reason)) => {
                        let place = answering.prompt.place;
                        tell(place, answering.finish(reason, self.asking.plan.generate.max_new_tokens));
                    }
                    Err(error) => tell(answering.prompt.place, Err(error)),
                }
            }
            live = going_on;
            self.advance(&mut live, cache)?;
            let each = start.elapsed() / u32::try_from(live.len().max(1)).unwrap_or(u32::MAX);
            live.iter_mut().for_each(|answering| answering.generate += each);
        }
        Ok(())
    }

    /// A cache that holds what the group shares, with room for the longest of it, and how much of that it held already.
    fn prefix<'c>(
        &self,
        group: &[Prompt],
        kept: &'c mut Option<(Vec<u32>, KvCache)>,
        time: &Running,
    ) -> Result<(&'c mut KvCache, Tokens), PipelineError> {
        let vlm = self.asking.vlm;
        let length = group.iter().map(Prompt::length).max().unwrap_or(0);
        let n_prompt = group.iter().map(|prompt| prompt.budget.prompt().0).max().unwrap_or(0);
        let before = &group[0].ids.before_visual;
        let config = vlm.language().config();
        let found = kept.take().filter(|(ids, cache)| ids == before && cache.serves(config, n_prompt, length));
        let (cache, reused) = match found {
            Some((_, cache)) => {
                let reused = Tokens(cache.len());
                (cache, reused)
            }
            None => {
                let cache = vlm.language().new_cache_with_room(n_prompt, length);
                let mut cache = cache.map_err(ModelError::compute("allocating the cache"))?;
                let shared = PromptIds { before_visual: before.clone(), after_visual: Vec::new() };
                let embeds = vlm.splice(&shared, &self.seen.visual)?;
                self.prefill(time).run(&embeds, &mut |chunk| vlm.language().forward(chunk, &mut cache))?;
                (cache, Tokens(0))
            }
        };
        let (_, cache) = kept.insert((before.clone(), cache));
        Ok((cache, reused))
    }

    /// Runs a question's own words, and gives the logits at their end.
    fn read(
        &self,
        prompt: &Prompt,
        branch: &mut Branch,
        cache: &mut KvCache,
        time: &Running,
    ) -> Result<Tensor, PipelineError> {
        let failed = ModelError::compute("reading the prompt");
        let language = self.asking.vlm.language();
        let embeds = language.embed(&prompt.ids.after_visual).map_err(&failed)?;
        let last = self.prefill(time).run(&embeds, &mut |chunk| {
            let n = chunk.dim(0)?;
            language.forward_branches(chunk, &mut [(branch, n)], cache)
        })?;
        Ok(language.logits(&last).and_then(|logits| logits.squeeze(0)).map_err(&failed)?)
    }

    /// Runs the last token of every answer, all together.
    fn advance(&self, live: &mut [Answering<'_, '_>], cache: &mut KvCache) -> Result<(), PipelineError> {
        if live.is_empty() {
            return Ok(());
        }
        let language = self.asking.vlm.language();
        let mut run = || {
            let last: Vec<u32> = live.iter().filter_map(|answering| answering.ids.last().copied()).collect();
            let mut parts: Vec<(&mut Branch, usize)> = live.iter_mut().map(|a| (&mut a.branch, 1)).collect();
            let hidden = language.forward_branches(&language.embed(&last)?, &mut parts, cache)?; // (R, H)
            let logits = language.logits(&hidden)?; // (R, vocab_size)
            for (row, answering) in live.iter_mut().enumerate() {
                answering.logits = logits.get(row)?;
            }
            Ok(())
        };
        run().map_err(ModelError::compute("answering")).map_err(Into::into)
    }

    fn history(&self, prompt: &Prompt) -> PromptHistory {
        self.asking.vlm.prompt_history(&prompt.ids, prompt.budget.visual().0)
    }

    fn prefill(&self, time: &'a Running) -> Prefill<'_> {
        Prefill { time: Some(time), stop: Some(self.stop) }
    }
}

impl Answering<'_, '_> {
    /// Chooses the next token; why the answer ends with it, if it does.
    fn step(&mut self, stop_tokens: &[u32]) -> Result<Option<FinishReason>, PipelineError> {
        self.time.check()?;
        if self.prompt.max_new_tokens == 0 {
            return Ok(Some(FinishReason::Length));
        }
        let id = self.sampler.next(&self.logits, &self.ids).map_err(ModelError::compute("answering"))?;
        self.ids.push(id);
        if stop_tokens.contains(&id) {
            return Ok(Some(FinishReason::Stop));
        }
        self.stream.push(id);
        if self.stream.is_stopped() {
            return Ok(Some(FinishReason::Stop));
        }
        Ok((self.ids.len() == self.prompt.max_new_tokens).then_some(FinishReason::Length))
    }

    fn finish(mut self, finish_reason: FinishReason, wanted: usize) -> Result<Answer, PipelineError> {
        self.stream.finish();
        let Prompt { budget, max_new_tokens, .. } = self.prompt;
        Ok(Answer {
            text: self.stream.answer().to_owned(),
            finish_reason,
            context_full: finish_reason == FinishReason::Length && *max_new_tokens < wanted,
            token_ids: self.ids,
            prompt_tokens: budget.text,
            visual_tokens: budget.visual(),
            reused: self.reused,
            prefill: self.prefill,
            generate: self.generate,
        })
    }
}
