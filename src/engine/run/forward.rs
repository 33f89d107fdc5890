//! One forward pass: its plan, its execution, and the choice of the next tokens.
//!
//! A step takes one position of each sequence that is answering and a chunk of the prompts that are still read; the
//! rows of one sequence follow those of the other, `(S, H)`. A failed step is repeated one sequence at a time, so that
//! no request fails with another; a step for which the device has no memory makes the next ones smaller. Admission is
//! in `admission.rs`. Called by [`Engine::step`](super::Engine::step).

use std::time::Instant;

use bytesize::ByteSize;
use candle_core::{Result, Tensor};

use super::{Engine, SequenceOutcome};
use crate::device::{free_memory, release_unused_memory};
use crate::engine::config::{DecodeLaunch, EngineConfig};
use crate::engine::prompt::PromptSegment;
use crate::engine::request::guarded;
use crate::engine::sequence::Sequence;
use crate::error::{Error, Kind};
use crate::kernels::kv::{DecodeOutput, PAGE_LEN};
use crate::language::{Llama, choose_each};

/// Hint for a step that the device has no memory for.
const MEMORY_HINT: &str = "a smaller --kv-memory, a smaller model, half precision (--dtype bf16), or --quant q8_0";

/// New positions of a running sequence in a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlannedRows {
    /// Index among the running sequences.
    index: usize,
    n: usize,
}

/// Output of a step.
struct StepOutput {
    /// Next token of each sequence whose known positions are all stored, in the order of the plan.
    chosen: Vec<Result<u32>>,
    /// Whether the step was a replay of a recording.
    is_replayed: bool,
}

impl Engine<'_> {
    /// Returns the positions of the next step: one of each sequence that is answering, and a chunk of the prompts.
    pub(super) fn plan(&mut self) -> Vec<PlannedRows> {
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
                planned.push(PlannedRows { index, n });
            }
            index += 1;
        }
        planned
    }

    /// Computes a step, and takes its tokens. Where the step fails, each of its sequences is computed alone: no request
    /// may fail with another.
    pub(super) fn execute(&mut self, planned: &[PlannedRows]) {
        let start = Instant::now();
        let mut ended = Vec::new();
        match self.compute(planned) {
            Ok(output) => self.take(planned, output, start, &mut ended),
            Err(error) if error.kind().is_out_of_memory() && self.retreat(planned) => {}
            Err(error) if planned.len() == 1 => ended.push((planned[0].index, Err(error))),
            Err(_) => {
                for rows in planned {
                    let start = Instant::now();
                    match self.compute(&[*rows]) {
                        Ok(output) => self.take(&[*rows], output, start, &mut ended),
                        Err(error) => ended.push((rows.index, Err(error))),
                    }
                }
            }
        }
        ended.sort_by_key(|(index, _)| *index);
        while let Some((index, outcome)) = ended.pop() {
            self.end(index, outcome);
        }
    }

    /// Makes the next steps smaller, down to one page of one sequence, after a step for which the device had no memory.
    /// Returns false if that step was as small.
    fn retreat(&mut self, planned: &[PlannedRows]) -> bool {
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

    /// Runs the planned positions, and chooses the next tokens of all sequences whose known positions are then stored.
    fn compute(&mut self, planned: &[PlannedRows]) -> std::result::Result<StepOutput, Error> {
        let replay = self.config.decode == DecodeLaunch::Graph;
        let Self { model, store, running, .. } = self;
        let forward = || -> Result<StepOutput> {
            let rows: Vec<_> = planned.iter().map(|PlannedRows { index, n }| running[*index].rows(*n)).collect();
            let decoded = match decode_inputs(running, planned).filter(|_| replay) {
                Some(ids) => model.run_decode(&ids, &rows, &mut **store)?,
                None => None,
            };
            if let Some(DecodeOutput { logits, is_replayed }) = decoded {
                return Ok(StepOutput { chosen: choose(model, running, planned, &logits)?, is_replayed });
            }
            let hidden = model.forward(&embed(model, running, planned)?, &rows, &mut **store)?; // (S, H)
            let last = last_rows(running, planned);
            if last.is_empty() {
                return Ok(StepOutput { chosen: Vec::new(), is_replayed: false });
            }
            let hidden = if last.len() == hidden.dim(0)? {
                hidden
            } else {
                hidden.index_select(&Tensor::new(last, hidden.device())?, 0)?
            };
            Ok(StepOutput { chosen: choose(model, running, planned, &model.logits(&hidden)?)?, is_replayed: false })
        };
        let computed = guarded(forward)?;
        computed.map_err(|error| {
            let error = Error::from(error);
            if !error.kind().is_out_of_memory() {
                return error;
            }
            let positions: usize = planned.iter().map(|planned| planned.n).sum();
            let free = free_memory(self.model.device());
            let free =
                free.map_or("an unknown amount of memory".to_owned(), |n| ByteSize::b(n).display().iec().to_string());
            let rule = format!(
                "{}; it was a step of {positions} position(s) of {} sequence(s), and the device has {free} left",
                error.rule(),
                planned.len(),
            );
            Error::new(Kind::DeviceMemory, rule).with_hint(MEMORY_HINT)
        })
    }

    /// Counts the stored positions, and takes the next tokens.
    fn take(
        &mut self,
        planned: &[PlannedRows],
        output: StepOutput,
        start: Instant,
        ended: &mut Vec<(usize, SequenceOutcome)>,
    ) {
        let StepOutput { chosen, is_replayed } = output;
        let n_rows: usize = planned.iter().map(|planned| planned.n).sum();
        let choosing: Vec<usize> = choosing(&self.running, planned).collect();
        self.stats.replayed_steps += u64::from(is_replayed);
        self.stats.steps += 1;
        self.stats.sequence_steps += planned.len() as u64;
        let elapsed = start.elapsed();
        for PlannedRows { index, n } in planned {
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
            match id.map_err(Error::from).and_then(|id| self.running[index].push(id)) {
                Ok(None) => {}
                Ok(Some(reason)) => ended.push((index, Ok(reason))),
                Err(error) => ended.push((index, Err(error))),
            }
        }
    }

    /// Lets the full pages of a sequence be found by their content, and after the first token its tail. Called only
    /// after a token was chosen behind them: NaN keys and values at a position spoil those of earlier positions in the
    /// same chunk (0 times NaN), which other prompts may share; then no logit is finite.
    fn publish(&mut self, index: usize) {
        let pages = self.running[index].publish();
        let sequence = &self.running[index];
        for page in pages {
            self.pool.fill(sequence.pages()[page], sequence.page_key(page, self.serial_before(sequence, page)));
        }
        if self.running[index].ids().is_empty() {
            self.publish_tail(index);
        }
    }

    /// Lets the last page of a sequence, which is not full, be found by its leading tokens. Called as
    /// [`Self::publish`].
    pub(super) fn publish_tail(&mut self, index: usize) {
        let sequence = &self.running[index];
        if self.pool.keeps_tails()
            && let Some(tail) = sequence.tail()
        {
            self.pool.fill(sequence.pages()[tail], sequence.tail_key(tail, self.serial_before(sequence, tail)));
        }
    }

    /// Returns the serial number of the page before one of a sequence's pages.
    fn serial_before(&self, sequence: &Sequence<'_>, page: usize) -> Option<u64> {
        page.checked_sub(1).map(|before| self.pool.serial(sequence.pages()[before]))
    }
}

