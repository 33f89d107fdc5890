//! Plans of the cells: the pipeline with the values of a combination over its own.

use super::MatrixCell;
use super::axis::{AxisValue, MatrixAxis, overlap};
use super::file::cell_name;
use crate::error::{Error, Result};
use crate::spec::{Assignment, Document, Plan, assign, plan_of};
use crate::video::Sample;
use crate::video::sample::CheckpointFrameSampling;

/// Maker of plans over a pipeline.
pub(super) struct PlanMaker<'a> {
    /// Pipeline, with the assignments of the command line.
    pub(super) base: Document,
    pub(super) axes: &'a [MatrixAxis],
    /// Assignments of the command line.
    pub(super) sets: &'a [String],
}

impl PlanMaker<'_> {
    /// Returns the errors of each value alone, and of assignments of the command line to keys of an axis.
    pub(super) fn errors_of_values(&self) -> Vec<Error> {
        let mut errors: Vec<Error> = self.sets.iter().filter_map(|set| self.clash(set)).collect();
        for value in self.axes.iter().flat_map(|axis| &axis.values) {
            let plan = plan_of(&assign(&self.base, &value.assignments));
            errors.extend(plan.err());
        }
        errors
    }

    fn clash(&self, set: &str) -> Option<Error> {
        let (key, _) = set.split_once('=')?;
        let axis = self.axes.iter().find(|axis| axis.keys().any(|own| overlap(own, key.trim())))?;
        Some(Error::invalid(format!("the axis `{}` sets this key", axis.name)).about(format!("--set {set}")))
    }

    /// Returns the cell of a combination.
    ///
    /// # Errors
    /// A combination of values that contradict each other.
    pub(super) fn cell(&self, values: &[usize]) -> Result<MatrixCell> {
        let name = cell_name(self.axes, values);
        let chosen: Vec<&AxisValue> = self.axes.iter().zip(values).map(|(axis, &value)| &axis.values[value]).collect();
        let assignments: Vec<Assignment> = chosen.iter().flat_map(|value| value.assignments.iter().cloned()).collect();
        let document = assign(&self.base, &assignments);
        let plan = plan_of(&document).and_then(|plan| match chosen.iter().find_map(|value| value.frames) {
            Some(frames) => with_frames(plan, frames),
            None => Ok(plan),
        });
        let plan = plan.map_err(|error| error.about(name.clone()))?;
        let labels = self.axes.iter().zip(values).map(|(axis, &value)| axis.labels[value].clone()).collect();
        Ok(MatrixCell { name, labels, plan, document })
    }
}

/// Sets the number of frames of the plan's sampling rule, as the flag `--frames` does.
fn with_frames(plan: Plan, frames: usize) -> Result<Plan> {
    let sample = plan.sample.clone().unwrap_or(Sample::Checkpoint(CheckpointFrameSampling::default()));
    let name = sample.name();
    let sample = sample.with_frames(frames).map_err(|error| {
        let rule = format!("{}, so `frames` does not apply", error.statement());
        Error::invalid(rule).about("sample")
    })?;
    sample.check().map_err(|error| error.about(format!("sample.{name}")))?;
    Ok(Plan { sample: Some(sample), ..plan })
}
