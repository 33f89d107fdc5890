//! Table of a matrix: one row a cell, with its scores, its paired difference to the baseline and its cost.

use std::collections::BTreeMap;

use serde::Serialize;

use super::compared::{CellComparison, compare};
use super::judged::{CellJudgement, JudgedColumn, cell_judgements, judged_columns, judged_notes};
use super::{CellCost, Matrix, PublishedCell};
use crate::eval::benchmark::{AverageOver, BenchmarkRow, BenchmarkSpec, ScoreGroup, ScoredAnswer, score_table};
use crate::eval::judge::Judgements;
use crate::eval::metrics::ClusteredMean;

/// State of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CellState {
    /// Every question was asked; some may have failed.
    Done,
    /// The run was stopped before every question was asked: the cell has no scores.
    Incomplete,
    /// The cell could not run.
    Failed,
}

/// Outcome of a cell.
#[derive(Debug, Clone)]
pub struct CellOutcome {
    /// State.
    pub state: CellState,
    /// Answers of a done cell, in the order of the questions.
    pub answers: Vec<ScoredAnswer>,
    /// Cost, where there are results.
    pub cost: Option<CellCost>,
    /// Error of a failed cell.
    pub error: Option<String>,
    /// Judged scores of a done cell.
    pub judgements: Judgements,
}

/// What rows are made with.
#[derive(Debug, Clone, Copy)]
pub struct MatrixTableContext<'a> {
    /// Matrix.
    pub matrix: &'a Matrix,
    /// Benchmark.
    pub spec: &'a BenchmarkSpec,
    /// Answers of the baseline; none where it is not done.
    pub baseline: &'a [ScoredAnswer],
}

/// Row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatrixRow {
    /// Name of the cell, which is that of its directory.
    pub cell: String,
    /// Labels, in the order of the axes.
    pub labels: Vec<String>,
    /// State.
    pub state: CellState,
    /// Error of a failed cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Number of scored questions.
    pub questions: usize,
    /// Number of questions that failed.
    pub failed: usize,
    /// Number of answers that were not parsed.
    pub unparsed: usize,
    /// Number of questions whose video is missing.
    pub missing: usize,
    /// Means by metric, over the units that the benchmark averages over.
    pub scores: BTreeMap<String, ClusteredMean>,
    /// Judged scores, over the same units.
    pub judged: Vec<CellJudgement>,
    /// Judged answers of the cell that are not shown, each with the cause.
    #[serde(skip)]
    pub judged_notes: Vec<String>,
    /// Difference to the baseline; none for the baseline itself.
    pub compared: Option<CellComparison>,
    /// Cost.
    pub cost: Option<CellCost>,
    /// Published results of the cell on this split.
    pub published: Vec<PublishedCell>,
}

/// Table of a matrix, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatrixTable {
    /// Name of the benchmark.
    pub benchmark: String,
    /// Split.
    pub split: String,
    /// Names of the axes.
    pub axes: Vec<String>,
    /// Names of the metrics.
    pub metrics: Vec<String>,
    /// Columns of judged scores: one for each metric of each judge, model, temperature and prompt.
    pub judged: Vec<JudgedColumn>,
    /// Name of the baseline's cell.
    pub baseline: String,
    /// One row a cell.
    pub rows: Vec<MatrixRow>,
    /// Remarks for the reader.
    pub notes: Vec<String>,
}

