//! Decoding steps replayed as a whole, one recording for each number of sequences.
//!
//! A recorded step reads everything that changes from one buffer of fixed size: ids, positions, rotary angles, block
//! tables and the tasks of attention (`step_plan`). Between its upload and the copy of the chosen ids the host does
//! nothing. Numbers of sequences are 1 to 8, then powers of two, filled up with rows that read and write a page of
//! their own. A recording is made once its form has come several times. Its first replay is compared with the same step
//! run operation by operation; where they differ, or the device refuses, a warning says so once and no step is
//! replayed.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::argmax::{argmax_rows, argmax_to, indices};
use super::pages::{CudaPages, CudaStep};
use super::recording::{Replay, record};
use super::step_plan::{StepCapacity, StepPlan, TASK_ROWS};
use crate::kernels::kv::{GreedyForward, GreedyStep, PageId, StepLayout, StepRows};

/// Page of the rows that fill a step up; no page of a sequence.
pub(super) const SCRATCH: PageId = PageId(u32::MAX);
/// Most sequences of a recorded step: with more, the device computes for longer than the host launches.
const MAX_SEQUENCES: usize = 32;
/// Steps of a form that run operation by operation before it is recorded: forms that pass by cost nothing.
const STEPS_BEFORE: usize = 3;
/// Largest difference of logits between a replay and the same step run operation by operation, relative to the largest.
const TOLERANCE: f32 = 0.02;

/// Recorded steps of a store.
#[derive(Debug, Default)]
pub(super) struct DecodeGraphs {
    by_form: HashMap<StepForm, FormState>,
    /// Whether a replay went wrong.
    is_off: bool,
}

/// Sizes that the launches of a step depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct StepForm {
    /// Sequences, filled up.
    n_rows: usize,
    /// The most rows that read the same keys: 1, or as many as may.
    max_rows: usize,
}

#[derive(Debug)]
enum FormState {
    /// Steps that came so far.
    Seen(usize),
    Recorded(Box<RecordedStep>),
}

/// A step that can be replayed.
#[derive(Debug)]
struct RecordedStep {
    capacity: StepCapacity,
    /// The inputs, and the memory of partial results.
    step: CudaStep,
    /// The chosen id of each row.
    chosen: Tensor,
    replay: Box<dyn Replay>,
}

/// A step to be replayed, filled up.
struct FilledStep {
    ids: Vec<u32>,
    plan: StepPlan,
    /// Rows that are not filled up.
    n: usize,
    form: StepForm,
}

impl DecodeGraphs {
    pub(super) fn is_off(&self) -> bool {
        self.is_off
    }
}

/// Number of rows that a step of `n` sequences is filled up to.
fn filled(n: usize) -> usize {
    if n <= 8 { n } else { n.next_power_of_two() }
}

impl CudaPages {
    /// Runs a step by replaying a recording, or makes one.
    pub(super) fn replay_step(
        &mut self,
        step: GreedyStep,
        forward: GreedyForward<'_>,
    ) -> Result<Option<Vec<Option<u32>>>> {
        let n = step.ids.len();
        if self.graphs.is_off || n == 0 || n > MAX_SEQUENCES || step.layout.sequences.iter().any(|rows| rows.n != 1) {
            return Ok(None);
        }
        step.layout.check(&self.geometry)?;
        let step = self.fill_up(step)?;
        let words = match self.graphs.by_form.get_mut(&step.form) {
            Some(FormState::Recorded(recorded)) => recorded.capacity.place(&step.ids, &step.plan),
            Some(FormState::Seen(n_seen)) if *n_seen >= STEPS_BEFORE => None,
            Some(FormState::Seen(n_seen)) => {
                *n_seen += 1;
                return Ok(None);
            }
            None => {
                self.graphs.by_form.insert(step.form, FormState::Seen(1));
                return Ok(None);
            }
        };
        let chosen = match (words, self.graphs.by_form.get(&step.form)) {
            (Some(words), Some(FormState::Recorded(recorded))) => {
                upload(&words, &recorded.step.words)?;
                recorded.replay.replay()?;
                indices(&recorded.chosen)?
            }
            // The first one, or one that outgrew its recording.
            _ => self.record_step(&step, forward)?,
        };
        Ok(Some(chosen.into_iter().take(step.n).collect()))
    }

