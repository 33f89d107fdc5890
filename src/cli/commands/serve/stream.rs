//! Streamed answers: server-sent events as OpenAI sends them, with comments while nothing else is to be said.
//!
//! The status waits for the first event of the job, or for the first comment: a request that fails at once has the
//! status of its error. Later errors are events.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, interval_at, sleep, sleep_until};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use vidense::serve::api::{ApiError, CompletionChunk};
use vidense::serve::service::JobEvent;

use super::chat::{ReplyContext, TimedAnswer, count, details};
use super::job::OwnedJob;
use super::pace::AnswerPace;
use super::reply::{HttpError, with_type};
use super::waiting::over_time;

/// Events that wait for a slow client.
const CAPACITY: usize = 16;
/// Comment that keeps a connection open.
const KEEP_ALIVE: &str = ": keep-alive\n\n";
/// End of every stream.
const END: &str = "data: [DONE]\n\n";

/// Client that has gone away.
struct ClientGone;

/// Stream of an answer.
struct EventStream {
    events: Sender<String>,
    context: ReplyContext,
    /// Whether the end is counted: as an answer or as a failure, which a client that then leaves does not change.
    is_counted: bool,
}

/// Responds with a stream.
///
/// # Errors
/// A failure before the first event.
pub async fn respond(mut job: OwnedJob, context: ReplyContext) -> Result<Response, HttpError> {
    let comment = sleep(context.state.limits.keep_alive);
    tokio::pin!(comment);
    let first = loop {
        tokio::select! {
            event = job.next() => match event {
                JobEvent::Encoded { .. } => {}
                JobEvent::Done(Err(error)) => return Err(error.into()),
                event => break Some(event),
            },
            () = &mut comment => break None,
            () = sleep_until(context.deadline) => return Err(over_time(&context.state).into()),
        }
    };
    let (events, sent) = channel(CAPACITY);
    let stream = EventStream { events, context, is_counted: false };
    tokio::spawn(stream.run(job, first));
    Ok(response(sent))
}

fn response(events: Receiver<String>) -> Response {
    let events = ReceiverStream::new(events).map(|event| Ok::<_, Infallible>(Bytes::from(event)));
    let mut response = with_type(StatusCode::OK, "text/event-stream; charset=utf-8", Body::from_stream(events));
    // nginx would collect the events.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl EventStream {
    /// Sends the events of a job until its end, or until the client goes away, which cancels the job.
    async fn run(mut self, job: OwnedJob, first: Option<JobEvent>) {
        if self.send_all(job, first).await.is_err() {
            self.context.log.set_gone();
            if !self.is_counted {
                self.context.state.metrics.cancelled();
            }
        }
    }

    async fn send_all(&mut self, mut job: OwnedJob, first: Option<JobEvent>) -> Result<(), ClientGone> {
        let mut pace = AnswerPace::new(self.context.log.begin_time());
        let every = self.context.state.limits.keep_alive;
        let mut comments = interval_at(Instant::now() + every, every);
        let is_late = first.is_none();
        self.send_chunk(self.context.head.first_chunk()).await?;
        if is_late {
            self.send(KEEP_ALIVE.to_owned()).await?;
        }
        let mut next = first;
        loop {
            let event = match next.take() {
                Some(event) => event,
                None => tokio::select! {
                    event = job.next() => event,
                    _ = comments.tick() => {
                        self.send(KEEP_ALIVE.to_owned()).await?;
                        continue;
                    }
                    () = self.events.closed() => return Err(ClientGone),
                    () = sleep_until(self.context.deadline) => {
                        return self.fail(over_time(&self.context.state)).await;
                    }
                },
            };
            let time = job.event_time();
            match event {
                JobEvent::Encoded { .. } | JobEvent::Prefilling => continue,
                JobEvent::Text(text) => {
                    pace.text(&self.context.state, time);
                    if !text.is_empty() {
                        self.send_chunk(self.context.head.text_chunk(text)).await?;
                        comments.reset();
                    }
                }
                JobEvent::Done(Err(error)) => return self.fail(error.into()).await,
                JobEvent::Done(Ok(done)) => {
                    count(&self.context.state, &self.context.log, TimedAnswer { answer: &done, end: time });
                    self.is_counted = true;
                    self.send_chunk(self.context.head.last_chunk(&done.answer, details(&done))).await?;
                    if self.context.include_usage {
                        self.send_data(&self.context.head.usage_chunk(&done.answer)).await?;
                    }
                    return self.send(END.to_owned()).await;
                }
            }
        }
    }

    async fn send_chunk(&self, chunk: CompletionChunk) -> Result<(), ClientGone> {
        let chunk = if self.context.include_usage { chunk.before_usage() } else { chunk };
        self.send_data(&chunk).await
    }

    async fn send_data(&self, data: &impl Serialize) -> Result<(), ClientGone> {
        // JSON without control characters, and therefore without line breaks.
        let Ok(data) = serde_json::to_string(data) else { return Err(ClientGone) };
        self.send(format!("data: {data}\n\n")).await
    }

    async fn send(&self, event: String) -> Result<(), ClientGone> {
        tokio::select! {
            // What a client has room for is sent after the deadline too: the error that names it.
            biased;
            sent = self.events.send(event) => sent.map_err(|_| ClientGone),
            // A client that does not read.
            () = sleep_until(self.context.deadline) => Err(ClientGone),
        }
    }

    async fn fail(&mut self, error: ApiError) -> Result<(), ClientGone> {
        self.context.log.set_error(&error);
        self.context.state.metrics.failed(error.status);
        self.is_counted = true;
        self.send_data(&error.body()).await?;
        self.send(END.to_owned()).await
    }
}