impl MatrixRow {
    /// Makes the row of a cell, by its index.
    pub fn new(index: usize, outcome: &CellOutcome, context: &MatrixTableContext<'_>) -> Self {
        let MatrixTableContext { matrix, spec, .. } = context;
        let cell = &matrix.cells[index];
        let scored = (outcome.state == CellState::Done).then(|| reported(&outcome.answers, spec)).flatten();
        let count = |of: fn(&BenchmarkRow) -> usize| scored.as_ref().map_or(0, of);
        let is_compared = scored.is_some() && index != matrix.baseline;
        let is_whole = outcome.state == CellState::Done && spec.is_whole(&outcome.answers);
        let published = matrix.published.iter().filter(|row| row.cells.contains(&index) && row.split == spec.split);
        // A judge's results stand with a note that they do not compare.
        let is_measured =
            |row: &&PublishedCell| row.metric.is_judged() || spec.metrics.iter().any(|m| row.metric.is(*m));
        let published: Vec<PublishedCell> = published.filter(|_| is_whole).filter(is_measured).cloned().collect();
        Self {
            cell: cell.name.clone(),
            labels: cell.labels.clone(),
            state: outcome.state,
            error: outcome.error.clone(),
            questions: count(|row| row.questions),
            failed: count(|row| row.failed),
            unparsed: count(|row| row.unparsed),
            missing: count(|row| row.missing),
            compared: is_compared.then(|| compare(context, &outcome.answers)).flatten(),
            cost: outcome.cost,
            judged: cell_judgements(&outcome.judgements, spec, &published),
            published,
            judged_notes: outcome.judgements.notes.clone(),
            scores: scored.map(|row| row.scores).unwrap_or_default(),
        }
    }
}

impl MatrixTable {
    /// Makes the table of some rows, with notes on how to read it.
    pub fn new(context: &MatrixTableContext<'_>, mut rows: Vec<MatrixRow>, notes: &[String]) -> Self {
        let MatrixTableContext { matrix, spec, .. } = context;
        let judged = judged_columns(&rows);
        let judged_notes = judged_notes(&judged, &mut rows);
        let mut table = Self {
            benchmark: spec.name.clone(),
            split: spec.split.clone(),
            axes: matrix.axes.iter().map(|axis| axis.name.clone()).collect(),
            metrics: spec.metrics.iter().map(|metric| metric.name().to_owned()).collect(),
            judged,
            baseline: matrix.cells[matrix.baseline].name.clone(),
            rows,
            notes: notes.to_vec(),
        };
        table.notes.extend(table.remarks(spec));
        table.notes.extend(judged_notes);
        table
    }

    fn remarks(&self, spec: &BenchmarkSpec) -> Vec<String> {
        let mut notes = vec![format!(
            "differences are to {}, of {} over the same questions: bootstrap over videos, 10,000 resamples, seed 0",
            self.baseline,
            self.metrics.first().map_or("", String::as_str)
        )];
        if spec.average == AverageOver::Tasks {
            notes.push("scores are means over tasks, differences over questions".to_owned());
        }
        if self.rows.iter().filter_map(|row| row.cost).any(|cost| cost.frames_reused > 0) {
            notes.push(
                "r: tokens of frames were reused, and the seconds are without their decoding and encoding".to_owned(),
            );
        }
        let is_judged = |row: &PublishedCell| row.metric.is_judged();
        if self.judged.is_empty() && self.rows.iter().any(|row| row.published.iter().any(is_judged)) {
            notes.push("published results of a judge do not compare with scores without that judge".to_owned());
        }
        notes
    }

    /// Returns the number of cells that are not done, or have failed questions.
    pub fn n_failed(&self) -> usize {
        self.rows.iter().filter(|row| row.state != CellState::Done || row.failed > 0).count()
    }
}

/// Returns the row of the average that the benchmark reports.
fn reported(answers: &[ScoredAnswer], spec: &BenchmarkSpec) -> Option<BenchmarkRow> {
    reported_row(score_table(answers, &spec.metrics), spec)
}

/// Returns the row of the average that the benchmark reports, of the rows of a table.
pub(super) fn reported_row(mut rows: Vec<BenchmarkRow>, spec: &BenchmarkSpec) -> Option<BenchmarkRow> {
    let is_macro = |row: &BenchmarkRow| spec.average == AverageOver::Tasks && row.group == ScoreGroup::Macro;
    match rows.iter().position(is_macro) {
        Some(index) => Some(rows.swap_remove(index)),
        None => rows.pop(),
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
