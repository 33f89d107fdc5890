//! `vidense eval score --metric METRIC`: scores of answers to documents of an lmms-eval task, for its functions.

use std::io::BufRead as _;

use clap::Args;
use vidense::error::{About as _, Error};
use vidense::eval::benchmark::Measure;
use vidense::eval::export::score_document;

use crate::cli::output;

/// Score answers to documents of an lmms-eval task, on standard input
///
/// A line is a document of questions.jsonl, as eval export --to lmms-eval writes it, with the answer as given. A JSON
/// object a line is printed: question_id, score, parsed, status.
#[derive(Args)]
pub(super) struct ScoreDocuments {
    /// Metric: choice, yes_no, exact, normalized or token_f1
    #[arg(long, value_name = "METRIC", value_parser = measure)]
    metric: Measure,
}

/// Parses the name of a metric.
fn measure(text: &str) -> Result<Measure, Error> {
    let parsed = serde_json::from_value(serde_json::Value::from(text));
    parsed.map_err(|_| Error::invalid(format!("unknown metric `{text}`")))
}

impl ScoreDocuments {
    /// Runs the command.
    ///
    /// # Errors
    /// When a line is no document with an answer that the metric scores.
    pub(super) fn run(self) -> anyhow::Result<()> {
        for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
            let line = line?;
            if !line.trim().is_empty() {
                output::json(&score_document(&line, self.metric).about(format!("line {number}"))?)?;
            }
        }
        Ok(())
    }
}
