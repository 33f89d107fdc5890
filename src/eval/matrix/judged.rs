//! Judged scores of cells: a column for each metric of each judge, so that scores of different judges never share one.

use std::collections::BTreeMap;

use serde::Serialize;

use super::PublishedCell;
use super::table::{MatrixRow, reported_row};
use crate::eval::benchmark::BenchmarkSpec;
use crate::eval::judge::{JudgeCounts, JudgeIdentity, Judgement, Judgements};
use crate::eval::metrics::ClusteredMean;

/// Scores of a cell by one judge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellJudgement {
    /// Judge.
    #[serde(flatten)]
    pub judge: JudgeIdentity,
    /// Numbers of questions by the outcome of judging.
    pub counts: JudgeCounts,
    /// Scores by metric, over the units that the benchmark averages over.
    pub scores: BTreeMap<String, JudgedMean>,
    /// Published results of the cell that compare with the scores.
    #[serde(skip)]
    pub comparable: Vec<PublishedCell>,
}

/// Mean of a judged metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgedMean {
    /// Name of the metric in papers, or its own.
    pub title: String,
    /// Highest points, of a metric in points: the mean is a share of them.
    pub max_points: Option<f64>,
    /// Mean, a share.
    #[serde(flatten)]
    pub mean: ClusteredMean,
}

/// Column of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgedColumn {
    /// Judge.
    #[serde(flatten)]
    pub judge: JudgeIdentity,
    /// Number of the judge in the table, from 1.
    pub number: usize,
    /// Metric.
    pub metric: String,
    /// Name of the metric in papers, or its own.
    pub title: String,
}

/// Returns the scores of a cell, of the average that the benchmark reports.
pub(super) fn cell_judgements(
    judgements: &Judgements,
    spec: &BenchmarkSpec,
    published: &[PublishedCell],
) -> Vec<CellJudgement> {
    let of_judgement = |judgement: &Judgement| {
        let table = &judgement.table;
        let row = reported_row(table.rows.iter().map(|row| row.scores.clone()).collect(), spec);
        let score = |metric: &str| {
            let mean = *row.as_ref()?.scores.get(metric)?;
            let max_points = table.max_points.get(metric).copied();
            Some((metric.to_owned(), JudgedMean { title: table.title(metric), max_points, mean }))
        };
        let scores = table.judged_metrics().filter_map(score).collect();
        let comparable = comparable(judgement, spec, published);
        CellJudgement { judge: table.identity.clone(), counts: table.counts, scores, comparable }
    };
    judgements.all.iter().map(of_judgement).collect()
}

/// Chooses the published results of a cell that compare with its scores by a judge.
fn comparable(judgement: &Judgement, spec: &BenchmarkSpec, published: &[PublishedCell]) -> Vec<PublishedCell> {
    let Judgement { table, answers, .. } = judgement;
    let is_whole = table.obstacle(spec, answers).is_none();
    let is_same = |result: &&PublishedCell| is_whole && table.is_same(result.measurement(), spec);
    published.iter().filter(is_same).cloned().collect()
}

/// Returns the columns of all cells: judges in the order in which cells have them.
pub(super) fn judged_columns(rows: &[MatrixRow]) -> Vec<JudgedColumn> {
    let mut columns: Vec<JudgedColumn> = Vec::new();
    let mut judges: Vec<&JudgeIdentity> = Vec::new();
    for judgement in rows.iter().flat_map(|row| &row.judged) {
        let known = judges.iter().position(|judge| **judge == judgement.judge);
        let index = known.unwrap_or(judges.len());
        if known.is_none() {
            judges.push(&judgement.judge);
        }
        for (metric, score) in &judgement.scores {
            let (number, judge) = (index + 1, judgement.judge.clone());
            if !columns.iter().any(|column| column.number == number && column.metric == *metric) {
                columns.push(JudgedColumn { judge, number, metric: metric.clone(), title: score.title.clone() });
            }
        }
    }
    columns.sort_by_key(|column| column.number);
    columns
}

