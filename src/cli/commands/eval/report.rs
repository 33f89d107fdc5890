//! `vidense eval report DIR`: the report of an evaluation, written again.

use std::path::PathBuf;

use clap::Args;
use vidense::eval::report;

use crate::cli::output;

/// Write report.md, report.html and scores.svg of an evaluation again
///
/// Scores with intervals, also those of judges, published results of the same split, wrong answers with thumbnails,
/// failures. Nothing is asked or scored: the report is made of evaluation.json, scored.jsonl, run/ and the judged
/// answers in judges/.
#[derive(Args)]
pub(super) struct EvaluationReport {
    /// Directory that vidense eval BENCHMARK.yaml --out wrote
    evaluation: PathBuf,
}

impl EvaluationReport {
    /// Runs the command.
    ///
    /// # Errors
    /// When a file of the evaluation cannot be read, or the report cannot be written.
    pub(super) fn run(self) -> anyhow::Result<()> {
        Ok(output::path(&report::write(&self.evaluation)?)?)
    }
}
