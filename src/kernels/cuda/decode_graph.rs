//! CUDA graphs of decode steps: one recording per number of sequences, replayed as a whole.
//!
//! All inputs that vary are in one buffer of fixed size: ids, positions, rotary angles, block tables and attention
//! tasks (`step_plan`). The host uploads it and launches the graph, which writes the logits to memory of its own.
//! Recordings exist for 1 to 8 sequences, 16 and 32; padding rows read and write a page of their own. A shape is
//! recorded after it has run several times. The first replay is compared with the same step run operation by operation;
//! if they differ, or the device fails, one warning is logged and graphs are disabled for the store.
//!
//! Steps that are not replayed are padded as well: with each new number of rows, the first matrix products take
//! milliseconds longer, and padding leaves few numbers.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::argmax::argmax_rows;
use super::pages::{CudaPages, CudaStep};
use super::recording::{Replay, record};
use super::step_capacity::StepCapacity;
use super::step_plan::{StepPlan, TASK_ROWS};
use crate::kernels::kv::{DecodeForward, DecodeOutput, DecodeStep, PageId, StepLayout, StepRows};

/// Page of padding rows, which belongs to no sequence.
pub(super) const PADDING_PAGE: PageId = PageId(u32::MAX);
/// Maximum number of rows of a recorded step: with more, the device computes for longer than the host launches.
const MAX_RECORDED_ROWS: usize = 32;
/// Number of rows of larger steps: a multiple of this.
const ROWS_UNIT: usize = 64;
/// Number of steps of a shape that run operation by operation before it is recorded, so that transient shapes are not.
const STEPS_BEFORE_RECORDING: usize = 3;
/// Maximum difference of logits between a replay and the same step run operation by operation, relative to the largest
/// logit.
const TOLERANCE: f32 = 0.02;

/// CUDA graphs of a store's decode steps.
#[derive(Debug, Default)]
pub(super) struct DecodeGraphs {
    by_shape: HashMap<StepShape, ShapeState>,
    /// Set for good when a replay failed or disagreed.
    is_disabled: bool,
}

/// Sizes that determine the launches of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct StepShape {
    /// Number of rows, including padding rows.
    n_rows: usize,
    /// Maximum number of rows that read the same keys: 1, or the maximum of a task.
    max_rows: usize,
}

/// Progress of a shape towards its recording.
#[derive(Debug)]
enum ShapeState {
    /// Number of steps so far.
    Seen(usize),
    /// Recorded and verified.
    Recorded(Box<RecordedStep>),
}

/// Recorded step with its inputs and outputs.
#[derive(Debug)]
struct RecordedStep {
    capacity: StepCapacity,
    /// Inputs, and memory of partial results.
    step: CudaStep,
    /// Output: `(n_rows, vocab_size)`.
    logits: Tensor,
    replay: Box<dyn Replay>,
}

/// Step with padding rows.
struct PaddedStep {
    ids: Vec<u32>,
    plan: StepPlan,
    /// Number of rows without padding.
    n: usize,
    shape: StepShape,
}

impl DecodeGraphs {
    /// Returns whether graphs are disabled after a failure.
    pub(super) fn is_disabled(&self) -> bool {
        self.is_disabled
    }

    /// Counts a step of a shape that is not replayed. Returns whether it is to be recorded: after enough such steps,
    /// and when a recording's capacity was exceeded.
    fn is_due(&mut self, shape: StepShape) -> bool {
        if shape.n_rows > MAX_RECORDED_ROWS {
            return false;
        }
        match self.by_shape.entry(shape).or_insert(ShapeState::Seen(0)) {
            ShapeState::Seen(n_seen) if *n_seen < STEPS_BEFORE_RECORDING => {
                *n_seen += 1;
                false
            }
            ShapeState::Seen(_) | ShapeState::Recorded(_) => true,
        }
    }
}

/// Returns the number of rows of a step of `n` sequences, including padding.
fn n_padded_rows(n: usize) -> usize {
    match n {
        0..=8 => n,
        9..=MAX_RECORDED_ROWS => n.next_power_of_two(),
        _ => n.next_multiple_of(ROWS_UNIT),
    }
}

impl CudaPages {
    /// Runs a step, padded, by a replay or operation by operation; `None` when graphs are disabled, or a sequence has
    /// several rows.
    ///
    /// # Errors
    /// When the layout is invalid, or the device fails.
    pub(super) fn run_decode_step(
        &mut self,
        step: DecodeStep,
        forward: DecodeForward<'_>,
    ) -> Result<Option<DecodeOutput>> {
        let is_decode = !step.ids.is_empty() && step.layout.sequences.iter().all(|rows| rows.n == 1);
        if self.graphs.is_disabled || !is_decode {
            return Ok(None);
        }
        step.layout.check(&self.geometry)?;
        let step = self.pad(step)?;
        let n = step.n;
        let (logits, is_replayed) = match self.replay_recorded(&step)? {
            Some(logits) => (logits, true),
            None if self.graphs.is_due(step.shape) => (self.record_step(&step, forward)?, false),
            None => (self.run_operations(step, forward)?, false),
        };
        Ok(Some(DecodeOutput { logits: logits.narrow(0, 0, n)?, is_replayed }))
    }

    /// Replays the recording of a step's shape; `None` when there is none, or the step exceeds its capacity.
    fn replay_recorded(&self, step: &PaddedStep) -> Result<Option<Tensor>> {
        let Some(ShapeState::Recorded(recorded)) = self.graphs.by_shape.get(&step.shape) else { return Ok(None) };
        let Some(words) = recorded.capacity.words(&step.ids, &step.plan) else { return Ok(None) };
        upload(&words, &recorded.step.words)?;
        recorded.replay.replay()?;
        Ok(Some(recorded.logits.clone()))
    }

