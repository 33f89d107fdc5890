//! The engine's state and its loop: requests come in, steps run, sequences end.
//!
//! [`Engine::step`] ends the sequences over their time limit, admits waiting ones while memory lasts
//! (`run/admission.rs`), and runs one forward pass (`run/forward.rs`). Every listener receives the outcome of its
//! request exactly once: from [`Engine::submit`], [`Engine::cancel`] or the step in which the sequence ended. One
//! thread owns an engine; `pipeline/ask.rs` makes it for all uses, `bench/engine.rs` for measurements.

mod admission;
mod forward;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use candle_core::Result;

use super::config::EngineConfig;
use super::pool::{PagePool, PoolConfig};
use super::request::{FinishReason, Request, RequestEvent, RequestId, cancelled, time_limit};
use super::sequence::Sequence;
use crate::error::{Error, Kind};
use crate::exec::Stop;
use crate::kernels::kv::{KvStore, pages_for};
use crate::language::Llama;
use crate::text::Tokenizer;
use admission::no_device_memory;
pub use stats::EngineStats;

/// Runs requests through a language model.
pub struct Engine<'m> {
    model: &'m Llama,
    tokenizer: Option<&'m Tokenizer>,
    config: EngineConfig,
    store: Box<dyn KvStore>,
    pool: PagePool,
    /// Sequences without memory, in the order of their requests.
    waiting: VecDeque<Sequence<'m>>,
    /// Sequences with memory, in the order of their requests; the first one is never preempted.
    running: Vec<Sequence<'m>>,
    next: u64,
    stats: EngineStats,
}

/// Unused pages that are kept for each unused tail among them.
const PAGES_PER_TAIL: usize = 4;

/// Reason of a sequence's end, or its error.
type SequenceOutcome = std::result::Result<FinishReason, Error>;

impl<'m> Engine<'m> {
    /// Makes an engine without requests. No key-value memory is taken yet. Without a tokenizer there are ids but no
    /// text, and requests with stop strings fail.
    ///
    /// # Errors
    /// When the model's geometry has no key-value memory, or the budget is less than what is allocated at once.
    pub fn new(model: &'m Llama, tokenizer: Option<&'m Tokenizer>, config: EngineConfig) -> Result<Self> {
        let config = EngineConfig { max_sequences: config.max_sequences.max(1), ..config };
        let store = model.new_kv_store()?;
        let page_bytes = store.page_bytes().max(1);
        let at_once = store.pages_at_once().max(1);
        let max_pages = config.kv_bytes / page_bytes / at_once * at_once;
        if max_pages == 0 {
            let (kv_bytes, least) = (config.kv_bytes, page_bytes * at_once);
            let rule = format!(
                "{kv_bytes} bytes of key-value memory are less than the {least} bytes that are allocated at once"
            );
            return Err(Error::invalid(rule).with_hint("a larger --kv-memory").into());
        }
        let keep_pages = pages_for(model.config().context).min(max_pages);
        let keep_tails = if store.copies_pages() { keep_pages.div_ceil(PAGES_PER_TAIL) } else { 0 };
        let stats = EngineStats { kv_budget_bytes: max_pages * page_bytes, ..EngineStats::default() };
        Ok(Self {
            model,
            tokenizer,
            config,
            store,
            pool: PagePool::new(PoolConfig { max_pages, keep_pages, keep_tails }),
            waiting: VecDeque::new(),
            running: Vec::new(),
            next: 0,
            stats,
        })
    }

