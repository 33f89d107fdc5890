//! Selectors of cells: a label, or several, on some axes; the other axes are free.

use serde_json::{Map, Value};

use super::axis::{MatrixAxis, label_of, problem};
use crate::choice;
use crate::spec::SpecProblem;

/// Condition on the indices of a cell's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CellSelector {
    /// Axis, and the values that it may have.
    conditions: Vec<AxisCondition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct AxisCondition {
    axis: usize,
    values: Vec<usize>,
}

impl CellSelector {
    /// Reads a selector at a path, and appends the problems of unknown axes and labels.
    pub(super) fn read(
        map: &Map<String, Value>,
        axes: &[MatrixAxis],
        path: &[&str],
        problems: &mut Vec<SpecProblem>,
    ) -> Self {
        let names: Vec<&str> = axes.iter().map(|axis| axis.name.as_str()).collect();
        let mut conditions = Vec::new();
        for (name, wanted) in map {
            let path = [path, &[name.as_str()]].concat();
            let Some(axis) = axes.iter().position(|axis| axis.name == *name) else {
                let hint = choice::nearest(name, &names).map_or_else(|| names.join(", "), str::to_owned);
                problems.push(problem(&path, format!("unknown axis `{name}`")).hint(hint));
                continue;
            };
            let labels: Vec<&str> = axes[axis].labels.iter().map(String::as_str).collect();
            let wanted = wanted.as_array().cloned().unwrap_or_else(|| vec![wanted.clone()]);
            let mut values = Vec::new();
            for label in wanted.iter().map(label_of) {
                match labels.iter().position(|known| *known == label) {
                    Some(value) => values.push(value),
                    None => {
                        let hint = choice::nearest(&label, &labels).map_or_else(|| labels.join(", "), str::to_owned);
                        problems.push(problem(&path, format!("unknown label `{label}`")).hint(hint));
                    }
                }
            }
            conditions.push(AxisCondition { axis, values });
        }
        Self { conditions }
    }

    /// Returns whether every axis is free.
    pub(super) fn is_free(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Returns whether a cell with these values is selected.
    pub(super) fn selects(&self, values: &[usize]) -> bool {
        self.conditions.iter().all(|condition| condition.values.contains(&values[condition.axis]))
    }
}
