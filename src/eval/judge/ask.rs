//! Asking a judge: requests to an OpenAI-compatible service, several at a time, with retries, logged as replies come.
//!
//! A failed request fails alone. The run ends early if the address is refused, or if 20 requests in a row fail, as they
//! do with a wrong key. The first stop signal lets requests under way finish; the second ends them.

use std::time::Duration;

use serde_json::{Value, json};

use super::replies::{ReplyLine, ReplyResponse, TokenUsage, reply_of};
use super::reply_log::ReplyLog;
use super::requests::JudgeRequest;
use super::retry::{RetryPolicy, SharedPause, is_transient_kind, is_transient_status, wait};
use crate::error::{Error, Kind, Result};
use crate::exec::{self, Inlet, Outlet, RunControl, StageConfig, Stop, Threads};
use crate::fetch::{Fetcher, PostReply, PostRequest};

/// Path of chat completions below the address of a service.
const COMPLETIONS: &str = "/chat/completions";
/// Number of failed requests in a row that ends a run.
const MAX_FAILED_IN_ROW: usize = 20;

/// An OpenAI-compatible service.
#[derive(Clone)]
pub struct JudgeService<'a> {
    /// Client with its allowed hosts and limits.
    pub fetcher: &'a Fetcher,
    /// Address: `https://api.openai.com/v1`, with or without `/chat/completions`.
    pub endpoint: &'a str,
    /// Key.
    pub key: Option<&'a str>,
    /// Number of requests at a time.
    pub n_concurrent: Threads,
    /// Retries.
    pub retry: RetryPolicy,
}

/// Event of a run.
#[derive(Debug)]
pub enum AskEvent<'a> {
    /// A reply was logged.
    Replied,
    /// A request failed for good; it is asked again by the next run.
    Failed {
        /// Id of the request.
        custom_id: &'a str,
        /// Cause.
        cause: &'a str,
    },
    /// A request is sent again after a wait.
    Waiting {
        /// Waiting time.
        time: Duration,
        /// Cause.
        cause: &'a str,
    },
}

/// Outcome of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AskReport {
    /// Number of requests that had a reply before.
    pub n_kept: usize,
    /// Number of requests with a reply of this run.
    pub n_replied: usize,
    /// Number of failed requests.
    pub n_failed: usize,
    /// Number of requests that were not asked, because the run was stopped.
    pub n_left: usize,
    /// Tokens of this run's replies.
    pub usage: TokenUsage,
    /// Cause of an early end other than the stop signal.
    pub ended_by: Option<String>,
}

/// A request of a run.
struct OpenRequest<'r> {
    custom_id: &'r str,
    body: &'r str,
    hash: &'r str,
}

/// Message of a worker.
enum AskStep {
    Waiting {
        time: Duration,
        cause: String,
    },
    Done(ReplyLine),
    /// The run drains.
    Stopped,
    /// No request can succeed.
    Refused(Error),
}

/// Outcome of one attempt.
enum Attempt {
    Replied(ReplyResponse),
    Failed(FailedAttempt),
}

/// Failure of one attempt.
struct FailedAttempt {
    cause: String,
    response: Option<ReplyResponse>,
    retry_after: Option<Duration>,
    is_transient: bool,
}

/// Sends the requests that have no reply in the log, given with their bodies.
///
/// # Errors
/// A refused or invalid address; a log that cannot be written.
pub fn ask_judge(
    service: &JudgeService<'_>,
    requests: &[(&JudgeRequest, String)],
    log: &mut ReplyLog,
    stop: &Stop,
    on_event: &mut dyn FnMut(AskEvent<'_>),
) -> Result<AskReport> {
    let url = service.url();
    service.fetcher.check_post(PostRequest { url: &url, json: "", key: service.key })?;
    let open =
        requests.iter().map(|(request, body)| OpenRequest { custom_id: &request.custom_id, body, hash: &request.hash });
    let open: Vec<OpenRequest<'_>> = open.filter(|request| !log.has_reply(request.custom_id, request.hash)).collect();
    let worker = JudgeWorker { service, url, pause: SharedPause::default() };
    let mut logger = ReplyLogger { log, stop, on_event, report: AskReport::default(), n_failed_in_row: 0 };
    logger.report.n_kept = requests.len() - open.len();
    let (logged, _) = exec::run(&RunControl::until(stop), |scope| {
        let requests = scope.source("requests", 1, |outlet| {
            for request in &open {
                if outlet.is_draining() || outlet.send(request).is_err() {
                    return;
                }
            }
        });
        let config = StageConfig::new("judge", service.n_concurrent, service.n_concurrent.get());
        let steps = scope.stage(config, requests, |inlet, outlet| worker.run(inlet, outlet));
        scope.here("log", steps, |inlet| logger.run(inlet))
    })?;
    logged?;
    let mut report = logger.report;
    report.n_left = open.len() - report.n_replied - report.n_failed;
    Ok(report)
}

impl JudgeService<'_> {
    fn url(&self) -> String {
        let (base, query) = self.endpoint.split_at(self.endpoint.find('?').unwrap_or(self.endpoint.len()));
        let base = base.trim_end_matches('/');
        let path = if base.ends_with(COMPLETIONS) { "" } else { COMPLETIONS };
        format!("{base}{path}{query}")
    }
}

/// Sender of requests, shared by the threads of a run.
struct JudgeWorker<'s> {
    service: &'s JudgeService<'s>,
    url: String,
    pause: SharedPause,
}

