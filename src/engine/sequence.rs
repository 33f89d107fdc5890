//! A running request: its tokens, its pages and its progress.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

use candle_core::Tensor;

use super::pool::{PageKey, Parent, PositionKey};
use super::request::{
    Completion, EngineError, FinishReason, PromptPart, Request, RequestEvent, RequestId, RequestListener, guarded,
};
use crate::kernels::kv::{PAGE_LEN, PageId, StepRows};
use crate::language::{Choosing, LlamaConfig, Sampler, SequenceRows};
use crate::text::{TextStream, Tokenizer};

/// A prompt, with the hashes that prefixes are compared by.
pub(super) struct PromptTokens {
    /// Each part with its first position.
    parts: Vec<(usize, PromptPart)>,
    len: usize,
    /// Hashes of all tokens up to the end of each full page.
    page_hashes: Vec<u64>,
    /// Predecessor of the first page.
    start: Parent,
}

impl PromptTokens {
    fn new(parts: Vec<PromptPart>, config: &LlamaConfig) -> candle_core::Result<Self> {
        let mut len = 0;
        let mut placed = Vec::with_capacity(parts.len());
        for part in parts {
            let n = match &part {
                PromptPart::Ids(ids) => ids.len(),
                PromptPart::Visual(visual) => visual.embeds().dims2()?.0,
            };
            placed.push((len, part));
            len += n;
        }
        let start = Parent::Start { rope_length: config.rope_scaling.deciding_length(len) };
        let mut prompt = Self { parts: placed, len, page_hashes: Vec::new(), start };
        let mut hasher = DefaultHasher::new();
        start.hash(&mut hasher);
        for page in 0..len / PAGE_LEN {
            (page * PAGE_LEN..(page + 1) * PAGE_LEN).for_each(|position| prompt.key(position).hash(&mut hasher));
            prompt.page_hashes.push(hasher.finish());
        }
        Ok(prompt)
    }

    /// Returns the identity of the token at a position.
    fn key(&self, position: usize) -> PositionKey {
        let (first, part) = self.part_at(position);
        match part {
            PromptPart::Ids(ids) => PositionKey { source: 0, index: ids[position - first] },
            PromptPart::Visual(visual) => {
                PositionKey { source: visual.id(), index: visual.first() + (position - first) as u32 }
            }
        }
    }

    fn part_at(&self, position: usize) -> (usize, &PromptPart) {
        let after = self.parts.partition_point(|(first, _)| *first <= position);
        let (first, part) = &self.parts[after - 1];
        (*first, part)
    }
}

/// Consecutive input tokens.
pub(super) enum PromptSegment<'s> {
    Ids(&'s [u32]),
    /// Rows `(n, H)` of visual tokens.
    Visual(candle_core::Result<Tensor>),
}

/// A request under way.
pub(super) struct Sequence<'l> {
    pub(super) id: RequestId,
    prompt: PromptTokens,
    /// The tokens chosen so far.
    ids: Vec<u32>,
    pages: Vec<PageId>,
    /// The pages as kernels take them.
    table: Arc<[PageId]>,
    /// Positions whose keys and values are stored.
    n_stored: usize,
    /// Full pages that can be found by their content.
    n_published: usize,
    /// Positions of the prompt that were found stored when it was first admitted.
    reused: Option<usize>,
    sampler: Sampler,
    /// None where the engine has no tokenizer.
    stream: Option<TextStream<'l>>,
    stop_tokens: Arc<[u32]>,
    max_new_tokens: usize,
    time_limit: Option<Duration>,
    prefill: Duration,
    generate: Duration,
    listener: RequestListener<'l>,
}

impl<'l> Sequence<'l> {
    pub(super) fn new(
        id: RequestId,
        request: Request<'l>,
        tokenizer: Option<&'l Tokenizer>,
        config: &LlamaConfig,
    ) -> Result<Self, (EngineError, RequestListener<'l>)> {
        let Request { prompt, history, decoding, stop, max_new_tokens, time_limit, listener } = request;
        if tokenizer.is_none() && !stop.strings.is_empty() {
            return Err((candle_core::Error::msg("stop strings without a tokenizer").into(), listener));
        }
        let prompt = match PromptTokens::new(prompt, config).and_then(|prompt| checked(prompt, config)) {
            Ok(prompt) => prompt,
            Err(error) => return Err((error.into(), listener)),
        };
        Ok(Self {
            id,
            prompt,
            ids: Vec::new(),
            pages: Vec::new(),
            table: Arc::default(),
            n_stored: 0,
            n_published: 0,
            reused: None,
            sampler: Sampler::new(&decoding, history),
            stream: tokenizer.map(|tokenizer| TextStream::new(tokenizer, stop.strings)),
            stop_tokens: stop.tokens,
            max_new_tokens,
            time_limit,
            prefill: Duration::ZERO,
            generate: Duration::ZERO,
            listener,
        })
    }

