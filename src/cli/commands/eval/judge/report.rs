//! Report of judged answers: table, counts of verdicts, published results of the same split and judging model, cost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use vidense::error::Error;
use vidense::eval::benchmark::{
    BenchmarkSpec, EVALUATION, EvaluationRecord, PublishedMetric, PublishedResult, read_benchmark,
};
use vidense::eval::judge::{JudgeCounts, JudgeRow, JudgeTable, JudgedAnswer, TokenPrices, TokenUsage};

use super::price;
use crate::cli::{SomeFailed, output};

/// Flags of the report.
#[derive(Args)]
pub(super) struct JudgeReportArgs {
    /// Description of the benchmark's split, for published results: of the whole split, by the built-in judge and the
    /// same judging model
    #[arg(long, value_name = "FILE")]
    benchmark: Option<PathBuf>,
    /// Print one JSON object in place of the table
    #[arg(long)]
    json: bool,
}

/// Prices of the replies.
#[derive(Args)]
pub(super) struct PriceArgs {
    /// Price of a million tokens of prompts
    #[arg(long, value_name = "MONEY", value_parser = price, requires = "price_out")]
    price_in: Option<f64>,
    /// Price of a million tokens of replies
    #[arg(long, value_name = "MONEY", value_parser = price, requires = "price_in")]
    price_out: Option<f64>,
}

impl PriceArgs {
    /// Returns the prices, if they are given.
    pub(super) fn prices(&self) -> Option<TokenPrices> {
        let (prompts, replies) = self.price_in.zip(self.price_out)?;
        Some(TokenPrices { prompts, replies })
    }
}

/// Tokens and money of the replies.
#[derive(Debug, Clone, Copy, Serialize)]
struct JudgeCost {
    /// Tokens of all replies.
    tokens: TokenUsage,
    /// Tokens of the replies of this run, of one that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_of_this_run: Option<TokenUsage>,
    /// Price of all replies, if prices are given.
    money: Option<f64>,
    /// Whether tokens and price are lower bounds: the service does not say the tokens of some replies.
    is_lower_bound: bool,
}

/// Report, as `--json` prints it.
#[derive(Serialize)]
struct JudgeReport<'a> {
    #[serde(flatten)]
    table: &'a JudgeTable,
    published: &'a [PublishedResult],
    /// Cause that no published result compares.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_comparable: Option<&'a str>,
    /// Number of published results that are left out, by cause.
    left_out: &'a BTreeMap<String, usize>,
    cost: JudgeCost,
}

impl JudgeReportArgs {
    /// Reads the description of the benchmark.
    fn benchmark(&self) -> anyhow::Result<Option<BenchmarkSpec>> {
        Ok(self.benchmark.as_deref().map(read_benchmark).transpose()?)
    }

    /// Checks the flags before requests are paid for.
    ///
    /// # Errors
    /// An invalid description; answers in the directory of an evaluation of another benchmark or split.
    pub(super) fn check(&self, answers: &Path) -> anyhow::Result<()> {
        let Some(benchmark) = self.benchmark()? else { return Ok(()) };
        let dir = answers.parent().unwrap_or(Path::new(""));
        if dir.join(EVALUATION).is_file() {
            let BenchmarkSpec { name, split, .. } = EvaluationRecord::read(dir)?.spec;
            if (&name, &split) != (&benchmark.name, &benchmark.split) {
                let (other, of) = (&benchmark.name, &benchmark.split);
                let error = Error::invalid(format!("answers of {name}, {split}, and --benchmark is {other}, {of}"));
                return Err(error.about(answers).into());
            }
        }
        Ok(())
    }

