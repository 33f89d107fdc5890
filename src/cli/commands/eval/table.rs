//! Table of a benchmark's scores: rows by type and task, averages, counts beside each score, published results.

use serde::Serialize;
use vidense::eval::benchmark::{
    AverageOver, BenchmarkRow, BenchmarkSpec, BenchmarkTasks, PublishedResult, ScoreGroup, ScoredAnswer, score_table,
};
use vidense::eval::dataset::DatasetQuestions;

use crate::cli::output;

/// Scores of a benchmark, as `--json` prints them.
#[derive(Serialize)]
pub(super) struct ScoreReport<'a> {
    benchmark: &'a str,
    split: &'a str,
    questions: usize,
    videos: usize,
    missing_videos: usize,
    metrics: Vec<&'static str>,
    average: AverageOver,
    rows: Vec<BenchmarkRow>,
    notes: &'a [String],
    published: Vec<&'a PublishedResult>,
}

impl<'a> ScoreReport<'a> {
    /// Makes the report of some answers.
    pub(super) fn new(
        spec: &'a BenchmarkSpec,
        dataset: &'a DatasetQuestions,
        tasks: &BenchmarkTasks,
        answers: &[ScoredAnswer],
    ) -> Self {
        let n = dataset.questions.len();
        Self {
            benchmark: &spec.name,
            split: &spec.split,
            questions: n,
            videos: tasks.coverage.n_videos,
            missing_videos: tasks.coverage.missing.len(),
            metrics: spec.metrics.iter().map(|metric| metric.name()).collect(),
            average: spec.average,
            rows: score_table(answers, &spec.metrics),
            notes: &dataset.notes,
            published: spec.comparable(answers),
        }
    }
}

/// Prints the report: for each metric the mean in percent and its 95 % interval.
pub(super) fn print_table(report: &ScoreReport<'_>) -> anyhow::Result<()> {
    let ScoreReport { benchmark, split, questions, videos, missing_videos, .. } = report;
    output::line(&output::printable(&format!(
        "{benchmark}, {split}: {questions} questions about {videos} videos, of which {missing_videos} are missing"
    )))?;
    let metrics: String = report.metrics.iter().map(|name| format!("  {name:<10} {:<14}", "95 %")).collect();
    let head = ["type or task", "questions", "failed", "unparsed", "missing"];
    output::line(&format!(
        "{:<24} {:>9} {:>6} {:>8} {:>7}{}",
        head[0],
        head[1],
        head[2],
        head[3],
        head[4],
        metrics.trim_end()
    ))?;
    for row in &report.rows {
        let score = |name: &&str| {
            let Some(mean) = row.scores.get(*name) else { return String::new() };
            let [value, interval] = mean.shown(None);
            format!("  {value:<10} {interval:<14}")
        };
        let scores: String = report.metrics.iter().map(score).collect();
        let is_reported = match report.average {
            AverageOver::Questions => row.group == ScoreGroup::All,
            AverageOver::Tasks => row.group == ScoreGroup::Macro,
        };
        let name = format!("{}{}", output::printable(&row.name), if is_reported { " *" } else { "" });
        let BenchmarkRow { questions, failed, unparsed, missing, .. } = row;
        output::line(&format!(
            "{name:<24} {questions:>9} {failed:>6} {unparsed:>8} {missing:>7}{}",
            scores.trim_end()
        ))?;
    }
    output::line("* the average that papers report; failed, unparsed and missing questions count as wrong")?;
    for row in &report.published {
        let text = format!("published: {} {:.1} % ({}, {})", row.model, row.value, row.split, row.source);
        output::line(&output::printable(&text))?;
    }
    report.notes.iter().for_each(|note| output::note(note));
    Ok(())
}
