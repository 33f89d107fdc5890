//! `vidense eval judge recount`: scores of judged answers by the replies that they keep.

use std::path::PathBuf;

use clap::Args;
use vidense::eval::judge::{open_judge, read_judged, recount};

use super::report::JudgeReportArgs;
use super::write_judged;
use crate::cli::output;

/// Score judged answers again by their kept replies
///
/// Nothing is asked. Verdicts and scores are computed again from the replies that the file keeps, and nothing else of
/// the file changes. Answers of another judge, prompt, temperature, highest score or other settings are refused.
#[derive(Args)]
pub(super) struct RecountJudged {
    /// Judged answers
    judged: PathBuf,
    /// Judge: the name of a built-in one, or its description (.yaml) [default: the name in the file]
    #[arg(long, value_name = "JUDGE")]
    judge: Option<String>,
    /// File of judged answers with the new scores, which may be the same one [default: scores are only printed]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    report: JudgeReportArgs,
}

impl RecountJudged {
    /// Runs the command.
    ///
    /// # Errors
    /// When a file cannot be read or written, an answer is of another judge, or a request has no single reply.
    pub(super) fn run(self) -> anyhow::Result<()> {
        self.report.check(&self.judged)?;
        let mut judged = read_judged(&self.judged)?;
        let named = judged.first().map(|answer| answer.judge.name.clone()).unwrap_or_default();
        let judge = open_judge(self.judge.as_deref().unwrap_or(&named))?;
        let n_changed = recount(&judge, &mut judged)?;
        if let Some(out) = &self.out {
            write_judged(out, &judged)?;
        }
        output::note(&format!("{n_changed} of {} judgements changed", judged.len()));
        self.report.print(&judged, None)
    }
}
