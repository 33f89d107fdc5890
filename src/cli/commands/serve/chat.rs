//! `POST /v1/chat/completions`: a whole answer as one object. Streams are in `stream`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use vidense::serve::api::{ApiError, CompletionHead, ErrorStatus, RequestTimings, Usage, VidenseDetails};
use vidense::serve::service::{JobAnswer, JobEvent};

use super::access::AdmittedRequest;
use super::body::read_whole;
use super::job::{OwnedJob, PreparedJob, TimedBody, start};
use super::log::RequestLog;
use super::reply::{HttpError, json, refused};
use super::state::ServerState;
use super::stream;
use super::waiting::{over_time, until};

/// State, limits and names of an answer, beside its job.
pub struct ReplyContext {
    /// State of the server.
    pub state: Arc<ServerState>,
    /// Line of the log.
    pub log: Arc<RequestLog>,
    /// Whether a stream ends with the token counts.
    pub include_usage: bool,
    /// Members of every chunk.
    pub head: CompletionHead,
    /// Time at which the answer is given up.
    pub deadline: Instant,
    /// Place among the requests at once.
    pub _place: OwnedSemaphorePermit,
}

/// Answers a chat completion.
///
/// # Errors
/// Every error before the first byte of the answer, with its status.
pub async fn complete(
    State(state): State<Arc<ServerState>>,
    Extension(admitted): Extension<AdmittedRequest>,
    request: axum::extract::Request,
) -> Result<Response, HttpError> {
    let AdmittedRequest { caller, id, log } = admitted;
    // In this order: a server that ends has no free place either.
    let model = state.ready()?.names.first().cloned().unwrap_or_default();
    let place = state.enter()?;
    let deadline = Instant::from_std(log.begin_time()) + state.limits.request_timeout;
    let (parts, body) = request.into_parts();
    check_content_type(&parts.headers)?;
    let begin = log.begin_time();
    let started = async {
        let body = read_whole(&parts.headers, body, &state.limits.body).await?;
        start(&state, caller.scope, TimedBody { body, begin }).await
    };
    let PreparedJob { job, stream, include_usage } = until(&state, deadline, started).await?;
    let head = CompletionHead { id: format!("chatcmpl-{}", id.0), created: now(), model };
    let context = ReplyContext { state, log, include_usage, head, deadline, _place: place };
    if stream { stream::respond(job, context).await } else { whole(job, context).await }
}

/// Checks that the body is JSON: a form of another site's page is not.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(refused(ErrorStatus::UnsupportedMediaType, "the body is not JSON", "Content-Type: application/json"))
}

async fn whole(mut job: OwnedJob, context: ReplyContext) -> Result<Response, HttpError> {
    let ReplyContext { state, log, head, deadline, _place, .. } = context;
    loop {
        let event = timeout_at(deadline, job.next()).await;
        match event.map_err(|_| over_time(&state))? {
            // The listener of a whole answer sends its end alone.
            JobEvent::Encoded { .. } | JobEvent::Prefilling | JobEvent::Text(_) => {}
            JobEvent::Done(outcome) => {
                let done = outcome?;
                count(&state, &log, TimedAnswer { answer: &done, end: job.event_time() });
                let details = details(&done);
                return Ok(json(StatusCode::OK, &head.completion(&done.answer, details)));
            }
        }
    }
}

/// Answer with the time of its end.
pub struct TimedAnswer<'a> {
    /// Answer.
    pub answer: &'a JobAnswer,
    /// Time of its end.
    pub end: std::time::Instant,
}

/// Counts an answer in metrics and in the log.
pub fn count(state: &ServerState, log: &RequestLog, done: TimedAnswer<'_>) {
    let TimedAnswer { answer, end } = done;
    state.metrics.answered(answer, end - log.begin_time());
    log.set_usage(Usage::of(&answer.answer));
}

/// Returns the members of our own.
pub fn details(done: &JobAnswer) -> VidenseDetails {
    let JobAnswer { answer, media, times, warnings } = done;
    let ms = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let spent = |medium: &vidense::serve::service::MediaUse| medium.timings.decode + medium.timings.encode;
    let encode: std::time::Duration = media.iter().filter(|medium| !medium.is_cached).map(spent).sum();
    let timings_ms = RequestTimings {
        queued: ms((times.media + times.first_token).saturating_sub(encode + answer.prefill)),
        encode: ms(encode),
        prefill: ms(answer.prefill),
        generate: ms(answer.generate),
        total: ms(times.total),
    };
    VidenseDetails {
        frames: media.iter().map(|medium| medium.frames.clone()).collect(),
        timings_ms,
        warnings: warnings.iter().chain(media.iter().flat_map(|medium| &medium.warnings)).cloned().collect(),
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    seconds_since_1970(SystemTime::now())
}

/// Seconds from 1970 until a time.
pub fn seconds_since_1970(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