    /// Prints the report.
    ///
    /// # Errors
    /// When the description of the benchmark cannot be read, or a question that was sent has no single reply.
    pub(super) fn print(&self, judged: &[JudgedAnswer], tokens_of_this_run: Option<TokenUsage>) -> anyhow::Result<()> {
        let table = JudgeTable::new(judged);
        let is_lower_bound = table.tokens.unknown_replies > 0;
        let cost = JudgeCost { tokens: table.tokens, tokens_of_this_run, money: table.price, is_lower_bound };
        let benchmark = self.benchmark()?;
        let compared = benchmark.as_ref().map(|benchmark| table.comparable(benchmark, judged)).unwrap_or_default();
        if let Some(obstacle) = &compared.obstacle {
            output::note(&format!("no published result compares: {obstacle}"));
        } else if let Some(left_out) = compared.shown_left_out() {
            output::note(&left_out);
        }
        warn_of_several_models(judged);
        if self.json {
            let not_comparable = compared.obstacle.as_deref();
            let (published, left_out) = (&compared.published, &compared.left_out);
            output::json(&JudgeReport { table: &table, published, not_comparable, left_out, cost })?;
        } else {
            print_table(&table, &compared.published)?;
            print_cost(cost);
        }
        let JudgeCounts { missing, failed, duplicate, .. } = table.counts;
        let n_failed = missing + failed + duplicate;
        if n_failed > 0 { Err(SomeFailed { n_failed }.into()) } else { Ok(()) }
    }
}

/// Warns of replies by several models, whose mean is not the score of one judge.
fn warn_of_several_models(judged: &[JudgedAnswer]) {
    let mut n_by_model: BTreeMap<&str, usize> = BTreeMap::new();
    for model in judged.iter().filter_map(|answer| answer.judge.model.as_deref()) {
        *n_by_model.entry(model).or_default() += 1;
    }
    if n_by_model.len() > 1 {
        let named: Vec<String> = n_by_model.iter().map(|(model, n)| format!("{model} ({n})")).collect();
        output::warning(&format!("replies of several models, so no score of one judge: {}", named.join(", ")));
    }
}

fn print_table(table: &JudgeTable, published: &[PublishedResult]) -> anyhow::Result<()> {
    output::line(&output::printable(&format!("judge {}", table.identity)))?;
    let metrics: String = table.metrics.iter().map(|name| format!("  {name:<14} {:<14}", "95 %")).collect();
    let text = format!(
        "{:<24} {:>9} {:>6} {:>10} {:>7} {:>6} {:>8} {:>13}{metrics}",
        "type or task", "questions", "judged", "unanswered", "missing", "failed", "unparsed", "contradictory"
    );
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
        let text = format!("published: {model} {} {value:?}{unit} ({split}, {judge}, {source})", metric.name());
        output::line(&output::printable(&text))?;
    }
    Ok(())
}

fn line_of(row: &JudgeRow, table: &JudgeTable) -> String {
    let score = |name: &String| {
        let Some(mean) = row.scores.scores.get(name) else { return String::new() };
        let [value, interval] = table.shown(name, mean);
        format!("  {value:<14} {interval:<14}")
    };
    let scores: String = table.metrics.iter().map(score).collect();
    let JudgeCounts { judged, unanswered, missing, failed, unparsed, duplicate, .. } = row.verdicts;
    let (name, questions) = (output::printable(&row.scores.name), row.scores.questions);
    format!(
        "{name:<24} {questions:>9} {judged:>6} {unanswered:>10} {missing:>7} {failed:>6} {unparsed:>8} {duplicate:>13}{}",
        scores.trim_end()
    )
}

fn print_cost(cost: JudgeCost) {
    let JudgeCost { tokens, tokens_of_this_run: now, money, is_lower_bound } = cost;
    let at_least = if is_lower_bound { "at least " } else { "" };
    let money = money.map(|money| format!("; price {at_least}{money:.4}")).unwrap_or_default();
    let now = now.map(|now| format!(", of which {} and {} in this run", now.prompt_tokens, now.completion_tokens));
    output::note(&format!(
        "tokens: {at_least}{} of prompts and {} of replies{}{money}",
        tokens.prompt_tokens,
        tokens.completion_tokens,
        now.unwrap_or_default()
    ));
    if is_lower_bound {
        let n = tokens.unknown_replies;
        output::warning(&format!("the service does not say the tokens of {n} replies, which are not in these numbers"));
    }
}
