//! A request under way: its tokens, its pages, its progress and its listener.
//!
//! A sequence waits, runs, may be preempted and read again, and ends once. Its known tokens are those of the prompt and
//! those chosen so far; the keys and values of the first `n_stored` are in its pages. The engine's loop (`run.rs`)
//! makes every change of state; no forward pass is run here.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

use super::pool::{PageKey, Parent, PositionKey};
use super::prompt::{PositionedPart, PromptSegment, PromptTokens};
use super::request::{
    Completion, FinishReason, PromptPart, Request, RequestEvent, RequestId, RequestListener, cancelled, guarded,
};
use crate::error::Error;
use crate::kernels::kv::{PAGE_LEN, PageId, StepRows};
use crate::language::{Choosing, LlamaConfig, Sampler, SequenceRows};
use crate::text::{TextStream, Tokenizer};

/// A request under way.
pub(super) struct Sequence<'l> {
    pub(super) id: RequestId,
    prompt: PromptTokens,
    /// The tokens chosen so far.
    ids: Vec<u32>,
    pages: Vec<PageId>,
    /// Block table: the pages in the form of the kernels.
    table: Arc<[PageId]>,
    /// Positions whose keys and values are stored.
    n_stored: usize,
    /// Full pages that can be found by their content.
    n_published: usize,
    /// Positions of the prompt that were found stored at the first admission.
    reused: Option<usize>,
    sampler: Sampler,
    /// `None` where the engine has no tokenizer.
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
    ) -> Result<Self, (Error, RequestListener<'l>)> {
        let Request { prompt, history, decoding, stop, max_new_tokens, time_limit, listener } = request;
        if tokenizer.is_none() && !stop.strings.is_empty() {
            return Err((candle_core::Error::msg("stop strings without a tokenizer").into(), listener));
        }
        let prompt = match PromptTokens::new(prompt, config) {
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

    /// Number of positions of the prompt.
    pub(super) fn n_prompt(&self) -> usize {
        self.prompt.len()
    }

    /// Returns the largest number of positions to store: the last token is never read.
    pub(super) fn most_positions(&self) -> usize {
        self.prompt.len().saturating_add(self.max_new_tokens.saturating_sub(1))
    }

    pub(super) fn max_new_tokens(&self) -> usize {
        self.max_new_tokens
    }

    /// Number of positions whose tokens are known: those of the prompt, and those chosen so far.
    pub(super) fn n_known(&self) -> usize {
        self.prompt.len() + self.ids.len()
    }

    /// Number of known positions that are not stored.
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
        SequenceRows { rows, n_prompt: self.prompt.len() }
    }

    /// Returns the tokens at some positions.
    pub(super) fn segments(&self, positions: Range<usize>) -> Vec<PromptSegment<'_>> {
        let mut segments = Vec::new();
        let mut position = positions.start;
        while position < positions.end.min(self.prompt.len()) {
            let PositionedPart { first, part } = self.prompt.part_at(position);
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
            segments
                .push(PromptSegment::Ids(&self.ids[position - self.prompt.len()..positions.end - self.prompt.len()]));
        }
        segments
    }

    /// Takes pages, of which the first `n_shared` are shared, and store the first `n_stored` positions together with
    /// the beginning of the next one.
    pub(super) fn begin(&mut self, pages: Vec<PageId>, n_shared: usize, n_stored: usize) {
        self.n_stored = n_stored;
        self.n_published = n_shared;
        self.reused.get_or_insert(self.n_stored);
        self.pages = pages;
        self.table = self.pages.as_slice().into();
    }

    /// Returns the last chosen id, if the sequence is answering.
    pub(super) fn decode_input(&self) -> Option<u32> {
        self.ids.last().copied().filter(|_| !self.is_reading() && self.n_left() == 1)
    }

    /// Borrows the sampler and the ids that the next token is chosen with.
    pub(super) fn choosing(&mut self) -> Choosing<'_> {
        Choosing { sampler: &mut self.sampler, generated: &self.ids }
    }

    /// Appends pages.
    pub(super) fn add_pages(&mut self, pages: Vec<PageId>) {
        if !pages.is_empty() {
            self.pages.extend(pages);
            self.table = self.pages.as_slice().into();
        }
    }

    /// Removes all pages; the known tokens have to be read again.
    pub(super) fn take_pages(&mut self) -> Vec<PageId> {
        self.n_stored = 0;
        self.table = Arc::default();
        std::mem::take(&mut self.pages)
    }

    /// Marks all full pages as published, and returns the indices of those that were not.
    pub(super) fn publish(&mut self) -> Range<usize> {
        let first = std::mem::replace(&mut self.n_published, self.n_stored / PAGE_LEN);
        first..self.n_published
    }

    /// Returns the key of a page up to the position `end`, whose tokens are all known; `parent` is the serial number of
    /// the page before.
    fn key_until(&self, page: usize, end: usize, parent: Option<u64>) -> PageKey {
        let token = |position: usize| match position.checked_sub(self.prompt.len()) {
            None => self.prompt.key(position),
            Some(i) => PositionKey { source: 0, index: self.ids[i] },
        };
        let parent = parent.map_or(self.prompt.start(), Parent::Page);
        PageKey { parent, tokens: (page * PAGE_LEN..end).map(token).collect() }
    }

    /// Returns the key of a page whose tokens are all known; `parent` is the serial number of the page before.
    pub(super) fn page_key(&self, page: usize, parent: Option<u64>) -> PageKey {
        self.key_until(page, (page + 1) * PAGE_LEN, parent)
    }

    /// Returns the key of the known tokens of a page that need not be computed: at least one position is left, for its
    /// logits.
    pub(super) fn reusable_key(&self, page: usize, parent: Option<u64>) -> PageKey {
        self.key_until(page, (self.n_known() - 1).min((page + 1) * PAGE_LEN), parent)
    }

    /// Returns the index of the last page with stored positions, if it is not full.
    pub(super) fn tail(&self) -> Option<usize> {
        (!self.n_stored.is_multiple_of(PAGE_LEN)).then_some(self.n_stored / PAGE_LEN)
    }

    /// Returns the key of a tail's stored tokens; `parent` is the serial number of the page before.
    pub(super) fn tail_key(&self, tail: usize, parent: Option<u64>) -> PageKey {
        self.key_until(tail, self.n_stored, parent)
    }

    /// Number of full pages that may be shared: at least one position is left to be computed, for its logits.
    pub(super) fn n_sharable_pages(&self) -> usize {
        (self.n_known() - 1) / PAGE_LEN
    }

    /// Number of full pages that are found by their content.
    pub(super) fn n_published(&self) -> usize {
        self.n_published
    }

    /// Number of full pages at the beginning of both prompts, as far as they may be shared.
    pub(super) fn n_common_pages(&self, other: &Self) -> usize {
        self.prompt.n_common_pages(&other.prompt).min(self.n_sharable_pages())
    }

    /// Counts `n` new stored positions and the time of their computation.
    pub(super) fn advance(&mut self, n: usize, time: Duration) {
        if self.is_reading() {
            self.prefill += time;
        } else {
            self.generate += time;
        }
        self.n_stored += n;
    }

    /// Returns the time limit, if the sequence's share of the steps exceeds it.
    pub(super) fn expired(&self) -> Option<Duration> {
        self.time_limit.filter(|limit| self.prefill + self.generate > *limit)
    }

    /// Takes a token and sends its text to the listener. Returns the reason if the answer ends with this token.
    pub(super) fn push(&mut self, id: u32) -> Result<Option<FinishReason>, Error> {
        self.ids.push(id);
        let is_stop = self.stop_tokens.contains(&id);
        let stream = self.stream.as_mut().filter(|_| !is_stop);
        let text = guarded(|| stream.map_or_else(String::new, |stream| stream.push(id)))?;
        if (self.listener)(RequestEvent::Token { id, text: &text }) == ControlFlow::Break(()) {
            return Err(cancelled());
        }
        if is_stop || self.stream.as_ref().is_some_and(TextStream::is_stopped) {
            return Ok(Some(FinishReason::Stop));
        }
        Ok((self.ids.len() >= self.max_new_tokens).then_some(FinishReason::Length))
    }

    /// Sends the outcome to the listener.
    pub(super) fn finish(mut self, outcome: Result<FinishReason, Error>) {
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