    /// Positions of its prompt.
    pub(super) fn n_prompt(&self) -> usize {
        self.prompt.len
    }

    /// Returns the largest number of positions to store: the last token is never read.
    pub(super) fn most_positions(&self) -> usize {
        self.prompt.len.saturating_add(self.max_new_tokens.saturating_sub(1))
    }

    pub(super) fn max_new_tokens(&self) -> usize {
        self.max_new_tokens
    }

    /// Positions whose tokens are known: the prompt's, and those chosen so far.
    pub(super) fn n_known(&self) -> usize {
        self.prompt.len + self.ids.len()
    }

    /// Known positions that are not stored.
    pub(super) fn n_left(&self) -> usize {
        self.n_known() - self.n_stored
    }

    /// Returns whether the prompt is being read, for the first time or again after a preemption.
    pub(super) fn is_reading(&self) -> bool {
        self.n_left() > 1 || self.ids.is_empty()
    }

    pub(super) fn n_stored(&self) -> usize {
        self.n_stored
    }

    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub(super) fn pages(&self) -> &[PageId] {
        &self.pages
    }

    /// Returns the next `n` positions as rows of a step.
    pub(super) fn rows(&self, n: usize) -> SequenceRows {
        let rows = StepRows { pages: self.table.clone(), start: self.n_stored, n };
        SequenceRows { rows, n_prompt: self.prompt.len }
    }