/// Names the judges, and what is not shown: published results that do not compare, which are removed from the rows,
/// and judged answers of a cell.
pub(super) fn judged_notes(columns: &[JudgedColumn], rows: &mut [MatrixRow]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for column in columns {
        let note = format!("({}): {}", column.number, column.judge);
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    if notes.len() > 1 {
        notes.push("scores of different judges do not compare".to_owned());
    }
    let n_left_out = if columns.is_empty() { 0 } else { rows.iter_mut().map(keep_comparable).sum() };
    if n_left_out > 0 {
        notes.push(format!(
            "{n_left_out} published results are left out: their cells have no scores of the same prompt, model and \
             metric, by a built-in judge with a single reply to each request"
        ));
    }
    for row in rows {
        notes.extend(notes_of_verdicts(columns, row));
        notes.extend(row.judged_notes.iter().map(|note| format!("{}: {note}", row.cell)));
    }
    notes
}

/// Tells how many questions of a cell have no verdict of a judge.
fn notes_of_verdicts(columns: &[JudgedColumn], row: &MatrixRow) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for column in columns {
        let counts = column.judgement(row).map(|judgement| judgement.counts).unwrap_or_default();
        let (n_without, n, number) = (counts.without_verdict(), counts.questions(), column.number);
        let note = format!("{}: ({number}): {n_without} of {n} questions have no verdict and count as 0", row.cell);
        if n_without > 0 && !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

/// Removes the published results of judges that compare with no score of the cell, and returns their number.
fn keep_comparable(row: &mut MatrixRow) -> usize {
    let n = row.published.len();
    let compares = |result: &PublishedCell| row.judged.iter().any(|judgement| judgement.comparable.contains(result));
    row.published.retain(|result| !result.metric.is_judged() || compares(result));
    n - row.published.len()
}

impl JudgedColumn {
    /// Returns the scores of a cell by the judge.
    fn judgement<'r>(&self, row: &'r MatrixRow) -> Option<&'r CellJudgement> {
        row.judged.iter().find(|judgement| judgement.judge == self.judge)
    }

    /// Returns the score of a cell.
    fn score<'r>(&self, row: &'r MatrixRow) -> Option<&'r JudgedMean> {
        self.judgement(row)?.scores.get(&self.metric)
    }

    /// Returns the titles of the column and of its interval for readers.
    pub(super) fn head(&self) -> [String; 2] {
        [format!("{} ({})", self.title, self.number), "95 %".to_owned()]
    }

    /// Returns the mean and the interval for readers.
    pub(super) fn cells(&self, row: &MatrixRow) -> [String; 2] {
        self.score(row).map(|JudgedMean { max_points, mean, .. }| mean.shown(*max_points)).unwrap_or_default()
    }

    /// Returns the titles in CSV: metric, judge, models, temperature, and the hashes of the prompt and of the
    /// judge's description.
    pub(super) fn csv_head(&self) -> [String; 3] {
        let JudgeIdentity { judge, temperature, .. } = &self.judge;
        let (models, [prompt, description]) = (self.judge.shown_models(), self.judge.short_hashes());
        let name = format!("{}/{judge}/{models}/{temperature}/{prompt}/{description}", self.metric);
        [name.clone(), format!("{name}_low"), format!("{name}_high")]
    }

    /// Returns the mean and the interval, as shares.
    pub(super) fn shares(&self, row: &MatrixRow) -> [Option<f64>; 3] {
        let mean = self.score(row).map(|score| &score.mean);
        [mean.map(|mean| mean.mean), mean.map(|mean| mean.interval_95.0), mean.map(|mean| mean.interval_95.1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::benchmark::PublishedMetric;
    use crate::eval::matrix::{CellState, MatrixTable};

    fn judgement(model: &str, share: f64) -> CellJudgement {
        let judge = JudgeIdentity {
            judge: "video-chatgpt-detail".to_owned(),
            models: [model.to_owned()].into(),
            temperature: 0.0,
            prompt_hash: "0123456789abcdef0".to_owned(),
            judge_hash: "fedcba98765432100".to_owned(),
        };
        let mean = ClusteredMean { mean: share, interval_95: (0.25, 0.75), n_clusters: 4 };
        let mean = JudgedMean { title: "DO".to_owned(), max_points: Some(5.0), mean };
        let counts = JudgeCounts { judged: 8, ..JudgeCounts::default() };
        let scores = [("judge_score".to_owned(), mean)].into();
        CellJudgement { judge, counts, scores, comparable: vec![published(model)] }
    }

    fn published(judge: &str) -> PublishedCell {
        PublishedCell {
            cell: serde_json::Map::new(),
            split: "test".to_owned(),
            metric: PublishedMetric::JudgeScore,
            value: 2.5,
            judge: Some(judge.to_owned()),
            prompt: Some("video-chatgpt-detail".to_owned()),
            source: "s".to_owned(),
            cells: vec![0],
        }
    }

    fn row(cell: &str, judged: Vec<CellJudgement>) -> MatrixRow {
        MatrixRow {
            cell: cell.to_owned(),
            labels: vec![cell.to_owned()],
            state: CellState::Done,
            error: None,
            questions: 8,
            failed: 0,
            unparsed: 0,
            missing: 0,
            scores: BTreeMap::new(),
            judged,
            judged_notes: vec!["judge/judged.jsonl: of other answers".to_owned()],
            compared: None,
            cost: None,
            published: vec![published("m-0125"), published("m-0613")],
        }
    }

    #[test]
    fn a_note_counts_the_questions_without_a_verdict() {
        let counts = JudgeCounts { judged: 3, unanswered: 1, missing: 1, failed: 2, unparsed: 1, ..Default::default() };
        let incomplete = CellJudgement { counts, ..judgement("m-0613", 0.5) };
        let mut rows = vec![row("a", vec![judgement("m-0125", 0.5), incomplete])];
        let columns = judged_columns(&rows);
        let notes = judged_notes(&columns, &mut rows);
        let of_verdicts: Vec<&String> = notes.iter().filter(|note| note.contains("verdict")).collect();
        assert_eq!(of_verdicts, ["a: (2): 4 of 8 questions have no verdict and count as 0"]);
    }

    #[test]
    fn judges_that_differ_in_their_settings_alone_have_different_names() {
        let mut other = judgement("m-0125", 0.5);
        other.judge.judge_hash = "0f".to_owned();
        let mut rows = vec![row("a", vec![judgement("m-0125", 0.5), other])];
        let columns = judged_columns(&rows);
        let heads: Vec<[String; 3]> = columns.iter().map(JudgedColumn::csv_head).collect();
        assert!(heads.len() == 2 && heads[0] != heads[1], "{heads:?}");
        let notes = judged_notes(&columns, &mut rows);
        let end = |number: &str, end: &str| notes.iter().any(|note| note.starts_with(number) && note.ends_with(end));
        assert!(end("(1)", "description fedcba9876543210") && end("(2)", "description 0f"), "{notes:?}");
    }

    #[test]
    fn each_judge_has_a_column_of_its_own_and_its_published_results() {
        let mut rows = vec![
            row("a", vec![judgement("m-0125", 0.5)]),
            row("b", vec![judgement("m-0613", 0.7)]),
            row("c", Vec::new()),
        ];
        let judged = judged_columns(&rows);
        assert_eq!(judged.iter().map(|column| column.number).collect::<Vec<_>>(), [1, 2]);
        let notes = judged_notes(&judged, &mut rows);
        let expected = [
            "(1): video-chatgpt-detail by m-0125, temperature 0, prompt 0123456789abcdef, description fedcba9876543210",
            "(2): video-chatgpt-detail by m-0613, temperature 0, prompt 0123456789abcdef, description fedcba9876543210",
            "scores of different judges do not compare",
            "4 published results are left out: their cells have no scores of the same prompt, model and metric, by a \
             built-in judge with a single reply to each request",
            "a: judge/judged.jsonl: of other answers",
            "b: judge/judged.jsonl: of other answers",
            "c: judge/judged.jsonl: of other answers",
        ];
        assert_eq!(notes, expected);
        let judges: Vec<Vec<&str>> =
            rows.iter().map(|row| row.published.iter().filter_map(|row| row.judge.as_deref()).collect()).collect();
        assert_eq!(judges, [vec!["m-0125"], vec!["m-0613"], Vec::new()]);
        let table = MatrixTable {
            benchmark: "x".to_owned(),
            split: "test".to_owned(),
            axes: vec!["cell".to_owned()],
            metrics: Vec::new(),
            judged,
            baseline: "a".to_owned(),
            rows,
            notes: Vec::new(),
        };
        let text = table.to_text();
        assert!(text.contains("cell  DO (1)  95 %          DO (2)  95 %          difference"), "{text}");
        assert!(text.contains("a     2.50    1.25 to 3.75                        baseline"), "{text}");
        assert!(text.contains("b                           3.50    1.25 to 3.75"), "{text}");
        let csv = String::from_utf8(table.to_csv().expect("in memory")).expect("text");
        assert!(csv.contains(",judge_score/video-chatgpt-detail/m-0613/0/0123456789abcdef/fedcba9876543210,"), "{csv}");
        assert!(csv.contains("b,b,done,8,0,0,0,,,,0.7,0.25,0.75,"), "{csv}");
    }
}
