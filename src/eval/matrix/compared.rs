//! Paired comparison of a cell with the baseline.

use std::collections::HashMap;

use serde::Serialize;

use super::table::MatrixTableContext;
use crate::eval::benchmark::ScoredAnswer;
use crate::eval::metrics::{PairedComparison, PairedTest, ScorePair};

/// Paired difference of a cell and the baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellComparison {
    /// Metric: the first of the benchmark.
    pub metric: String,
    /// Number of common questions.
    pub questions: usize,
    /// Mean of the cell less that of the baseline, over questions.
    pub difference: f64,
    /// 95 % interval of the difference.
    pub interval_95: (f64, f64),
    /// Two-sided p-value, where there are at least two videos for a test.
    pub p: Option<f64>,
}

/// Compares answers with those of the baseline, question by question.
pub(super) fn compare(context: &MatrixTableContext<'_>, answers: &[ScoredAnswer]) -> Option<CellComparison> {
    let metric = context.spec.metrics.first()?.name();
    let by_id: HashMap<&str, f64> = context
        .baseline
        .iter()
        .filter_map(|answer| Some((answer.question_id.as_str(), *answer.scores.get(metric)?)))
        .collect();
    let pair = |answer: &'_ ScoredAnswer| {
        let (a, b) = (*by_id.get(answer.question_id.as_str())?, *answer.scores.get(metric)?);
        Some((a, b))
    };
    let pairs: Vec<ScorePair<'_>> = answers
        .iter()
        .filter_map(|answer| {
            let (a, b) = pair(answer)?;
            Some(ScorePair { cluster: &answer.video, a, b, weight: answer.weight })
        })
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let PairedComparison { n, difference, interval_95, test, .. } = PairedComparison::of(&pairs);
    let p = test.map(|test| match test {
        PairedTest::McNemar { p, .. } | PairedTest::ClusteredT { p, .. } => p,
    });
    Some(CellComparison { metric: metric.to_owned(), questions: n, difference, interval_95, p })
}