    /// Adds rows on the scratch page, and plans the step.
    fn fill_up(&mut self, step: GreedyStep) -> Result<FilledStep> {
        let GreedyStep { mut ids, layout: StepLayout { mut sequences, mut cos, mut sin } } = step;
        let (n, n_rows) = (ids.len(), filled(ids.len()));
        let pages: Arc<[PageId]> = [SCRATCH].into();
        sequences.resize(n_rows, StepRows { pages, start: 0, n: 1 });
        ids.resize(n_rows, 0);
        let half = self.geometry.d_head / 2;
        cos.resize(cos.len() + (n_rows - n) * half, 1.0);
        sin.resize(sin.len() + (n_rows - n) * half, 0.0);
        let layout = StepLayout { sequences, cos, sin };
        self.allocate_scratch()?;
        let plan = self.plan(&layout)?;
        let max_rows = if plan.decode.max_rows > 1 { n_rows.min(TASK_ROWS) } else { 1 };
        Ok(FilledStep { ids, plan, n, form: StepForm { n_rows, max_rows } })
    }

    /// Runs a step operation by operation, records it, and keeps the recording if its replay gives the same.
    fn record_step(&mut self, step: &FilledStep, forward: GreedyForward<'_>) -> Result<Vec<Option<u32>>> {
        let StepForm { n_rows, max_rows } = step.form;
        // Room for twice the pages, so that few recordings outgrow themselves.
        let n_pages = (step.plan.sections.tables.len()).next_power_of_two().max(64 * n_rows);
        let capacity = StepCapacity::new(&self.geometry, n_rows, n_pages);
        let Some(words) = capacity.place(&step.ids, &step.plan) else {
            candle_core::bail!("a step of {n_rows} sequences does not fit its own recording");
        };
        let inputs = self.executor.empty(Shape::from(capacity.sections().tables.end), DType::U32)?;
        upload(&words, &inputs)?;
        let ids = inputs.narrow(0, capacity.ids().start, n_rows)?;
        self.step = Some(CudaStep::new(self, capacity.plan(max_rows), inputs)?);
        let expected = forward(&ids, self)?;
        let chosen_now = argmax_rows(self.executor, &expected)?;
        if chosen_now.iter().take(step.n).any(Option::is_none) {
            // Logits that are not finite, which nothing can be compared with.
            return Ok(chosen_now);
        }
        let chosen = self.executor.empty(Shape::from(n_rows), DType::U32)?;
        let outcome = self.record_forward(&ids, &chosen, forward).and_then(|(replay, logits)| {
            replay.replay()?;
            let difference = difference(&expected.narrow(0, 0, step.n)?, &logits.narrow(0, 0, step.n)?)?;
            if difference.is_nan() || difference > TOLERANCE {
                candle_core::bail!("logits differ by {difference} of the largest");
            }
            Ok(replay)
        });
        match (outcome, self.step.take()) {
            (Ok(replay), Some(of_step)) => {
                let recorded = RecordedStep { capacity, step: of_step, chosen, replay };
                self.graphs.by_form.insert(step.form, FormState::Recorded(Box::new(recorded)));
            }
            (Ok(_), None) => {}
            (Err(error), _) => self.switch_off(&error),
        }
        Ok(chosen_now)
    }

    /// Records a forward pass over the step that was begun, and the choice of ids.
    fn record_forward(
        &mut self,
        ids: &Tensor,
        chosen: &Tensor,
        forward: GreedyForward<'_>,
    ) -> Result<(Box<dyn Replay>, Tensor)> {
        let executor = self.executor;
        let mut logits = None;
        let recording = record(|| {
            let y = forward(ids, self)?;
            argmax_to(executor, &y, chosen)?;
            logits = Some(y);
            Ok(())
        })?;
        let logits = logits.ok_or_else(|| candle_core::Error::msg("nothing was recorded"))?;
        Ok((executor.compile(recording)?, logits))
    }

    fn switch_off(&mut self, error: &candle_core::Error) {
        let error = error.to_string();
        let error = error.lines().next().unwrap_or_default();
        tracing::warn!("decoding without CUDA graphs, operation by operation: {error}");
        self.graphs = DecodeGraphs { by_form: HashMap::new(), is_off: true };
    }
}

/// Copies words to the beginning of a buffer on the device.
fn upload(words: &[u32], to: &Tensor) -> Result<()> {
    to.slice_set(&Tensor::from_slice(words, words.len(), to.device())?, 0, 0)
}

/// The largest difference of elements, relative to the largest element of the first tensor.
fn difference(expected: &Tensor, found: &Tensor) -> Result<f32> {
    let elements = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let (expected, found) = (elements(expected)?, elements(found)?);
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let differences = expected.iter().zip(&found).map(|(a, b)| (a - b).abs());
    // Not `max`, which leaves NaN out.
    Ok(differences.fold(0.0, |most, x| if x > most || x.is_nan() { x } else { most }) / largest.max(f32::MIN_POSITIVE))
}

#[cfg(test)]
#[path = "decode_graph_tests.rs"]
mod tests;
