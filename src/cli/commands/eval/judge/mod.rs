//! `vidense eval judge`: scores of open answers by a language model, over a service or its batches.

mod ask;
mod batch;
mod recount;
mod report;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use vidense::error::{About as _, Error};
use vidense::eval::judge::{JUDGES, JudgeSpec, JudgedAnswer, evaluation_of};
use vidense::eval::report::write as write_report;
use vidense::files::Durability;
use vidense::files::output::{create_directory, replace};

use self::ask::AskJudge;
use self::batch::{ReadReplies, WriteRequests};
use self::recount::RecountJudged;
use crate::cli::output;

/// Score open answers by a language model
///
/// Papers score open answers by a judge: a language model that is given the question, the reference and the answer.
/// `request` writes a batch for an OpenAI-compatible service and `read` joins its replies; `ask` sends the requests
/// itself. Built-in judges: video-chatgpt-qa (yes or no and a score, for MSVD-QA, MSRVTT-QA, TGIF-QA, ActivityNet-QA),
/// those of VCG-Bench, video-chatgpt-correctness, -detail, -context, -temporal and -consistency (a score),
/// tempcompass-captioning (an option), and mlvu-sub-scene and mlvu-summary (two scores). A question without an answer,
/// and a reply that is missing, failed, contradictory or not understood, counts as wrong. Scores that are written into
/// the directory of an evaluation are part of its report.
#[derive(Args)]
pub(super) struct JudgeCommand {
    #[command(subcommand)]
    subcommand: JudgeSubcommand,
}

#[derive(Subcommand)]
enum JudgeSubcommand {
    Request(WriteRequests),
    Read(ReadReplies),
    Ask(Box<AskJudge>),
    Recount(RecountJudged),
}

/// Answers and their judge.
#[derive(Args)]
struct JudgeInput {
    /// Answers with scores: a file that `eval BENCHMARK.yaml --answers` wrote
    scored: PathBuf,
    /// Judge: the name of a built-in one, or its description (.yaml)
    #[arg(long, value_name = "JUDGE")]
    judge: String,
}

impl JudgeInput {
    /// Returns the directory of a judge's scores beside the answers.
    fn directory(&self, judge: &JudgeSpec) -> PathBuf {
        self.scored.parent().unwrap_or(Path::new("")).join(JUDGES).join(&judge.name)
    }
}

impl JudgeCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When a file cannot be read or written, or a question has no verdict.
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self.subcommand {
            JudgeSubcommand::Request(request) => request.run(),
            JudgeSubcommand::Read(read) => read.run(),
            JudgeSubcommand::Ask(ask) => ask.run(),
            JudgeSubcommand::Recount(recount) => recount.run(),
        }
    }
}

/// Writes lines to a file.
fn write_lines(path: &Path, lines: &[String]) -> anyhow::Result<()> {
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    Ok(replace(path, text.as_bytes(), Durability::Synced).about(path)?)
}

/// Writes a file of judged answers, and the report of the evaluation whose directory it is in.
fn write_judged(path: &Path, judged: &[JudgedAnswer]) -> anyhow::Result<()> {
    let lines = judged.iter().map(serde_json::to_string).collect::<Result<Vec<String>, _>>()?;
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        create_directory(dir).about(dir)?;
    }
    write_lines(path, &lines)?;
    let Some(evaluation) = evaluation_of(path) else { return Ok(()) };
    // The scores are written: they are printed, whatever becomes of the report.
    match write_report(&evaluation) {
        Ok(page) => output::note(&format!("{}: the report has the judged scores", page.display())),
        Err(error) => output::warning(&format!("the report is not written: {error}")),
    }
    Ok(())
}

fn price(text: &str) -> Result<f64, Error> {
    let price = text.parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0);
    price.ok_or_else(|| Error::invalid("expected an amount of money, such as 0.50"))
}