    /// Runs a step operation by operation.
    fn run_operations(&mut self, step: PaddedStep, forward: DecodeForward<'_>) -> Result<Tensor> {
        let ids = Tensor::from_vec(step.ids, step.shape.n_rows, &self.device)?;
        self.begin_planned(step.plan)?;
        forward(&ids, self)
    }

    /// Adds padding rows, and plans the step.
    fn pad(&mut self, step: DecodeStep) -> Result<PaddedStep> {
        let DecodeStep { mut ids, layout: StepLayout { mut sequences, mut cos, mut sin } } = step;
        let (n, n_rows) = (ids.len(), n_padded_rows(ids.len()));
        let pages: Arc<[PageId]> = [PADDING_PAGE].into();
        sequences.resize(n_rows, StepRows { pages, start: 0, n: 1 });
        ids.resize(n_rows, 0);
        let half = self.geometry.d_head / 2;
        cos.resize(cos.len() + (n_rows - n) * half, 1.0);
        sin.resize(sin.len() + (n_rows - n) * half, 0.0);
        let layout = StepLayout { sequences, cos, sin };
        self.allocate_padding_page()?;
        let plan = self.plan(&layout)?;
        let max_rows = if plan.decode.max_rows > 1 { n_rows.min(TASK_ROWS) } else { 1 };
        Ok(PaddedStep { ids, plan, n, shape: StepShape { n_rows, max_rows } })
    }

    /// Runs a step operation by operation, records it, and keeps the recording if its replay agrees.
    fn record_step(&mut self, step: &PaddedStep, forward: DecodeForward<'_>) -> Result<Tensor> {
        let StepShape { n_rows, max_rows } = step.shape;
        // Capacity for up to twice the pages, so that few recordings are exceeded.
        let n_pages = (step.plan.sections.tables.len()).next_power_of_two().max(64 * n_rows);
        let capacity = StepCapacity::new(&self.geometry, n_rows, n_pages);
        let Some(words) = capacity.words(&step.ids, &step.plan) else {
            candle_core::bail!("decode graph: a step of {n_rows} sequences exceeds its own capacity");
        };
        let inputs = self.executor.empty(Shape::from(capacity.sections().tables.end), DType::U32)?;
        upload(&words, &inputs)?;
        let ids = inputs.narrow(0, capacity.ids().start, n_rows)?;
        self.step = Some(CudaStep::new(self, capacity.plan(max_rows), inputs)?);
        let expected = forward(&ids, self)?;
        if argmax_rows(self.executor, &expected.narrow(0, 0, step.n)?)?.contains(&None) {
            // Logits that are not finite cannot be compared.
            return Ok(expected);
        }
        let outcome = self.record_forward(&ids, forward).and_then(|(replay, logits)| {
            replay.replay()?;
            let difference = difference(&expected.narrow(0, 0, step.n)?, &logits.narrow(0, 0, step.n)?)?;
            if difference.is_nan() || difference > TOLERANCE {
                candle_core::bail!("logits of the replay differ by {difference} of the largest");
            }
            Ok((replay, logits))
        });
        match (outcome, self.step.take()) {
            (Ok((replay, logits)), Some(inputs)) => {
                let recorded = RecordedStep { capacity, step: inputs, logits, replay };
                self.graphs.by_shape.insert(step.shape, ShapeState::Recorded(Box::new(recorded)));
            }
            (Ok(_), None) => self.disable_graphs(&candle_core::Error::msg("the forward pass ended the step")),
            (Err(error), _) => self.disable_graphs(&error),
        }
        Ok(expected)
    }

    /// Records a forward pass over the current step. Returns its replay, and the logits that the replay writes.
    fn record_forward(&mut self, ids: &Tensor, forward: DecodeForward<'_>) -> Result<(Box<dyn Replay>, Tensor)> {
        let mut logits = None;
        let recording = record(|| {
            logits = Some(forward(ids, self)?);
            Ok(())
        })?;
        let logits = logits.ok_or_else(|| candle_core::Error::msg("decode graph: empty recording"))?;
        Ok((self.executor.compile(recording)?, logits))
    }

    /// Disables replays for good, with a warning.
    fn disable_graphs(&mut self, error: &candle_core::Error) {
        let error = error.to_string();
        let error = error.lines().next().unwrap_or_default();
        tracing::warn!("decoding without CUDA graphs, operation by operation: {error}");
        self.graphs = DecodeGraphs { by_shape: HashMap::new(), is_disabled: true };
    }
}

/// Copies words to the beginning of a device buffer.
fn upload(words: &[u32], to: &Tensor) -> Result<()> {
    to.slice_set(&Tensor::from_slice(words, words.len(), to.device())?, 0, 0)
}

/// Returns the maximum difference of elements, relative to the largest element of the first tensor.
fn difference(expected: &Tensor, found: &Tensor) -> Result<f32> {
    let elements = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let (expected, found) = (elements(expected)?, elements(found)?);
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let differences = expected.iter().zip(&found).map(|(a, b)| (a - b).abs());
    // Not `f32::max`, which ignores NaN.
    Ok(differences.fold(0.0, |max, x| if x > max || x.is_nan() { x } else { max }) / largest.max(f32::MIN_POSITIVE))
}

#[cfg(test)]
#[path = "decode_graph_tests.rs"]
mod tests;
