//! Report of judged answers: table, counts of verdicts, published results of the same split and judging model, cost.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use vidense::eval::benchmark::{BenchmarkRow, BenchmarkSpec, PublishedMetric, PublishedResult, read_benchmark};
use vidense::eval::judge::{JudgeCounts, JudgeSpec, JudgeTable, JudgedAnswer, TokenUsage};

use crate::cli::{SomeFailed, output};

/// Name of a judge's mean score, which is printed in points.
const JUDGE_SCORE: &str = "judge_score";

/// Flags of the report.
#[derive(Args)]
pub(super) struct JudgeReportArgs {
    /// Description of the benchmark's split, for published results of the same split and judging model
    #[arg(long, value_name = "FILE")]
    benchmark: Option<PathBuf>,
    /// Print one JSON object in place of the table
    #[arg(long)]
    json: bool,
}

/// Tokens and money of the replies.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct JudgeCost {
    /// Tokens of all replies.
    pub(super) tokens: TokenUsage,
    /// Tokens of the replies of this run.
    pub(super) tokens_of_this_run: TokenUsage,
    /// Price of all replies, if prices are given.
    pub(super) money: Option<f64>,
    /// Whether tokens and price are lower bounds: the service does not say the tokens of some replies.
    pub(super) is_lower_bound: bool,
}

/// Report, as `--json` prints it.
#[derive(Serialize)]
struct JudgeReport<'a> {
    #[serde(flatten)]
    table: &'a JudgeTable,
    published: &'a [&'a PublishedResult],
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<JudgeCost>,
}

impl JudgeReportArgs {
    /// Reads the description of the benchmark.
    fn benchmark(&self) -> anyhow::Result<Option<BenchmarkSpec>> {
        Ok(self.benchmark.as_deref().map(read_benchmark).transpose()?)
    }

    /// Checks the flags before requests are paid for.
    ///
    /// # Errors
    /// An invalid description.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.benchmark().map(drop)
    }

    /// Prints the report.
    ///
    /// # Errors
    /// When the description of the benchmark cannot be read, or a question that was sent has no single reply.
    pub(super) fn print(
        &self,
        judge: &JudgeSpec,
        judged: &[JudgedAnswer],
        cost: Option<JudgeCost>,
    ) -> anyhow::Result<()> {
        let table = JudgeTable::new(judge, judged);
        let benchmark = self.benchmark()?;
        let published = benchmark.as_ref().map(|benchmark| table.comparable(benchmark)).unwrap_or_default();
        if let Some(expected) = benchmark.as_ref().and_then(|benchmark| benchmark.questions)
            && expected != judged.len()
        {
            let n = judged.len();
            output::note(&format!("{n} questions, the split has {expected}: no published result compares"));
        }
        if self.json {
            output::json(&JudgeReport { table: &table, published: &published, cost })?;
        } else {
            print_table(&table, &published)?;
            cost.map_or(Ok(()), print_cost)?;
        }
        let JudgeCounts { missing, failed, duplicate, .. } = table.counts;
        let n_failed = missing + failed + duplicate;
        if n_failed > 0 { Err(SomeFailed { n_failed }.into()) } else { Ok(()) }
    }
}

fn print_table(table: &JudgeTable, published: &[&PublishedResult]) -> anyhow::Result<()> {
    let models: Vec<&str> = table.models.iter().map(String::as_str).collect();
    let models = if models.is_empty() { "no model".to_owned() } else { models.join(", ") };
    let JudgeTable { judge, temperature, prompt_hash, .. } = table;
    let prompt: String = prompt_hash.chars().take(16).collect();
    let head = format!("judge {judge} by {models}, temperature {temperature}, prompt {prompt}");
    output::line(&output::printable(&head))?;
    let metrics: String = table.metrics.iter().map(|name| format!("  {name:<14} {:<14}", "95 %")).collect();
    let columns = ["type or task", "questions", "failed", "unparsed", "missing"];
    let [name, questions, failed, unparsed, missing] = columns;
    let text = format!("{name:<24} {questions:>9} {failed:>6} {unparsed:>8} {missing:>7}{metrics}");
    output::line(text.trim_end())?;
    for row in &table.rows {
        output::line(&line_of(row, table))?;
    }
    let JudgeCounts { judged, unanswered, missing, failed, unparsed, duplicate, fractional } = table.counts;
    output::line(&format!(
        "verdicts: {judged} judged, {unanswered} without an answer to judge, {missing} without a reply, \
         {failed} failed, {unparsed} not parsed, {duplicate} contradictory; \
         all but the judged count as wrong, with a score of 0"
    ))?;
    if fractional > 0 {
        output::note(&format!("{fractional} scores have a fraction, which the scripts of Video-ChatGPT truncate"));
    }
    for row in published {
        let unit = if row.metric == PublishedMetric::JudgeAccuracy { " %" } else { "" };
        let PublishedResult { model, split, value, source, metric, .. } = row;
        let judge = row.judge.as_deref().unwrap_or_default();
        let text = format!("published: {model} {} {value:.1}{unit} ({split}, {judge}, {source})", metric.name());
        output::line(&output::printable(&text))?;
    }
    Ok(())
}

fn line_of(row: &BenchmarkRow, table: &JudgeTable) -> String {
    let score = |name: &String| {
        let Some(mean) = row.scores.get(name) else { return String::new() };
        let (low, high) = mean.interval_95;
        let (factor, digits, unit) = if name == JUDGE_SCORE { (table.max_score, 2, "") } else { (100.0, 1, " %") };
        let value = format!("{:.digits$}{unit}", factor * mean.mean);
        let interval = format!("{:.digits$} to {:.digits$}", factor * low, factor * high);
        format!("  {value:<14} {interval:<14}")
    };
    let scores: String = table.metrics.iter().map(score).collect();
    let BenchmarkRow { questions, failed, unparsed, missing, .. } = row;
    let name = output::printable(&row.name);
    format!("{name:<24} {questions:>9} {failed:>6} {unparsed:>8} {missing:>7}{}", scores.trim_end())
}

fn print_cost(cost: JudgeCost) -> anyhow::Result<()> {
    let JudgeCost { tokens, tokens_of_this_run: now, money, is_lower_bound } = cost;
    let at_least = if is_lower_bound { "at least " } else { "" };
    let money = money.map(|money| format!("; price {at_least}{money:.4}")).unwrap_or_default();
    output::note(&format!(
        "tokens: {at_least}{} of prompts and {} of replies, of which {} and {} in this run{money}",
        tokens.prompt_tokens, tokens.completion_tokens, now.prompt_tokens, now.completion_tokens
    ));
    if is_lower_bound {
        let n = tokens.unknown_replies;
        output::warning(&format!("the service does not say the tokens of {n} replies, which are not in these numbers"));
    }
    Ok(())
}