    /// Takes a request. All further events go to its listener, the refusal of a request that cannot run included.
    pub fn submit(&mut self, request: Request<'m>) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        match Sequence::new(id, request, self.tokenizer, self.model.config()) {
            Err((error, mut listener)) => {
                let _ = listener(RequestEvent::Done(Err(error)));
            }
            Ok(sequence) if sequence.max_new_tokens() == 0 => sequence.finish(Ok(FinishReason::Length)),
            Ok(sequence) if pages_for(sequence.most_positions()) > self.pool.max_pages() => {
                let needed = pages_for(sequence.most_positions()) * self.store.page_bytes();
                let rule = format!(
                    "a prompt of {} and an answer of up to {} tokens need {needed} bytes of key-value memory, over the \
                     budget of {} bytes",
                    sequence.n_prompt(),
                    sequence.max_new_tokens(),
                    self.stats.kv_budget_bytes,
                );
                let hint = "a larger --kv-memory, fewer frames, or a smaller --max-new-tokens";
                let error = Error::new(Kind::KvMemory, rule).with_hint(hint);
                sequence.finish(Err(error));
            }
            Ok(sequence) => {
                self.waiting.push_back(sequence);
                self.admit();
                self.stats.peak_waiting = self.stats.peak_waiting.max(self.waiting.len());
            }
        }
        id
    }

    /// Cancels a request that is not done; its memory is free at once.
    pub fn cancel(&mut self, id: RequestId) {
        if let Some(i) = self.waiting.iter().position(|sequence| sequence.id == id) {
            if let Some(sequence) = self.waiting.remove(i) {
                sequence.finish(Err(cancelled()));
            }
        } else if let Some(i) = self.running.iter().position(|sequence| sequence.id == id) {
            self.end(i, Err(cancelled()));
        }
    }

    /// Cancels all requests.
    pub fn cancel_all(&mut self) {
        while !self.running.is_empty() {
            self.end(self.running.len() - 1, Err(cancelled()));
        }
        while let Some(sequence) = self.waiting.pop_front() {
            sequence.finish(Err(cancelled()));
        }
    }

    /// Returns whether no sequence waits or runs.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Returns the number of requests that wait for memory or a slot.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether a slot is free for a further request. Waiting requests count as slots; they may wait only for a
    /// sequence that is reading their prefix.
    pub fn takes_more(&self) -> bool {
        let n = self.running.len() + self.waiting.len();
        n < self.config.max_sequences && self.waiting.iter().all(|waiting| self.is_being_read(waiting))
    }

    /// Returns the limit of sequences that run at once.
    pub fn max_sequences(&self) -> usize {
        self.config.max_sequences
    }

    /// Number of running sequences.
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Returns the key-value memory in use, in bytes.
    pub fn kv_bytes(&self) -> usize {
        self.pool.n_in_use() * self.store.page_bytes()
    }

    /// Key-value memory that was ever allocated, in bytes: at most the budget.
    pub fn kv_allocated_bytes(&self) -> usize {
        self.pool.n_pages().next_multiple_of(self.store.pages_at_once().max(1)) * self.store.page_bytes()
    }

    /// Returns the counters.
    pub fn stats(&self) -> EngineStats {
        EngineStats { peak_kv_bytes: self.pool.peak() * self.store.page_bytes(), ..self.stats }
    }

    /// Runs until no sequence is left, or all are cancelled.
    pub fn run(&mut self, stop: &Stop) {
        while self.step() {
            if stop.is_aborted() {
                self.cancel_all();
            }
        }
    }

    /// Runs one forward pass; returns false when no sequence is left.
    pub fn step(&mut self) -> bool {
        self.expire();
        self.admit();
        if self.running.is_empty() {
            // The budget has room for the first sequence, but the device has not.
            if let Some(sequence) = self.waiting.pop_front() {
                sequence.finish(Err(no_device_memory()));
            }
        } else {
            let planned = self.plan();
            if !planned.is_empty() {
                self.execute(&planned);
            }
        }
        !self.is_idle()
    }

    /// Fails the sequences whose time limit is exceeded.
    fn expire(&mut self) {
        for i in (0..self.running.len()).rev() {
            if let Some(limit) = self.running[i].expired() {
                self.end(i, Err(time_limit(limit)));
            }
        }
        for i in (0..self.waiting.len()).rev() {
            if let Some(limit) = self.waiting[i].expired()
                && let Some(sequence) = self.waiting.remove(i)
            {
                sequence.finish(Err(time_limit(limit)));
            }
        }
    }

    /// Ends a running sequence; its memory is free at once.
    fn end(&mut self, index: usize, outcome: SequenceOutcome) {
        if outcome.is_ok() {
            self.publish_tail(index);
        }
        let mut sequence = self.running.remove(index);
        self.release_pages(&mut sequence);
        sequence.finish(outcome);
    }
}
