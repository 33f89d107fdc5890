//! Judged scores in a report: columns beside the offline metrics, numbered by judge, and the facts of each judge.

use super::contents::ReportContents;
use super::tables::ReportTable;
use crate::eval::benchmark::BenchmarkRow;
use crate::eval::judge::{ComparableResults, JudgeCounts, JudgeTable};

/// Returns the titles of the columns: each metric with the number of its judge, and its interval.
pub(super) fn judged_head(contents: &ReportContents) -> Vec<String> {
    let columns = columns(contents);
    columns.flat_map(|(number, table, metric)| [numbered(number, table, metric), "95 % interval".to_owned()]).collect()
}

/// Returns the cells of a row of the scores.
pub(super) fn judged_cells(contents: &ReportContents, row: &BenchmarkRow) -> Vec<String> {
    let cell = |(_, table, metric): (usize, &JudgeTable, &str)| {
        let mut rows = table.rows.iter().map(|judged| &judged.scores);
        let same = rows.find(|judged| judged.group == row.group && judged.name == row.name);
        match same.and_then(|judged| judged.scores.get(metric)) {
            Some(score) => table.shown(metric, score),
            None => [String::new(), String::new()],
        }
    };
    columns(contents).flat_map(cell).collect()
}

/// Returns the tables of the judges and of the published results by the same ones, if there are some.
pub(super) fn judged_tables(contents: &ReportContents) -> Vec<ReportTable> {
    let judgements = &contents.judgements;
    if judgements.all.is_empty() && judgements.notes.is_empty() {
        return Vec::new();
    }
    let mut tables = vec![judges(contents)];
    tables.extend(contents.compared.iter().any(|compared| !compared.published.is_empty()).then(|| published(contents)));
    tables
}

/// Lists the judged columns: number and table of the judge, metric.
fn columns(contents: &ReportContents) -> impl Iterator<Item = (usize, &JudgeTable, &str)> {
    let tables = (1..).zip(contents.judgements.all.iter().map(|judgement| &judgement.table));
    tables.flat_map(|(number, table)| table.judged_metrics().map(move |metric| (number, table, metric)))
}

fn numbered(number: usize, table: &JudgeTable, metric: &str) -> String {
    format!("{} ({number})", table.title(metric))
}

fn judges(contents: &ReportContents) -> ReportTable {
    let head = [
        "judge",
        "file",
        "prompt",
        "model",
        "temperature",
        "hash of the prompt",
        "requests",
        "judged",
        "not parsed",
        "contradictory",
        "failed",
        "without a reply",
        "without an answer",
        "tokens of prompts",
        "tokens of replies",
        "price",
    ];
    let all = || (1..).zip(&contents.judgements.all);
    let rows = all().map(|(number, judgement)| {
        let cells = [number.to_string(), judgement.file.to_string_lossy().replace('\\', "/")];
        cells.into_iter().chain(facts(&judgement.table)).collect()
    });
    let mut table = ReportTable::new("Judges", &head, rows.collect());
    let left_out = |(number, compared): (usize, &ComparableResults)| {
        compared.shown_left_out().map(|text| format!("({number}): {text}."))
    };
    table.notes.extend((1..).zip(&contents.compared).filter_map(left_out));
    if !contents.judgements.all.is_empty() {
        let counting =
            "Judged scores are over all questions: those without a verdict count as wrong, with a score of 0.";
        table.notes.push(counting.to_owned());
    }
    for (number, judgement) in all().filter(|(_, judgement)| judgement.table.counts.fractional > 0) {
        let n = judgement.table.counts.fractional;
        table
            .notes
            .push(format!("({number}): {n} scores have a fraction, which the scripts of Video-ChatGPT truncate."));
    }
    table.notes.extend(contents.judgements.notes.iter().cloned());
    table
}

/// Returns the facts of a judge, from the prompt to the price.
fn facts(table: &JudgeTable) -> Vec<String> {
    let identity = &table.identity;
    let JudgeCounts { judged, unanswered, missing, failed, unparsed, duplicate, .. } = table.counts;
    let texts = [
        identity.judge.clone(),
        identity.shown_models(),
        identity.temperature.to_string(),
        identity.prompt_hash.clone(),
    ];
    let counts = [table.requests, judged, unparsed, duplicate, failed, missing, unanswered].map(|n| n.to_string());
    // The service does not say the tokens of some replies.
    let at_least = if table.tokens.unknown_replies > 0 { "at least " } else { "" };
    let tokens = [table.tokens.prompt_tokens, table.tokens.completion_tokens].map(|n| format!("{at_least}{n}"));
    let price = table.price.map_or("-".to_owned(), |price| format!("{at_least}{price:.4}"));
    texts.into_iter().chain(counts).chain(tokens).chain([price]).collect()
}

fn published(contents: &ReportContents) -> ReportTable {
    let mut rows = Vec::new();
    for ((number, judgement), compared) in (1..).zip(&contents.judgements.all).zip(&contents.compared) {
        for result in &compared.published {
            let metric = numbered(number, &judgement.table, result.metric.name());
            let judge = result.judge.clone().unwrap_or_default();
            rows.push(vec![result.model.clone(), metric, format!("{:?}", result.value), judge, result.source.clone()]);
        }
    }
    let head = ["model", "metric", "value", "judge", "source"];
    ReportTable::new("Published results by the same judge", &head, rows)
}
