//! The loop that all stages share: batch, loss, gradients, update, checkpoint.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use candle_core::{Tensor, Var};
use serde::Serialize;

use super::data::Order;
use super::objective::{Objective, StepLoss};
use super::optimizer::{Gradients, Optimizer};
use super::parameters::Parameters;
use super::recipe::Stage;
use super::state::{Progress, State};
use super::workers::Workers;
use crate::error::{Error, Kind};

/// Metrics of one step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// The stage's name.
    pub stage: String,
    /// Counted from 0.
    pub step: usize,
    /// Number of steps of the stage.
    pub steps: usize,
    /// The mean loss.
    pub loss: f64,
    /// The share of the predictions that were right.
    pub accuracy: f64,
    /// The schedule's factor.
    pub rate_factor: f64,
    /// The gradients' length before clipping.
    pub gradient_norm: f64,
    /// Positions a second.
    pub tokens_per_second: f64,
}

/// A stage that runs.
pub(crate) struct StageRun<'a> {
    /// Description of the stage in the recipe.
    pub stage: &'a Stage,
    /// Directory of the state.
    pub dir: &'a Path,
    /// Steps between two states.
    pub checkpoint_every: usize,
    /// Progress of the run.
    pub progress: Progress,
    /// The weights.
    pub parameters: &'a Parameters,
    /// Threads that run micro-batches.
    pub workers: &'a Workers,
}

impl StageRun<'_> {
    /// Runs the stage from where it stands to its end; `report` hears of each step.
    ///
    /// # Errors
    /// [`Error`]; the last state then stands.
    pub(crate) fn run<O: Objective>(
        &mut self,
        objective: &O,
        order: &Order,
        optimizer_state: BTreeMap<String, Tensor>,
        report: &mut dyn FnMut(&StepReport) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let stage = self.stage;
        let weights = self.parameters.trainable();
        let mut optimizer = Optimizer::new(stage.optimizer, optimizer_state, self.progress.step);
        let mut kept = self.progress.step;
        for step in self.progress.step..stage.steps {
            let start = Instant::now();
            let images = order.batch(step);
            let shares: Vec<&[usize]> = images.chunks(stage.micro_batch.unwrap_or(stage.batch)).collect();
            let (gradients, sums) = self.gradients(objective, step, &shares, &weights)?;
            if !sums.loss.is_finite() {
                return Err(not_finite(&stage.name, step, sums.loss, kept));
            }
            let rate_factor = stage.schedule.factor(step, stage.steps);
            let gradient_norm =
                optimizer.update(&weights, &gradients, rate_factor).map_err(Error::compute("updating weights"))?;
            if !gradient_norm.is_finite() {
                return Err(not_finite(&stage.name, step, gradient_norm, kept));
            }
            self.progress.step = step + 1;
            report(&StepReport {
                stage: stage.name.clone(),
                step,
                steps: stage.steps,
                loss: sums.loss,
                accuracy: sums.right as f64 / sums.counted.max(1) as f64,
                rate_factor,
                gradient_norm,
                tokens_per_second: sums.n_tokens as f64 / start.elapsed().as_secs_f64(),
            })?;
            if (step + 1) % self.checkpoint_every == 0 && step + 1 < stage.steps {
                self.write(optimizer.state().clone())?;
                kept = step + 1;
            }
        }
        Ok(())
    }

    fn write(&self, optimizer: BTreeMap<String, Tensor>) -> Result<(), Error> {
        let state = State { progress: self.progress.clone(), weights: self.parameters.all(), optimizer };
        state.write(self.dir)
    }

    /// Returns the gradients of the mean loss, summed over the shares of a batch in their order.
    fn gradients<O: Objective>(
        &self,
        objective: &O,
        step: usize,
        shares: &[&[usize]],
        weights: &BTreeMap<String, Var>,
    ) -> Result<(Gradients, Sums), Error> {
        let prepared = self.workers.run(shares, |indices| objective.prepare(step, indices));
        let batches = prepared.into_iter().collect::<Result<Vec<_>, _>>()?;
        let weight: f64 = batches.iter().map(|batch| objective.weight(batch)).sum();
        let run = |batch: &O::Batch| -> candle_core::Result<(Gradients, Sums)> {
            let loss = objective.loss(batch)?;
            let mean = (loss.sum / weight.max(f64::MIN_POSITIVE))?;
            let store = mean.backward()?;
            let gradients = weights.iter().filter_map(|(name, var)| Some((name.clone(), store.get(var)?.clone())));
            let StepLoss { right, counted, n_tokens, .. } = loss;
            let sums = Sums { loss: f64::from(mean.to_scalar::<f32>()?), right, counted, n_tokens };
            Ok((gradients.collect(), sums))
        };
        let add = |(mut gradients, mut sums): (Gradients, Sums), (more, other): (Gradients, Sums)| {
            for (name, gradient) in more {
                let sum = match gradients.remove(&name) {
                    Some(sum) => (sum + gradient)?,
                    None => gradient,
                };
                gradients.insert(name, sum);
            }
            sums.add(&other);
            candle_core::Result::Ok((gradients, sums))
        };
        let results = self.workers.run(&batches, run);
        let total =
            results.into_iter().try_fold((Gradients::new(), Sums::default()), |total, result| add(total, result?));
        total.map_err(Error::compute("training"))
    }
}

#[derive(Default)]
struct Sums {
    loss: f64,
    right: usize,
    counted: usize,
    n_tokens: usize,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.right += other.right;
        self.counted += other.counted;
        self.n_tokens += other.n_tokens;
    }
}

/// Returns the error of a loss, or of a norm of gradients, that is not finite; `kept` is the step that a resumed run
/// goes on from.
fn not_finite(stage: &str, step: usize, loss: f64, kept: usize) -> Error {
    let rule = format!("the loss is {loss}; the last checkpoint, of step {kept}, is good");
    let error = Error::new(Kind::NotFinite, rule);
    let hint = "a smaller learning_rate, a longer warmup, or a smaller clip";
    error.with_hint(hint).about(format!("stage {stage}, step {step}"))
}
