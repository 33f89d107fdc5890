//! The engine's loop: admission, forward passes, and sampling.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Result, Tensor};
use serde::Serialize;

use super::config::{DecodeLaunch, EngineConfig};
use super::pool::{PagePool, PoolConfig};
use super::request::{EngineError, FinishReason, Request, RequestEvent, RequestId, guarded};
use super::sequence::{PromptSegment, Sequence};
use crate::device::{free_memory, release_unused_memory};
use crate::error::is_out_of_memory;
use crate::error::without_backtrace;
use crate::exec::Stop;
use crate::kernels::kv::{KvStore, PAGE_LEN, PageId, pages_for};
use crate::language::{Llama, choose_each, not_finite};
use crate::text::Tokenizer;

/// Runs requests through a language model.
pub struct Engine<'m> {
    model: &'m Llama,
    tokenizer: Option<&'m Tokenizer>,
    config: EngineConfig,
    store: Box<dyn KvStore>,
    pool: PagePool,
    /// In the order of their requests.
    waiting: VecDeque<Sequence<'m>>,
    /// In the order of their requests; the first one is never preempted.
    running: Vec<Sequence<'m>>,
    next: u64,
    stats: EngineStats,
}

/// Counters of an engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EngineStats {
    /// Forward passes.
    pub steps: u64,
    /// Steps replayed as one CUDA graph.
    pub replayed_steps: u64,
    /// Sequences per step, summed.
    pub sequence_steps: u64,
    /// Positions of prompts that were computed.
    pub prompt_tokens: u64,
    /// Positions of prompts that were found in memory.
    pub prefix_hits: u64,
    /// Tokens that were chosen.
    pub new_tokens: u64,
    /// Preemptions: sequences whose pages went to an older one.
    pub preemptions: u64,
    /// Steps for which the device had no memory, and which were made smaller: fewer positions, then fewer sequences.
    pub memory_retreats: u64,
    /// The most sequences that ran at once.
    pub peak_running: usize,
    /// The most requests that waited.
    pub peak_waiting: usize,
    /// Largest key-value memory in use at once, in bytes.
    pub peak_kv_bytes: usize,
    /// The budget of key-value memory, in bytes.
    pub kv_budget_bytes: usize,
}

impl EngineStats {
    /// Mean number of sequences in a step.
    pub fn mean_running(&self) -> f64 {
        self.sequence_steps as f64 / self.steps.max(1) as f64
    }
}

/// New positions of a running sequence in a step.
#[derive(Debug, Clone, Copy)]
struct Planned {
    /// Index among the running sequences.
    index: usize,
    n: usize,
}

/// Output of a step.
enum StepOutput {
    /// Keys and values alone: no sequence's next token is decided.
    Stored,
    /// The logits of those sequences whose next token they decide: `(R, vocab_size)`.
    Logits(Tensor),
    /// The next token of every sequence, none where its logits are not finite.
    Chosen(Vec<Option<u32>>),
}

