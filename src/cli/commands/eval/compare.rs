//! `vidense eval compare A B`: paired comparison of two files of answers.

use std::path::PathBuf;

use clap::Args;
use vidense::eval::metrics::PairedTest;
use vidense::eval::{RunComparison, RunCounts, compare_runs};

use crate::cli::output;

/// Maximum number of questions of one run that a warning names.
const MAX_NAMED: usize = 10;

/// Compare two runs on the same questions
///
/// Questions are paired by their id. The interval of the difference is a bootstrap over videos (10,000 resamples, a
/// fixed seed); right and wrong answers to questions about a video each are tested by McNemar's exact test, other
/// scores, and several questions about a video, by a t test over videos. Failed and missing questions are wrong in both
/// runs, and counted for each. Scores of a judge compare by the same judge alone: prompt, model, temperature, highest
/// score.
#[derive(Args)]
pub(super) struct CompareRuns {
    /// Answers of the first run: a file that --answers wrote
    first: PathBuf,
    /// Answers of the second run
    second: PathBuf,
    /// Metric to compare [default: the first by name that all answers of both have]
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// Print one JSON object in place of the text
    #[arg(long)]
    json: bool,
}

impl CompareRuns {
    /// Runs the command.
    ///
    /// # Errors
    /// When a file cannot be read, or the files have no question, metric or judge in common.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let found = compare_runs(&self.first, &self.second, self.metric.as_deref())?;
        for (run, ids) in [("first", &found.only_in_a), ("second", &found.only_in_b)] {
            if !ids.is_empty() {
                let named = ids.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = if ids.len() > MAX_NAMED { ", ..." } else { "" };
                output::warning(&format!("{} questions are only in the {run} run: {named}{more}", ids.len()));
            }
        }
        if self.json { output::json(&found) } else { print(&found) }
    }
}

fn print(found: &RunComparison) -> anyhow::Result<()> {
    let paired = &found.paired;
    let (low, high) = paired.interval_95;
    output::line(&format!("{}: {} questions about {} videos", found.metric, paired.n, paired.n_clusters))?;
    if let Some(judge) = &found.judge {
        output::line(&output::printable(&format!("judge {judge}")))?;
    }
    for (run, counts) in [("A", &found.counts_a), ("B", &found.counts_b)] {
        output::line(&counts_of(run, counts))?;
    }
    output::line(&format!("A {:.2} %, B {:.2} %", 100.0 * paired.mean_a, 100.0 * paired.mean_b))?;
    output::line(&format!(
        "B - A = {:+.2} points, 95 % interval {:+.2} to {:+.2} (bootstrap over videos, 10,000 resamples, seed 0)",
        100.0 * paired.difference,
        100.0 * low,
        100.0 * high
    ))?;
    match paired.test {
        Some(PairedTest::McNemar { only_a, only_b, p }) => output::line(&format!(
            "McNemar, exact: right in A only {only_a}, in B only {only_b}; p = min(1, 2 P(X <= {})) with X ~ Bin({}, 1/2) = {p:.4}",
            only_a.min(only_b),
            only_a + only_b
        ))?,
        Some(PairedTest::ClusteredT { t, df, p }) => {
            output::line(&format!("t test over videos: t = {t:.3}, {df} degrees of freedom, p = {p:.4}"))?;
        }
        None => output::line("no test: fewer than two videos")?,
    }
    Ok(())
}

/// Describes the questions of a run: failed and missing ones are wrong answers of the comparison.
fn counts_of(run: &str, counts: &RunCounts) -> String {
    let RunCounts { questions, failed, missing, unparsed, without_verdict } = counts;
    format!(
        "{run}: {questions} questions in the file, {failed} failed, {missing} with a missing video, {unparsed} not parsed, \
         {without_verdict} without a judge's verdict"
    )
}
