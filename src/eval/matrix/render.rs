//! The table as text, Markdown and CSV. Text and Markdown round for readers, CSV has every digit.

use std::fmt::Write as _;

use super::{CellComparison, CellCost, CellState, JudgedColumn, MatrixRow, MatrixTable, PublishedCell};
use crate::error::{Error, Kind, Result};

/// Cells of a grid, row by row.
struct Grid {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl MatrixTable {
    /// Formats the table with aligned columns, and the notes below it.
    pub fn to_text(&self) -> String {
        let Grid { head, rows } = self.grid();
        let width = |column: usize| {
            let cells = std::iter::once(&head).chain(&rows).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let mut text = format!("{}, {}: {} cells\n", self.benchmark, self.split, self.rows.len());
        for row in std::iter::once(&head).chain(&rows) {
            text += &line(row);
            text.push('\n');
        }
        self.foot().iter().for_each(|note| text += &format!("{note}\n"));
        text
    }

    /// Formats the table as Markdown, and the notes as a list below it.
    pub fn to_markdown(&self) -> String {
        let Grid { head, rows } = self.grid();
        let line = |row: &[String]| {
            let cells = row.iter().map(|cell| cell.replace('|', "\\|").replace(['\n', '\r'], " "));
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        let mut text = format!("# {}, {}\n\n", self.benchmark, self.split);
        text += &line(&head);
        text += &format!("|{}\n", "---|".repeat(head.len()));
        rows.iter().for_each(|row| text += &line(row));
        text.push('\n');
        self.foot().iter().for_each(|note| text += &format!("- {}\n", note.replace(['\n', '\r'], " ")));
        text
    }

    /// Formats the table as CSV, with shares from 0 to 1.
    ///
    /// # Errors
    /// Never for a table in memory.
    pub fn to_csv(&self) -> Result<Vec<u8>> {
        let failed = |error: csv::Error| Error::caused_by(Kind::Invalid, error);
        let mut out = csv::Writer::from_writer(Vec::new());
        let mut head: Vec<String> = self.axes.clone();
        head.extend(["cell", "state", "questions", "failed", "unparsed", "missing"].map(str::to_owned));
        for metric in &self.metrics {
            head.extend([metric.clone(), format!("{metric}_low"), format!("{metric}_high")]);
        }
        head.extend(self.judged.iter().flat_map(JudgedColumn::csv_head));
        head.extend(
            [
                "difference",
                "difference_low",
                "difference_high",
                "p",
                "visual_tokens",
                "seconds",
                "frames_encoded",
                "frames_reused",
                "published",
                "error",
            ]
            .map(str::to_owned),
        );
        out.write_record(&head).map_err(failed)?;
        for row in &self.rows {
            out.write_record(self.csv_row(row)).map_err(failed)?;
        }
        out.into_inner().map_err(|error| Error::caused_by(Kind::Invalid, error.into_error()))
    }

    fn csv_row(&self, row: &MatrixRow) -> Vec<String> {
        let mut cells = row.labels.clone();
        cells.extend([row.cell.clone(), state(row.state).to_owned()]);
        cells.extend([row.questions, row.failed, row.unparsed, row.missing].map(|n| n.to_string()));
        for metric in &self.metrics {
            let score = row.scores.get(metric);
            let of = [score.map(|s| s.mean), score.map(|s| s.interval_95.0), score.map(|s| s.interval_95.1)];
            cells.extend(of.map(number));
        }
        cells.extend(self.judged.iter().flat_map(|column| column.shares(row)).map(number));
        let compared = row.compared.as_ref();
        cells.extend(
            [
                compared.map(|c| c.difference),
                compared.map(|c| c.interval_95.0),
                compared.map(|c| c.interval_95.1),
                compared.and_then(|c| c.p),
                row.cost.map(|cost| cost.visual_tokens),
                row.cost.map(|cost| cost.seconds),
            ]
            .map(number),
        );
        let frames = |of: fn(CellCost) -> usize| row.cost.map_or(String::new(), |cost| of(cost).to_string());
        cells.extend([frames(|cost| cost.frames_encoded), frames(|cost| cost.frames_reused)]);
        cells.extend([published(&row.published), row.error.clone().unwrap_or_default()]);
        cells
    }

    fn grid(&self) -> Grid {
        let has_published = self.rows.iter().any(|row| !row.published.is_empty());
        let mut head: Vec<String> = self.axes.clone();
        for metric in &self.metrics {
            head.extend([metric.clone(), "95 %".to_owned()]);
        }
        head.extend(self.judged.iter().flat_map(JudgedColumn::head));
        head.extend(
            ["difference", "95 %", "p", "tokens/video", "s/video", "failed", "unparsed", "missing"].map(str::to_owned),
        );
        head.extend(has_published.then(|| "published".to_owned()));
        let rows = self.rows.iter().map(|row| {
            let mut cells = self.row(row);
            cells.extend(has_published.then(|| published(&row.published)));
            cells
        });
        Grid { rows: rows.collect(), head }
    }

    fn row(&self, row: &MatrixRow) -> Vec<String> {
        let mut cells = row.labels.clone();
        for metric in &self.metrics {
            match row.scores.get(metric) {
                Some(score) => cells.extend(score.shown(None)),
                None => cells.extend([state(row.state).to_owned(), String::new()]),
            }
        }
        cells.extend(self.judged.iter().flat_map(|column| column.cells(row)));
        cells.extend(comparison(row, row.cell == self.baseline));
        cells.extend(match row.cost {
            Some(cost) => {
                let mark = if cost.frames_reused > 0 { " r" } else { "" };
                [format!("{:.0}", cost.visual_tokens), format!("{:.2}{mark}", cost.seconds)]
            }
            None => [String::new(), String::new()],
        });
        let count = |n: usize| if row.state == CellState::Done { n.to_string() } else { String::new() };
        cells.extend([row.failed, row.unparsed, row.missing].map(count));
        cells
    }

    /// Returns the notes, and the errors of cells.
    fn foot(&self) -> Vec<String> {
        let errors = self.rows.iter().filter_map(|row| Some(format!("{}: {}", row.cell, row.error.as_ref()?)));
        self.notes.iter().cloned().chain(errors).collect()
    }
}

fn comparison(row: &MatrixRow, is_baseline: bool) -> [String; 3] {
    match &row.compared {
        Some(CellComparison { difference, interval_95: (low, high), p, .. }) => [
            format!("{:+.1}", 100.0 * difference),
            format!("{:+.1} to {:+.1}", 100.0 * low, 100.0 * high),
            p.map_or(String::new(), |p| format!("{p:.4}")),
        ],
        None if is_baseline => ["baseline".to_owned(), String::new(), String::new()],
        None => [String::new(), String::new(), String::new()],
    }
}

fn published(rows: &[PublishedCell]) -> String {
    let mut text = String::new();
    for PublishedCell { metric, value, judge, source, .. } in rows {
        let separator = if text.is_empty() { "" } else { "; " };
        let judge = judge.as_ref().map_or(String::new(), |judge| format!(", {judge}"));
        let _ = write!(text, "{separator}{} {value} ({source}{judge})", metric.name());
    }
    text
}

fn state(state: CellState) -> &'static str {
    match state {
        CellState::Done => "done",
        CellState::Incomplete => "incomplete",
        CellState::Failed => "failed",
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::matrix::CellComparison;
    use crate::eval::metrics::ClusteredMean;
    use std::collections::BTreeMap;

    fn row(label: &str, state: CellState) -> MatrixRow {
        let done = state == CellState::Done;
        let mean = ClusteredMean { mean: 0.5, interval_95: (0.25, 0.75), n_clusters: 4 };
        MatrixRow {
            cell: format!("temporal={label}"),
            labels: vec![label.to_owned()],
            state,
            error: (state == CellState::Failed).then(|| "no | such model".to_owned()),
            questions: if done { 8 } else { 0 },
            failed: usize::from(done),
            unparsed: 0,
            missing: 0,
            scores: if done { BTreeMap::from([("exact".to_owned(), mean)]) } else { BTreeMap::new() },
            judged: Vec::new(),
            judged_notes: Vec::new(),
            compared: None,
            cost: None,
            published: Vec::new(),
        }
    }

    fn table() -> MatrixTable {
        let cost = CellCost { videos: 4, visual_tokens: 256.0, seconds: 1.25, frames_encoded: 0, frames_reused: 16 };
        let compared = CellComparison {
            metric: "exact".to_owned(),
            questions: 8,
            difference: -0.125,
            interval_95: (-0.25, 0.0625),
            p: Some(0.5),
        };
        let second = MatrixRow { compared: Some(compared), cost: Some(cost), ..row("concat", CellState::Done) };
        MatrixTable {
            benchmark: "Shapes".to_owned(),
            split: "test".to_owned(),
            axes: vec!["temporal".to_owned()],
            metrics: vec!["exact".to_owned()],
            judged: Vec::new(),
            baseline: "temporal=S1".to_owned(),
            rows: vec![row("S1", CellState::Done), second, row("bad", CellState::Failed)],
            notes: vec!["a note".to_owned()],
        }
    }

    #[test]
    fn the_text_is_aligned_and_tells_failures() {
        let expected = "\
Shapes, test: 3 cells
temporal  exact   95 %          difference  95 %           p       tokens/video  s/video  failed  unparsed  missing
S1        50.0 %  25.0 to 75.0  baseline                                                  1       0         0
concat    50.0 %  25.0 to 75.0  -12.5       -25.0 to +6.2  0.5000  256           1.25 r   1       0         0
bad       failed
a note
temporal=bad: no | such model
";
        assert_eq!(table().to_text(), expected);
    }

    #[test]
    fn markdown_escapes_what_would_end_a_cell() {
        let text = table().to_markdown();
        let expected = "\
# Shapes, test

| temporal | exact | 95 % | difference | 95 % | p | tokens/video | s/video | failed | unparsed | missing |
|---|---|---|---|---|---|---|---|---|---|---|
| S1 | 50.0 % | 25.0 to 75.0 | baseline |  |  |  |  | 1 | 0 | 0 |
";
        assert!(text.starts_with(expected), "{text}");
        let mut odd = table();
        odd.rows[0].labels[0] = "a|b\nc".to_owned();
        assert!(odd.to_markdown().contains("| a\\|b c | 50.0 %"));
    }

    #[test]
    fn csv_has_every_digit() {
        let text = String::from_utf8(table().to_csv().expect("in memory")).expect("text");
        let expected = "\
temporal,cell,state,questions,failed,unparsed,missing,exact,exact_low,exact_high,difference,difference_low,difference_high,p,visual_tokens,seconds,frames_encoded,frames_reused,published,error
S1,temporal=S1,done,8,1,0,0,0.5,0.25,0.75,,,,,,,,,,
concat,temporal=concat,done,8,1,0,0,0.5,0.25,0.75,-0.125,-0.25,0.0625,0.5,256,1.25,0,16,,
bad,temporal=bad,failed,0,0,0,0,,,,,,,,,,,,,no | such model
";
        assert_eq!(text, expected);
    }
}
