//! From a body to a running job: parsed, its media resolved, its prompt checked against the budget, on a thread that
//! may wait; then its events. A client that goes away cancels the job, wherever it is.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use vidense::error::{Error, Kind};
use vidense::serve::api::{ApiError, ChatCall};
use vidense::serve::media::ResolveContext;
use vidense::serve::service::{ChatJob, JobEvent, JobId, JobListener, Service};

use super::body::HeldBody;
use super::pace::AnswerPace;
use super::state::ServerState;
use super::waiting::{GoneFlag, GoneGuard, ending, on_thread};

/// Bytes of a body up to which it is parsed without another thread: handing it over takes as long.
const PARSED_AT_ONCE: usize = 64 << 10;

/// Job of the service, cancelled when it is dropped before its end.
pub struct OwnedJob {
    service: Arc<Service>,
    id: JobId,
    events: UnboundedReceiver<TimedEvent>,
    /// Time of the event that was returned last.
    last: Instant,
    is_done: bool,
}

/// Event with its time: a client that reads slowly does not change it.
struct TimedEvent {
    event: JobEvent,
    time: Instant,
}

impl TimedEvent {
    fn now(event: JobEvent) -> Self {
        Self { event, time: Instant::now() }
    }
}

/// Job with what the client wants to hear of it.
pub struct PreparedJob {
    /// Job.
    pub job: OwnedJob,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a stream ends with the token counts.
    pub include_usage: bool,
}

impl OwnedJob {
    /// Waits for the next event; after the last one the end is repeated as an error.
    pub async fn next(&mut self) -> JobEvent {
        let lost = || JobEvent::Done(Err(Error::new(Kind::Defect, "the answer was lost by a defect of the server")));
        let TimedEvent { event, time } = self.events.recv().await.unwrap_or_else(|| TimedEvent::now(lost()));
        self.is_done |= matches!(event, JobEvent::Done(_));
        self.last = time;
        event
    }

    /// Time at which the event that was returned last happened.
    pub fn event_time(&self) -> Instant {
        self.last
    }
}

impl Drop for OwnedJob {
    fn drop(&mut self) {
        if !self.is_done {
            self.service.cancel(self.id);
        }
    }
}

/// Body of a request that began at a time.
pub struct TimedBody {
    /// Body.
    pub body: HeldBody,
    /// Begin of the request.
    pub begin: Instant,
}

/// Body that was parsed. The memory of its bytes counts until the media are resolved.
struct ParsedBody {
    call: ChatCall,
    body: TimedBody,
}

/// Starts the job of a body.
///
/// # Errors
/// Those of [`ChatCall::parse`], of the media, of the budget, and of a full queue.
pub async fn start(state: &Arc<ServerState>, scope: String, body: TimedBody) -> Result<PreparedJob, ApiError> {
    let parsed = if body.body.bytes.len() <= PARSED_AT_ONCE {
        parse(state, body)?
    } else {
        let server = state.clone();
        on_thread(move || parse(&server, body)).await?
    };
    let place = state.enter_resolving(&parsed.call.media).await;
    let guard = GoneGuard::default();
    let (state, is_gone) = (state.clone(), guard.flag());
    on_thread(move || {
        let _place = place;
        prepare(&state, &scope, parsed, is_gone)
    })
    .await
}

/// Returns the listener of a streamed answer.
fn sending(events: UnboundedSender<TimedEvent>) -> JobListener {
    Box::new(move |event| drop(events.send(TimedEvent::now(event))))
}

/// Returns the listener of a whole answer, which sends its end alone: each event that is sent wakes the task that waits
/// for it. The times of texts are counted as they come.
fn sending_the_end(events: UnboundedSender<TimedEvent>, state: Arc<ServerState>, begin: Instant) -> JobListener {
    let mut pace = AnswerPace::new(begin);
    Box::new(move |event| match event {
        JobEvent::Encoded { .. } | JobEvent::Prefilling => {}
        JobEvent::Text(_) => pace.text(&state, Instant::now()),
        JobEvent::Done(_) => drop(events.send(TimedEvent::now(event))),
    })
}

fn parse(state: &ServerState, body: TimedBody) -> Result<ParsedBody, ApiError> {
    // A request that came before the end of the server is finished.
    let ready = state.loaded().ok_or_else(ending)?;
    let call = ChatCall::parse(&body.body.bytes, &ready.service.model().plan)?;
    call.check_model(&ready.names)?;
    Ok(ParsedBody { call, body })
}

fn prepare(
    state: &Arc<ServerState>,
    scope: &str,
    parsed: ParsedBody,
    is_gone: GoneFlag,
) -> Result<PreparedJob, ApiError> {
    let ready = state.loaded().ok_or_else(ending)?;
    let service = &ready.service;
    let ParsedBody { call: ChatCall { system, turns, media, options, stream, include_usage, .. }, body } = parsed;
    let server = state.clone();
    let context = ResolveContext {
        scope,
        halt: Arc::new(move || is_gone.is_set() || server.is_aborted()),
        known: &|key| service.known(key),
    };
    let media = ready.media.resolve_all(media, &context)?;
    let TimedBody { body, begin } = body;
    drop(body);
    // Not more than the text of one streamed answer waits in the channel.
    let (sender, events) = unbounded_channel();
    let listener = if stream { sending(sender) } else { sending_the_end(sender, state.clone(), begin) };
    let id = service.submit(ChatJob { system, turns, media, options, listener })?;
    let job = OwnedJob { service: service.clone(), id, events, last: Instant::now(), is_done: false };
    Ok(PreparedJob { job, stream, include_usage })
}
