//! `vidense eval judge request` and `read`: the requests of a batch, and the join of its replies.

use std::path::{Path, PathBuf};

use clap::Args;
use vidense::error::About as _;
use vidense::eval::judge::{
    BatchLimits, JUDGED, JudgeOptions, JudgeReplies, JudgeRequests, UnjoinedReplies, judge_answers, open_judge,
    price_replies, read_scored,
};
use vidense::files::output::check_not_input;

use super::report::{JudgeReportArgs, PriceArgs};
use super::{JudgeInput, write_judged, write_lines};
use crate::cli::output;

/// Write the requests to a judge as a batch
///
/// One request a line, as OpenAI's batches take them (custom_id, method, url, body): one for each answered question, or
/// for each pair of questions of VCG-Bench's consistency. More than 50,000 requests or 200 MB, OpenAI's limits of a
/// file, are written to several files, FILE-1.jsonl, FILE-2.jsonl and so on for FILE.jsonl.
#[derive(Args)]
pub(super) struct WriteRequests {
    #[command(flatten)]
    input: JudgeInput,
    /// Judging model, as the service names it; published results name theirs, such as gpt-3.5-turbo-0125
    #[arg(long, value_name = "NAME")]
    model: String,
    /// File of requests
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl WriteRequests {
    /// Runs the command.
    ///
    /// # Errors
    /// When a file cannot be read or written, or an answer is not open.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let JudgeInput { scored, judge } = &self.input;
        let judge = open_judge(judge)?;
        check_not_input(&self.out, [scored.as_path()])?;
        let answers = read_scored(scored)?;
        let requests = JudgeRequests::new(&judge, &answers).about(scored.as_path())?;
        let lines = requests.batch_lines(&JudgeOptions { model: self.model })?;
        let files = BatchLimits::OPEN_AI.split(&lines)?;
        for (number, file) in (1..).zip(&files) {
            let path = if files.len() == 1 { self.out.clone() } else { numbered(&self.out, number) };
            check_not_input(&path, [scored.as_path()])?;
            write_lines(&path, file)?;
            if files.len() > 1 {
                output::note(&format!("{}: {} requests", path.display(), file.len()));
            }
        }
        let n_unsent = requests.all.len() - lines.len();
        output::note(&format!(
            "{} requests at temperature {}; {n_unsent} more are not sent, for want of an answer, and count as wrong",
            lines.len(),
            judge.temperature
        ));
        let next = numbered(&self.out, files.len() + 1);
        if files.len() > 1 && next.exists() {
            output::warning(&format!("{}: of another run, whose requests are not these", next.display()));
        }
        Ok(())
    }
}

/// Returns the path of one of several files: `a-1.jsonl` for `a.jsonl`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// Join the replies of a judge with the answers, and print the scores
#[derive(Args)]
pub(super) struct ReadReplies {
    #[command(flatten)]
    input: JudgeInput,
    /// Replies: output and error files of batches, or replies.jsonl of `eval judge ask`
    #[arg(required = true)]
    replies: Vec<PathBuf>,
    /// File of judged answers [default: judges/JUDGE/judged.jsonl beside the answers]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    prices: PriceArgs,
    #[command(flatten)]
    report: JudgeReportArgs,
}

impl ReadReplies {
    /// Runs the command.
    ///
    /// # Errors
    /// When a file cannot be read or written, or a request has no single reply.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let JudgeInput { scored, judge } = &self.input;
        let judge = open_judge(judge)?;
        let out = self.out.clone().unwrap_or_else(|| self.input.directory(&judge).join(JUDGED));
        let inputs = self.replies.iter().map(PathBuf::as_path).chain([scored.as_path()]);
        check_not_input(&out, inputs)?;
        self.report.check(scored)?;
        let answers = read_scored(scored)?;
        let requests = JudgeRequests::new(&judge, &answers).about(scored.as_path())?;
        let replies = JudgeReplies::read(&self.replies, &requests.all)?;
        warn_of(
            &replies.to_other_answers,
            "to requests about other answers of the model, or by another judge's prompt",
        );
        warn_of(&replies.to_other_questions, "to no request of this judge about these questions");
        let mut judged = judge_answers(&judge, &answers, &requests, &replies);
        if let Some(prices) = self.prices.prices() {
            price_replies(&mut judged, prices);
        }
        write_judged(&out, &judged)?;
        self.report.print(&judged, None)
    }
}

/// Warns of replies that are not used.
fn warn_of(unjoined: &UnjoinedReplies, to: &str) {
    let UnjoinedReplies { n, named } = unjoined;
    if *n > 0 {
        output::warning(&format!("{n} replies are {to}, and are not used: {}", named.join(", ")));
    }
}