    /// Returns the tokens at some positions.
    pub(super) fn segments(&self, positions: Range<usize>) -> Vec<PromptSegment<'_>> {
        let mut segments = Vec::new();
        let mut position = positions.start;
        while position < positions.end.min(self.prompt.len) {
            let (first, part) = self.prompt.part_at(position);
            let from = position - first;
            let to = |len: usize| len.min(positions.end - first);
            let (segment, n) = match part {
                PromptPart::Ids(ids) => (PromptSegment::Ids(&ids[from..to(ids.len())]), to(ids.len()) - from),
                PromptPart::Visual(visual) => {
                    let n = to(visual.embeds().dim(0).unwrap_or(0)) - from;
                    (PromptSegment::Visual(visual.embeds().narrow(0, from, n)), n)
                }
            };
            segments.push(segment);
            position += n;
        }
        if position < positions.end {
            segments.push(PromptSegment::Ids(&self.ids[position - self.prompt.len..positions.end - self.prompt.len]));
        }
        segments
    }

    /// Takes over the pages of its beginning, which hold its first positions.
    pub(super) fn begin(&mut self, found: Vec<PageId>) {
        self.n_stored = found.len() * PAGE_LEN;
        self.n_published = found.len();
        self.reused.get_or_insert(self.n_stored);
        self.pages = found;
        self.table = self.pages.as_slice().into();
    }

    /// Returns the id that comes next into a step, if the one after it is the largest logit as it is: of an answer,
    /// that is the last one chosen.
    pub(super) fn greedy_input(&self) -> Option<u32> {
        let is_answering = !self.is_reading() && self.n_left() == 1;
        self.ids.last().copied().filter(|_| is_answering && self.sampler.is_plain_argmax())
    }

    /// Borrows the sampler and the ids that the next token is chosen with.
    pub(super) fn choosing(&mut self) -> Choosing<'_> {
        Choosing { sampler: &mut self.sampler, generated: &self.ids }
    }

    /// Adds pages behind its own.
    pub(super) fn add_pages(&mut self, pages: Vec<PageId>) {
        if !pages.is_empty() {
            self.pages.extend(pages);
            self.table = self.pages.as_slice().into();
        }
    }

    /// Gives its pages up: it has to be read anew.
    pub(super) fn take_pages(&mut self) -> Vec<PageId> {
        self.n_stored = 0;
        self.table = Arc::default();
        std::mem::take(&mut self.pages)
    }

    /// Full pages that could not be found by their content so far; from now on they can.
    pub(super) fn publish(&mut self) -> Range<usize> {
        let first = std::mem::replace(&mut self.n_published, self.n_stored / PAGE_LEN);
        first..self.n_published
    }

    /// Returns the key of one of its pages, whose tokens are all known; `parent` is the serial number of the page
    /// before it.
    pub(super) fn page_key(&self, page: usize, parent: Option<u64>) -> PageKey {
        let token = |position: usize| match position.checked_sub(self.prompt.len) {
            None => self.prompt.key(position),
            Some(i) => PositionKey { source: 0, index: self.ids[i] },
        };
        let parent = parent.map_or(self.prompt.start, Parent::Page);
        PageKey { parent, tokens: (page * PAGE_LEN..(page + 1) * PAGE_LEN).map(token).collect() }
    }

    /// Full pages that may be taken over: at least one position is left to be computed, for its logits.
    pub(super) fn n_sharable_pages(&self) -> usize {
        (self.n_known() - 1) / PAGE_LEN
    }

    /// Full pages that others find.
    pub(super) fn n_published(&self) -> usize {
        self.n_published
    }

    /// Full pages at the beginning of both prompts.
    pub(super) fn n_common_pages(&self, other: &Self) -> usize {
        let pairs = self.prompt.page_hashes.iter().zip(&other.prompt.page_hashes);
        pairs.take_while(|(a, b)| a == b).count().min(self.n_sharable_pages())
    }

    /// Counts new stored positions, and the time that they took.
    pub(super) fn advance(&mut self, n: usize, time: Duration) {
        if self.is_reading() {
            self.prefill += time;
        } else {
            self.generate += time;
        }
        self.n_stored += n;
    }

    /// Returns its time limit if its share of the steps exceeds that.
    pub(super) fn expired(&self) -> Option<Duration> {
        self.time_limit.filter(|limit| self.prefill + self.generate > *limit)
    }

    /// Takes a token; why the answer ends with it, if it does.
    pub(super) fn push(&mut self, id: u32) -> Result<Option<FinishReason>, EngineError> {
        self.ids.push(id);
        let is_stop = self.stop_tokens.contains(&id);
        let stream = self.stream.as_mut().filter(|_| !is_stop);
        let text = guarded(|| stream.map_or_else(String::new, |stream| stream.push(id)))?;
        if (self.listener)(RequestEvent::Token { id, text: &text }) == ControlFlow::Break(()) {
            return Err(EngineError::Cancelled);
        }
        if is_stop || self.stream.as_ref().is_some_and(TextStream::is_stopped) {
            return Ok(Some(FinishReason::Stop));
        }
        Ok((self.ids.len() >= self.max_new_tokens).then_some(FinishReason::Length))
    }

    /// Tells the listener the end.
    pub(super) fn finish(mut self, outcome: Result<FinishReason, EngineError>) {
        let rest = |stream: &mut Option<TextStream<'_>>| stream.as_mut().map_or_else(String::new, TextStream::finish);
        let outcome = outcome.and_then(|finish_reason| {
            let rest = guarded(|| rest(&mut self.stream))?;
            // Text that became certain at the end may hold a stop string.
            let is_stopped = self.stream.as_ref().is_some_and(TextStream::is_stopped);
            let finish_reason = if is_stopped { FinishReason::Stop } else { finish_reason };
            Ok(Completion {
                text: self.stream.as_ref().map_or_else(String::new, |stream| stream.answer().to_owned()),
                rest,
                ids: std::mem::take(&mut self.ids),
                finish_reason,
                reused: self.reused.unwrap_or(0),
                prefill: self.prefill,
                generate: self.generate,
            })
        });
        let _ = (self.listener)(RequestEvent::Done(outcome));
    }
}

/// Refuses a prompt that no step could run.
fn checked(prompt: PromptTokens, config: &LlamaConfig) -> candle_core::Result<PromptTokens> {
    if prompt.len == 0 {
        candle_core::bail!("an empty prompt");
    }
    for (_, part) in &prompt.parts {
        match part {
            PromptPart::Ids(ids) => {
                if let Some(id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
                    candle_core::bail!("token id {id} is beyond the vocabulary of {} ids", config.vocab_size);
                }
            }
            PromptPart::Visual(visual) => {
                let width = visual.embeds().dim(1)?;
                if width != config.d_hidden {
                    candle_core::bail!("visual tokens of width {width} for a language model of {}", config.d_hidden);
                }
            }
        }
    }
    Ok(prompt)
}
