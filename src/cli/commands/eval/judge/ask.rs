//! `vidense eval judge ask`: requests to a service, with retries; the same command goes on where it was stopped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use vidense::error::{About as _, Error};
use vidense::eval::judge::{
    AskEvent, AskReport, JUDGED, JudgeOptions, JudgeRequests, JudgeService, JudgeSetup, ReplyLog, RetryPolicy,
    ask_judge, judge_answers, open_judge, price_replies, read_scored,
};
use vidense::exec::{Stop, Threads};
use vidense::fetch::{AllowedHosts, FetchPolicy, Fetcher};

use super::report::{JudgeReportArgs, PriceArgs};
use super::{JudgeInput, write_judged};
use crate::cli::limits::duration;
use crate::cli::{SomeFailed, interrupt, output, progress};

/// Maximum number of bytes of a response.
const MAX_RESPONSE: u64 = 4 << 20;
/// Waiting time before the first retry.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Ask a judge over an OpenAI-compatible service, and print the scores
///
/// Replies are written to DIR/replies.jsonl as they come, and the same command goes on where it was stopped: only
/// requests without a reply are sent, also those that failed. Ctrl-C lets requests under way finish.
#[derive(Args)]
pub(super) struct AskJudge {
    #[command(flatten)]
    input: JudgeInput,
    /// Address of the service: https://api.openai.com/v1, or that of `vidense serve`
    #[arg(long, value_name = "URL")]
    endpoint: String,
    /// Judging model, as the service names it; published results name theirs, such as gpt-3.5-turbo-0125
    #[arg(long, value_name = "NAME")]
    model: String,
    /// File with the key of the service [default: no key is sent]
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Hosts that may be contacted, separated by commas: api.openai.com, judge.example.org:8443. Addresses must be
    /// global, except where localhost or an address of a network is listed itself: localhost:8000, 10.0.0.7:8000
    #[arg(long, value_name = "HOSTS", value_parser = AllowedHosts::with_local)]
    allow_hosts: AllowedHosts,
    /// Directory of the replies and of judged.jsonl [default: judges/JUDGE beside the answers]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Number of requests at a time
    #[arg(long, value_name = "N", default_value = "4")]
    concurrency: Threads,
    /// Time limit of a request
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    timeout: Duration,
    /// Number of retries of a request, after a time limit, a lost connection, or a status 408, 409, 425, 429 or 5xx
    #[arg(long, value_name = "N", default_value = "5")]
    retries: u32,
    /// Maximum wait between retries, which double from one second; a service that asks for a longer one (Retry-After)
    /// is not asked again
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    max_wait: Duration,
    #[command(flatten)]
    prices: PriceArgs,
    #[command(flatten)]
    report: JudgeReportArgs,
}

impl AskJudge {
    /// Runs the command.
    ///
    /// # Errors
    /// When a file cannot be read or written, the address is refused, or a question has no reply.
    pub(super) fn run(self: Box<Self>) -> anyhow::Result<()> {
        let JudgeInput { scored, judge } = &self.input;
        let judge = open_judge(judge)?;
        let out = self.out.clone().unwrap_or_else(|| self.input.directory(&judge));
        self.report.check(scored)?;
        let key = self.api_key_file.as_deref().map(read_key).transpose()?;
        let answers = read_scored(scored)?;
        let requests = JudgeRequests::new(&judge, &answers).about(scored.as_path())?;
        let options = JudgeOptions { model: self.model.clone() };
        let bodies = requests.bodies(&options)?;
        let mut log = ReplyLog::open(&out, &JudgeSetup::new(&judge, &options))?;
        let policy = FetchPolicy {
            hosts: self.allow_hosts.clone(),
            max_bytes: MAX_RESPONSE,
            time: self.timeout,
            ..FetchPolicy::default()
        };
        let service = JudgeService {
            fetcher: &Fetcher::new(policy),
            endpoint: &self.endpoint,
            key: key.as_deref(),
            n_concurrent: self.concurrency,
            retry: RetryPolicy { n_retries: self.retries, first_wait: FIRST_WAIT, max_wait: self.max_wait },
        };
        output::note(&format!("{} requests at temperature {}", bodies.len(), judge.temperature));
        let stop = Stop::new();
        interrupt::stop_on(&stop)?;
        let bar = progress::asking(bodies.len());
        let report = ask_judge(&service, &bodies, &mut log, &stop, &mut |event| match event {
            AskEvent::Replied => bar.inc(1),
            AskEvent::Failed { custom_id, cause } => {
                bar.suspend(|| output::warning(&format!("{custom_id}: {cause}")));
            }
            AskEvent::Waiting { time, cause } => {
                bar.suspend(|| output::note(&format!("waiting {} s: {cause}", time.as_secs_f64())));
            }
        });
        bar.finish_and_clear();
        let report = report?;
        let replies = log.replies(bodies.iter().map(|(request, _)| *request));
        if report.n_left > 0 {
            return self.stopped(&report, bodies.len());
        }
        let mut judged = judge_answers(&judge, &answers, &requests, &replies);
        if let Some(prices) = self.prices.prices() {
            price_replies(&mut judged, prices);
        }
        write_judged(&out.join(JUDGED), &judged)?;
        self.report.print(&judged, Some(report.usage))
    }

    /// Tells how far a stopped run came.
    fn stopped(&self, report: &AskReport, n_requests: usize) -> anyhow::Result<()> {
        let AskReport { n_kept, n_replied, n_failed, n_left, ended_by, .. } = report;
        let cause = ended_by.as_deref().unwrap_or("by a signal");
        let text = format!(
            "stopped: {} of {n_requests} requests have a reply, {n_failed} failed, {n_left} are left; {cause}",
            n_kept + n_replied
        );
        output::warning(&text);
        output::note("the same command goes on");
        Err(SomeFailed { n_failed: n_failed + n_left }.into())
    }
}

/// Reads the key of a service, which no message repeats.
fn read_key(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let key = text.trim();
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    is_key
        .then(|| key.to_owned())
        .ok_or_else(|| Error::invalid("expected one key of printable ASCII characters"))
        .about(path)
}