impl JudgeWorker<'_> {
    fn run(&self, inlet: &Inlet<&OpenRequest<'_>>, outlet: &Outlet<AskStep>) {
        while let Some(request) = inlet.recv() {
            let step = self.ask(request, outlet);
            if outlet.send(step).is_err() {
                return;
            }
        }
    }

    /// Sends a request until it has a reply or fails for good.
    fn ask(&self, request: &OpenRequest<'_>, outlet: &Outlet<AskStep>) -> AskStep {
        let stop = outlet.stop();
        let line = |response, error| ReplyLine {
            custom_id: request.custom_id.to_owned(),
            request: Some(request.hash.to_owned()),
            response,
            error,
        };
        for n_tried in 0.. {
            if !self.pause.pass(stop) {
                break;
            }
            let failed = match self.attempt(request, stop) {
                Ok(Attempt::Replied(response)) => return AskStep::Done(line(Some(response), None)),
                Ok(Attempt::Failed(failed)) => failed,
                Err(error) if error.kind() == Kind::Halted => break,
                Err(error) => return AskStep::Refused(error),
            };
            let FailedAttempt { cause, response, retry_after, is_transient } = failed;
            let time = self.service.retry.wait(n_tried, retry_after).filter(|_| is_transient);
            let Some(time) = time else {
                return AskStep::Done(line(response, Some(json!({ "message": cause }))));
            };
            if outlet.send(AskStep::Waiting { time, cause }).is_err() {
                break;
            }
            if retry_after.is_some() {
                self.pause.extend(time);
            } else if !wait(time, stop) {
                break;
            }
        }
        AskStep::Stopped
    }

    /// Sends a request once. An error is one of every request: a refused address, or a stopped run.
    fn attempt(&self, request: &OpenRequest<'_>, stop: &Stop) -> Result<Attempt> {
        let post = PostRequest { url: &self.url, json: request.body, key: self.service.key };
        match self.service.fetcher.post(post, &|| stop.is_aborted()) {
            Ok(reply) => Ok(response_of(&reply)),
            Err(error) if matches!(error.kind(), Kind::Refused | Kind::Invalid | Kind::Halted) => Err(error),
            Err(error) => Ok(Attempt::Failed(FailedAttempt {
                cause: error.to_string(),
                response: None,
                retry_after: None,
                is_transient: is_transient_kind(error.kind()),
            })),
        }
    }
}

/// Returns the response with a reply, or its failure.
fn response_of(reply: &PostReply) -> Attempt {
    let body: Option<Value> = serde_json::from_slice(&reply.body).ok();
    let is_json = body.is_some();
    let response = ReplyResponse { status_code: reply.status, body: body.unwrap_or_default() };
    let Err(cause) = reply_of(response.status_code, &response.body) else {
        return Attempt::Replied(response);
    };
    // A success without a reply is a fault of the service.
    let is_transient = reply.status == 200 || is_transient_status(reply.status);
    let cause = if reply.status == 200 && !is_json { "a response that is not JSON".to_owned() } else { cause };
    Attempt::Failed(FailedAttempt { cause, response: Some(response), retry_after: reply.retry_after, is_transient })
}

/// Writer of replies, on the caller's thread.
struct ReplyLogger<'l> {
    log: &'l mut ReplyLog,
    stop: &'l Stop,
    on_event: &'l mut dyn FnMut(AskEvent<'_>),
    report: AskReport,
    n_failed_in_row: usize,
}

impl ReplyLogger<'_> {
    fn run(&mut self, inlet: &Inlet<AskStep>) -> Result<()> {
        while let Some(step) = inlet.recv() {
            let added = match step {
                AskStep::Waiting { time, cause } => {
                    (self.on_event)(AskEvent::Waiting { time, cause: &cause });
                    Ok(())
                }
                AskStep::Done(line) => self.add(line),
                AskStep::Stopped => Ok(()),
                AskStep::Refused(error) => Err(error),
            };
            if added.is_err() {
                self.stop.abort();
                return added;
            }
        }
        Ok(())
    }

    fn add(&mut self, line: ReplyLine) -> Result<()> {
        match line.outcome() {
            Ok(reply) => {
                self.report.n_replied += 1;
                self.report.usage += reply.usage;
                self.n_failed_in_row = 0;
                (self.on_event)(AskEvent::Replied);
            }
            Err(cause) => {
                self.report.n_failed += 1;
                self.n_failed_in_row += 1;
                (self.on_event)(AskEvent::Failed { custom_id: &line.custom_id, cause: &cause });
                if self.n_failed_in_row >= MAX_FAILED_IN_ROW && self.report.ended_by.is_none() {
                    self.report.ended_by = Some(format!("{MAX_FAILED_IN_ROW} requests in a row failed: {cause}"));
                    self.stop.drain();
                }
            }
        }
        self.log.append(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::FetchPolicy;

    #[test]
    fn the_address_of_completions_keeps_its_query() {
        let fetcher = Fetcher::new(FetchPolicy::default());
        let retry = RetryPolicy { n_retries: 0, first_wait: Duration::ZERO, max_wait: Duration::ZERO };
        let url =
            |endpoint| JudgeService { fetcher: &fetcher, endpoint, key: None, n_concurrent: Threads::MIN, retry }.url();
        assert_eq!(url("https://a.org/v1/"), "https://a.org/v1/chat/completions");
        assert_eq!(url("https://a.org/v1/chat/completions"), "https://a.org/v1/chat/completions");
        assert_eq!(url("https://a.org/d/m?api-version=1"), "https://a.org/d/m/chat/completions?api-version=1");
    }
}
