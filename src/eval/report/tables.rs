//! Tables of a report, the same in both formats.

use super::contents::ReportContents;
use super::judged::{judged_cells, judged_head, judged_tables};
use crate::eval::benchmark::{BenchmarkRow, ScoreGroup};

/// Number of failures in the table; the scored answers have all.
const MAX_FAILURES: usize = 200;

/// A table with its title and remarks.
#[derive(Debug)]
pub(super) struct ReportTable {
    pub(super) title: &'static str,
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    pub(super) notes: Vec<String>,
}

impl ReportTable {
    pub(super) fn new(title: &'static str, head: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self { title, head: head.iter().map(|&name| name.to_owned()).collect(), rows, notes: Vec::new() }
    }
}

/// Returns the tables of a report. Each says how many videos are missing, if some are.
pub(super) fn report_tables(contents: &ReportContents) -> Vec<ReportTable> {
    let mut tables = vec![facts(contents), counts(contents), scores(contents)];
    tables.extend(judged_tables(contents));
    tables.extend((!contents.published.is_empty()).then(|| published(contents)));
    tables.extend((!contents.failures.is_empty()).then(|| failures(contents)));
    for table in &mut tables {
        table.notes.extend(contents.record.coverage.note());
    }
    tables
}

fn facts(contents: &ReportContents) -> ReportTable {
    let record = &contents.record;
    let spec = &record.spec;
    let rows = [
        ("benchmark", spec.name.clone()),
        ("split", spec.split.clone()),
        ("questions", record.questions.to_string()),
        ("videos", record.coverage.videos.to_string()),
        ("hash of the split", record.split_hash.clone()),
        ("description", record.description.clone()),
        ("hash of the description", record.spec_hash.clone()),
        ("source of the data", spec.source.clone()),
        ("source of the prompt", spec.prompt.source.clone()),
        ("model", record.plan.model.clone()),
        ("fingerprint of the plan", record.plan.fingerprint.clone()),
        ("vidense", record.version.clone()),
    ];
    let rows = rows.map(|(name, value)| vec![name.to_owned(), value]).into();
    ReportTable { notes: record.notes.clone(), ..ReportTable::new("Evaluation", &["fact", "value"], rows) }
}

fn counts(contents: &ReportContents) -> ReportTable {
    let n_questions = contents.record.questions;
    let n_done: usize = contents.by_status.iter().map(|(_, n)| n).sum();
    let mut rows = vec![("questions", n_questions)];
    rows.extend(&contents.by_status);
    rows.push(("not asked", n_questions.saturating_sub(n_done)));
    rows.push(("without a published answer", contents.n_hidden));
    let rows = rows.into_iter().map(|(name, n)| vec![name.to_owned(), n.to_string()]).collect();
    ReportTable::new("Questions", &["outcome", "questions"], rows)
}

fn scores(contents: &ReportContents) -> ReportTable {
    let mut head = vec!["type or task", "questions", "failed", "unparsed", "missing"];
    for metric in &contents.record.spec.metrics {
        head.extend([metric.name(), "95 % interval"]);
    }
    let of_judges = judged_head(contents);
    head.extend(of_judges.iter().map(String::as_str));
    let rows = contents.rows.iter().map(|row| score_row(contents, row)).collect();
    let mut table = ReportTable::new("Scores", &head, rows);
    table.notes.push(
        "* the average that papers report. Failed, unparsed and missing questions count as wrong. Intervals are \
         clustered by video."
            .to_owned(),
    );
    table
}

fn score_row(contents: &ReportContents, row: &BenchmarkRow) -> Vec<String> {
    let mut cells = vec![row_name(row, contents.reported())];
    cells.extend([row.questions, row.failed, row.unparsed, row.missing].map(|n| n.to_string()));
    for metric in &contents.record.spec.metrics {
        let score = row.scores.get(metric.name());
        cells.extend(score.map(|score| score.shown(None)).unwrap_or_default());
    }
    cells.extend(judged_cells(contents, row));
    cells
}

/// Returns the name of a row; the reported average has a star.
pub(super) fn row_name(row: &BenchmarkRow, reported: ScoreGroup) -> String {
    let name = if row.name.is_empty() { "without a type" } else { &row.name };
    if row.group == reported { format!("{name} *") } else { name.to_owned() }
}

fn published(contents: &ReportContents) -> ReportTable {
    let row = |result: &crate::eval::benchmark::PublishedResult| {
        let (model, metric) = (result.model.clone(), result.metric.name().to_owned());
        vec![model, metric, format!("{:.1}", result.value), result.source.clone()]
    };
    let rows = contents.published.iter().map(row).collect();
    ReportTable::new("Published results of this split", &["model", "metric", "value", "source"], rows)
}

fn failures(contents: &ReportContents) -> ReportTable {
    let failures = &contents.failures;
    let row = |failed: &super::examples::FailedVideo| {
        vec![failed.video.clone(), failed.n_questions.to_string(), failed.cause.clone()]
    };
    let rows = failures.iter().take(MAX_FAILURES).map(row).collect();
    let mut table = ReportTable::new("Failures", &["video", "questions", "cause"], rows);
    let n_left = failures.len().saturating_sub(MAX_FAILURES);
    table.notes.extend((n_left > 0).then(|| format!("{n_left} more are in scored.jsonl.")));
    table
}