/// Why a sequence ended, or failed.
type Outcome = std::result::Result<FinishReason, EngineError>;

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
            candle_core::bail!(
                "{} bytes of key-value memory are less than the {} bytes that are allocated at once; hint: a larger --kv-memory",
                config.kv_bytes,
                page_bytes * at_once
            );
        }
        let keep_pages = pages_for(model.config().context).min(max_pages);
        let stats = EngineStats { kv_budget_bytes: max_pages * page_bytes, ..EngineStats::default() };
        Ok(Self {
            model,
            tokenizer,
            config,
            store,
            pool: PagePool::new(PoolConfig { max_pages, keep_pages }),
            waiting: VecDeque::new(),
            running: Vec::new(),
            next: 0,
            stats,
        })
    }

    /// Takes a request. Its listener hears of everything that follows, also of a request that cannot run.
    pub fn submit(&mut self, request: Request<'m>) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        match Sequence::new(id, request, self.tokenizer, self.model.config()) {
            Err((error, mut listener)) => {
                let _ = listener(RequestEvent::Done(Err(error)));
            }
            Ok(sequence) if sequence.max_new_tokens() == 0 => sequence.finish(Ok(FinishReason::Length)),
            Ok(sequence) if pages_for(sequence.most_positions()) > self.pool.max_pages() => {
                let error = EngineError::OverBudget {
                    prompt: sequence.n_prompt(),
                    new: sequence.max_new_tokens(),
                    needed: pages_for(sequence.most_positions()) * self.store.page_bytes(),
                    budget: self.stats.kv_budget_bytes,
                };
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

    /// Gives a request up, if it is not done; its memory is free at once.
    pub fn cancel(&mut self, id: RequestId) {
        if let Some(i) = self.waiting.iter().position(|sequence| sequence.id == id) {
            if let Some(sequence) = self.waiting.remove(i) {
                sequence.finish(Err(EngineError::Cancelled));
            }
        } else if let Some(i) = self.running.iter().position(|sequence| sequence.id == id) {
            self.end(i, Err(EngineError::Cancelled));
        }
    }

    /// Gives all requests up.
    pub fn cancel_all(&mut self) {
        while !self.running.is_empty() {
            self.end(self.running.len() - 1, Err(EngineError::Cancelled));
        }
        while let Some(sequence) = self.waiting.pop_front() {
            sequence.finish(Err(EngineError::Cancelled));
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

    /// Sequences that run.
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Returns the key-value memory in use, in bytes.
    pub fn kv_bytes(&self) -> usize {
        self.pool.n_held() * self.store.page_bytes()
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
            // The budget has room for the first one, but the device has not.
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
                self.end(i, Err(EngineError::TimeLimit(limit)));
            }
        }
        for i in (0..self.waiting.len()).rev() {
            if let Some(limit) = self.waiting[i].expired()
                && let Some(sequence) = self.waiting.remove(i)
            {
                sequence.finish(Err(EngineError::TimeLimit(limit)));
            }
        }
    }

    /// Admits waiting requests in their order while there are places and memory. A request whose prefix a running
    /// sequence is still reading waits for that sequence; requests behind it may pass.
    fn admit(&mut self) {
        let mut i = 0;
        while i < self.waiting.len() && self.running.len() < self.config.max_sequences {
            if self.is_being_read(&self.waiting[i]) {
                i += 1;
                continue;
            }
            let Some(mut sequence) = self.waiting.remove(i) else { return };
            let is_new = sequence.ids().is_empty();
            if !self.take_memory(&mut sequence) {
                self.waiting.insert(i, sequence);
                return;
            }
            if is_new {
                self.stats.prefix_hits += sequence.n_stored() as u64;
            }
            let at = self.running.partition_point(|other| other.id < sequence.id);
            self.running.insert(at, sequence);
            self.stats.peak_running = self.stats.peak_running.max(self.running.len());
        }
    }

    /// Returns whether a running sequence is reading more of the prefix of a waiting one than is cached.
    fn is_being_read(&self, sequence: &Sequence<'m>) -> bool {
        let readers = self.running.iter().filter(|running| running.is_reading());
        // Pages that a reader has published are found already: most readers have no others in common.
        let unpublished = readers.filter_map(|reader| {
            let n_common = sequence.n_common_pages(reader);
            (n_common > reader.n_published()).then_some(n_common)
        });
        unpublished.max().is_some_and(|n_common| n_common > self.prefix(sequence).count())
    }

    /// Pages in memory that a sequence begins with.
    fn prefix(&self, sequence: &Sequence<'m>) -> impl Iterator<Item = PageId> {
        let mut parent = None;
        (0..sequence.n_sharable_pages()).map_while(move |page| {
            let found = self.pool.find(&sequence.page_key(page, parent));
            parent = found.map(|page| self.pool.serial(page));
            found
        })
    }

    /// Gives a sequence the pages of its beginning that are in memory, and new ones for its other known positions and
    /// the next.
    fn take_memory(&mut self, sequence: &mut Sequence<'m>) -> bool {
        let found: Vec<PageId> = self.prefix(sequence).collect();
        found.iter().for_each(|page| self.pool.hold(*page));
        let n_known = pages_for(sequence.n_known());
        // Running sequences grow as well.
        let reserve = self.running.len();
        let new = if n_known - found.len() + reserve <= self.pool.n_available() {
            self.take_pages(n_known - found.len())
        } else {
            None
        };
        match new {
            Some(new) => {
                sequence.begin(found);
                sequence.add_pages(new);
                true
            }
            None => {
                found.into_iter().for_each(|page| self.pool.release(page));
                false
            }
        }
    }

    /// New pages with memory.
    fn take_pages(&mut self, n: usize) -> Option<Vec<PageId>> {
        loop {
            let pages = self.pool.take(n)?;
            let Some(missing) = pages.iter().find(|page| self.store.allocate(**page).is_err()).copied() else {
                return Some(pages);
            };
            // The device has less than the budget says: no page without memory is taken again.
            pages.into_iter().for_each(|page| self.pool.release(page));
            self.pool.give_up_from(missing);
            self.stats.kv_budget_bytes = self.pool.max_pages() * self.store.page_bytes();
        }
    }

    /// Releases a sequence's pages, the last one first: what is evicted first is then the end of a prefix, not its
    /// beginning, without which nothing of it is found.
    fn release_pages(&mut self, sequence: &mut Sequence<'m>) {
        sequence.take_pages().into_iter().rev().for_each(|page| self.pool.release(page));
    }

    /// Returns the positions of the next step: one of each sequence that is answering, and as much of prompts as a step
    /// takes.
    fn plan(&mut self) -> Vec<Planned> {
        let n_answering = self.running.iter().filter(|sequence| !sequence.is_reading()).count();
        let Self { config: EngineConfig { chunk, chunk_beside_answers, .. }, .. } = *self;
        // A page at least, so that prompts are read beside however many answers.
        let beside = chunk_beside_answers.saturating_sub(n_answering).max(PAGE_LEN.min(chunk_beside_answers));
        let mut rows = if n_answering > 0 { beside } else { chunk }.max(1);
        let mut planned = Vec::new();
        let mut index = 0;
        while index < self.running.len() {
            let left = self.running[index].n_left();
            let n = if left == 1 { 1 } else { left.min(rows) };
            if n > 0 {
                if !self.make_room(index, n) {
                    break;
                }
                if left > 1 {
                    rows -= n;
                }
                planned.push(Planned { index, n });
            }
            index += 1;
        }
        planned
    }

    /// Gives a running sequence pages for `n` more positions; the youngest others give theirs up if need be. False if
    /// it had to give up its own.
    fn make_room(&mut self, index: usize, n: usize) -> bool {
        loop {
            let sequence = &self.running[index];
            let needed = pages_for(sequence.n_stored() + n).saturating_sub(sequence.pages().len());
            if let Some(pages) = self.take_pages(needed) {
                self.running[index].add_pages(pages);
                return true;
            }
            let youngest = self.running.len() - 1;
            if youngest == 0 {
                self.end(0, Err(no_device_memory()));
                return false;
            }
            self.preempt(youngest);
            if youngest == index {
                return false;
            }
        }
    }

    fn preempt(&mut self, index: usize) {
        let mut sequence = self.running.remove(index);
        self.stats.preemptions += 1;
        self.release_pages(&mut sequence);
        let at = self.waiting.partition_point(|other| other.id < sequence.id);
        self.waiting.insert(at, sequence);
    }

    /// Computes a step, and takes its tokens. Where it fails, each of its sequences is tried alone: no request may fail
    /// with another.
    fn execute(&mut self, planned: &[Planned]) {
        let start = Instant::now();
        let mut ended = Vec::new();
        match self.compute(planned) {
            Ok(output) => self.take(planned, output, start, &mut ended),
            Err(error) if error.is_out_of_memory() && self.retreat(planned) => {}
            Err(error) if planned.len() == 1 => ended.push((planned[0].index, Err(error))),
            Err(_) => {
                for one in planned {
                    let start = Instant::now();
                    match self.compute(&[*one]) {
                        Ok(output) => self.take(&[*one], output, start, &mut ended),
                        Err(error) => ended.push((one.index, Err(error))),
                    }
                }
            }
        }
        ended.sort_by_key(|(index, _)| *index);
        while let Some((index, outcome)) = ended.pop() {
            self.end(index, outcome);
        }
    }

    /// After a step for which the device had no memory: makes the next ones smaller, down to one page of one sequence.
    /// False if this one was as small.
    fn retreat(&mut self, planned: &[Planned]) -> bool {
        let n_rows = planned.iter().map(|planned| planned.n).max().unwrap_or(0);
        if n_rows > PAGE_LEN {
            self.config.chunk = (n_rows / 2).max(PAGE_LEN);
            self.config.chunk_beside_answers = self.config.chunk_beside_answers.min(self.config.chunk);
        } else if self.running.len() > 1 {
            self.config.max_sequences = self.running.len().div_ceil(2);
            while self.running.len() > self.config.max_sequences {
                self.preempt(self.running.len() - 1);
            }
        } else {
            return false;
        }
        self.stats.memory_retreats += 1;
        release_unused_memory(self.model.device());
        true
    }

    /// Runs the planned positions.
    fn compute(&mut self, planned: &[Planned]) -> std::result::Result<StepOutput, EngineError> {
        let replay = self.config.decode == DecodeLaunch::Graph;
        let Self { model, store, running, .. } = self;
        let forward = || -> Result<StepOutput> {
            let rows: Vec<_> = planned.iter().map(|Planned { index, n }| running[*index].rows(*n)).collect();
            if replay
                && let Some(ids) = greedy_inputs(running, planned)
                && let Some(chosen) = model.replay_greedy(&ids, &rows, &mut **store)?
            {
                return Ok(StepOutput::Chosen(chosen));
            }
            let hidden = model.forward(&embed(model, running, planned)?, &rows, &mut **store)?; // (S, H)
            let last = last_rows(running, planned);
            if last.is_empty() {
                return Ok(StepOutput::Stored);
            }
            if last.len() == hidden.dim(0)? {
                return Ok(StepOutput::Logits(model.logits(&hidden)?));
            }
            let last = Tensor::new(last, hidden.device())?;
            Ok(StepOutput::Logits(model.logits(&hidden.index_select(&last, 0)?)?))
        };
        let computed = guarded(forward)?;
        computed.map_err(|error| {
            if !is_out_of_memory(&error) {
                return error.into();
            }
            EngineError::OutOfMemory {
                positions: planned.iter().map(|planned| planned.n).sum(),
                sequences: planned.len(),
                free: free_memory(self.model.device()),
                source: Arc::new(without_backtrace(error)),
            }
        })
    }

    /// Counts the stored positions, and chooses the next tokens of all sequences that have logits.
    fn take(&mut self, planned: &[Planned], output: StepOutput, start: Instant, ended: &mut Vec<(usize, Outcome)>) {
        let n_rows: usize = planned.iter().map(|planned| planned.n).sum();
        let choosing: Vec<usize> =
            planned.iter().filter(|p| self.running[p.index].n_left() == p.n).map(|p| p.index).collect();
        let chosen = match output {
            StepOutput::Stored => Vec::new(),
            StepOutput::Chosen(ids) => {
                self.stats.replayed_steps += 1;
                ids.into_iter().map(|id| id.ok_or_else(not_finite)).collect()
            }
            StepOutput::Logits(logits) => {
                let mut samplers: Vec<_> = self
                    .running
                    .iter_mut()
                    .enumerate()
                    .filter(|(i, _)| choosing.contains(i))
                    .map(|(_, sequence)| sequence.choosing())
                    .collect();
                choose_each(self.model.kernels(), &logits, &mut samplers)
            }
        };
        self.stats.steps += 1;
        self.stats.sequence_steps += planned.len() as u64;
        let elapsed = start.elapsed();
        for Planned { index, n } in planned {
            let sequence = &mut self.running[*index];
            let n_prompt = sequence.n_prompt().saturating_sub(sequence.n_stored()).min(*n);
            self.stats.prompt_tokens += n_prompt as u64;
            let share = elapsed.mul_f64(*n as f64 / n_rows.max(1) as f64);
            sequence.advance(*n, share);
        }
        for (index, id) in choosing.into_iter().zip(chosen) {
            if id.is_ok() {
                self.stats.new_tokens += 1;
                self.publish(index);
            }
            match id.map_err(EngineError::from).and_then(|id| self.running[index].push(id)) {
                Ok(None) => {}
                Ok(Some(reason)) => ended.push((index, Ok(reason))),
                Err(error) => ended.push((index, Err(error))),
            }
        }
    }

    /// Lets the full pages of a sequence be found. Not before a token was chosen after them: keys and values that are
    /// NaN at a position spoil those of positions before it in the same chunk (0 times NaN), which others may begin
    /// with too; then no logit is finite.
    fn publish(&mut self, index: usize) {
        let pages = self.running[index].publish();
        let sequence = &self.running[index];
        for page in pages {
            let parent = page.checked_sub(1).map(|before| self.pool.serial(sequence.pages()[before]));
            self.pool.fill(sequence.pages()[page], sequence.page_key(page, parent));
        }
    }

    /// Ends a running sequence; its memory is free at once.
    fn end(&mut self, index: usize, outcome: Outcome) {
        let mut sequence = self.running.remove(index);
        self.release_pages(&mut sequence);
        sequence.finish(outcome);
    }
}

/// Error of a device without memory for pages that the budget admits.
fn no_device_memory() -> EngineError {
    candle_core::Error::msg("the device has no memory left for keys and values; hint: fewer frames, a smaller model")
        .into()
}

/// Returns the ids of a step of greedy answers alone.
fn greedy_inputs(running: &[Sequence<'_>], planned: &[Planned]) -> Option<Vec<u32>> {
    planned.iter().map(|Planned { index, .. }| running[*index].greedy_input()).collect()
}

/// Returns the embeddings of a step's positions: `(S, H)`.
fn embed(model: &Llama, running: &[Sequence<'_>], planned: &[Planned]) -> Result<Tensor> {
    let (mut parts, mut ids): (Vec<Tensor>, Vec<u32>) = (Vec::new(), Vec::new());
    for Planned { index, n } in planned {
        let sequence = &running[*index];
        for segment in sequence.segments(sequence.n_stored()..sequence.n_stored() + n) {
            match segment {
                PromptSegment::Ids(more) => ids.extend(more),
                PromptSegment::Visual(visual) => {
                    if !ids.is_empty() {
                        parts.push(model.embed(&std::mem::take(&mut ids))?);
                    }
                    parts.push(visual?.to_dtype(model.dtype())?);
                }
            }
        }
    }
    if !ids.is_empty() {
        parts.push(model.embed(&ids)?);
    }
    match parts.as_slice() {
        [part] => part.contiguous(),
        _ => Tensor::cat(&parts, 0),
    }
}

/// Returns the last row of each planned sequence all of whose known positions are stored then.
fn last_rows(running: &[Sequence<'_>], planned: &[Planned]) -> Vec<u32> {
    let mut end = 0;
    let row = |Planned { index, n }: &Planned| {
        end += n;
        (running[*index].n_left() == *n).then_some(end as u32 - 1)
    };
    planned.iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests;
