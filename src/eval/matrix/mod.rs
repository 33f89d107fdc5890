//! Ablations: one file names the axes of a matrix, and every combination of their values, a cell, is a plan of its own
//! over the same questions.
//!
//! [`read_matrix`] checks the whole file before anything runs, [`CellCost`] and [`MatrixTable`] put the results of the
//! cells side by side. Nothing here loads a model. Called by `eval`.

mod axis;
mod compared;
mod cost;
mod file;
mod judged;
mod plans;
mod render;
mod selector;
mod table;

use std::path::PathBuf;

use crate::spec::{Document, Plan};

pub use axis::MatrixAxis;
pub use compared::CellComparison;
pub use cost::CellCost;
pub use file::{PublishedCell, is_matrix, read_matrix};
pub use judged::{CellJudgement, JudgedColumn, JudgedMean};
pub use table::{CellOutcome, CellState, MatrixRow, MatrixTable, MatrixTableContext};

/// A file of ablations.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Questions of every cell.
    pub questions: MatrixQuestions,
    /// Axes, in the order of the file.
    pub axes: Vec<MatrixAxis>,
    /// Cells: the last axis changes fastest.
    pub cells: Vec<MatrixCell>,
    /// Index of the cell that the others are compared with.
    pub baseline: usize,
    /// Published results of cells.
    pub published: Vec<PublishedCell>,
}

/// Questions of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MatrixQuestions {
    /// Description of a benchmark's split.
    Benchmark(PathBuf),
    /// File of questions.
    Questions(PathBuf),
}

/// Combination of one value of each axis.
#[derive(Debug, Clone)]
pub struct MatrixCell {
    /// Name, which is that of the cell's directory: `connector=dci,frames=8`.
    pub name: String,
    /// Label on each axis.
    pub labels: Vec<String>,
    /// Plan, with the choices that are left to the model unresolved.
    pub plan: Plan,
    /// Values of the plan, with their positions.
    pub document: Document,
}

/// Returns the order in which cells share most: those of the same weights follow each other, and among them those that
/// encode the same frames.
pub fn running_order(plans: &[Plan]) -> Vec<usize> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, plan) in plans.iter().enumerate() {
        let is_alike = |group: &&mut Vec<usize>| plans[group[0]].of_weights() == plan.of_weights();
        match groups.iter_mut().find(is_alike) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    let by_frames = |group: Vec<usize>| {
        let mut order: Vec<usize> = Vec::new();
        for &first in &group {
            if !order.contains(&first) {
                let alike = group.iter().copied().filter(|&other| plans[other].of_frames() == plans[first].of_frames());
                order.extend(alike);
            }
        }
        order
    };
    groups.into_iter().flat_map(by_frames).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temporal::Temporal;
    use crate::video::Sample;

    #[test]
    fn cells_of_one_model_and_of_the_same_frames_follow_each_other() {
        let plan = |model: &str, frames: usize, temporal: Temporal| Plan {
            model: model.to_owned(),
            sample: Some(Sample::uniform(frames)),
            temporal: Some(temporal),
            ..Plan::default()
        };
        let plans = [
            plan("a", 4, Temporal::Concat),
            plan("b", 4, Temporal::Concat),
            plan("a", 8, Temporal::Concat),
            plan("a", 4, Temporal::D2),
            plan("b", 4, Temporal::D2),
        ];
        assert_eq!(running_order(&plans), [0, 3, 2, 1, 4]);
        assert!(running_order(&[]).is_empty());
    }
}