/// Returns the indices of the sequences whose known positions are all stored after the step.
fn choosing<'p>(running: &'p [Sequence<'_>], planned: &'p [PlannedRows]) -> impl Iterator<Item = usize> + 'p {
    planned.iter().filter(|planned| running[planned.index].n_left() == planned.n).map(|planned| planned.index)
}

/// Chooses the next tokens of a step from the logits `(R, vocab_size)` of its `R` sequences that get one.
///
/// # Errors
/// When the device fails, before any token is drawn.
fn choose(
    model: &Llama,
    running: &mut [Sequence<'_>],
    planned: &[PlannedRows],
    logits: &Tensor,
) -> Result<Vec<Result<u32>>> {
    let choosing: Vec<usize> = choosing(running, planned).collect();
    let sequences = running.iter_mut().enumerate().filter(|(i, _)| choosing.contains(i));
    let mut sequences: Vec<_> = sequences.map(|(_, sequence)| sequence.choosing()).collect();
    choose_each(model.kernels(), logits, &mut sequences)
}

/// Returns the ids of a step that only continues answers.
fn decode_inputs(running: &[Sequence<'_>], planned: &[PlannedRows]) -> Option<Vec<u32>> {
    planned.iter().map(|PlannedRows { index, .. }| running[*index].decode_input()).collect()
}

/// Returns the embeddings of a step's positions: `(S, H)`.
fn embed(model: &Llama, running: &[Sequence<'_>], planned: &[PlannedRows]) -> Result<Tensor> {
    let (mut parts, mut ids): (Vec<Tensor>, Vec<u32>) = (Vec::new(), Vec::new());
    for PlannedRows { index, n } in planned {
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

/// Returns the last row of each planned sequence whose known positions are all stored after the step.
fn last_rows(running: &[Sequence<'_>], planned: &[PlannedRows]) -> Vec<u32> {
    let mut end = 0;
    let row = |PlannedRows { index, n }: &PlannedRows| {
        end += n;
        (running[*index].n_left() == *n).then_some(end as u32 - 1)
    };
    planned.iter().filter_map(row).collect()
}
