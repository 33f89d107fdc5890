//! One HTTP request on a thread of its own, whose caller waits no longer than its deadline.
//!
//! A look-up of a name cannot be interrupted, so the thread is detached: it ends with the request, which its caller's
//! end interrupts. Redirects are not followed here, and nothing about a request outlives it: no connection, no cookie,
//! no proxy of the environment. Called by [`Fetcher`](super::Fetcher) for each hop.

use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ureq::config::Config;
use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::unversioned::transport::{Connector as _, RustlsConnector, TcpConnector};
use ureq::{Agent, Body};

use super::resolve::{AddressRule, PinnedAddresses, Resolve, resolve};
use super::transfer_error::{of_transfer, time_limit};
use super::url::FetchUrl;
use crate::error::{Error, Kind, Result};
use crate::guard::guarded;

/// Interval at which a waiting caller checks whether to stop.
const HALT_CHECK: Duration = Duration::from_millis(50);
/// Number of bytes of a chunk of a body.
const CHUNK: usize = 64 << 10;
/// Number of chunks that are read ahead.
const N_AHEAD: usize = 4;
/// Maximum number of bytes of a content type that is passed on.
const MAX_CONTENT_TYPE: usize = 200;
/// Name of this program in requests.
const USER_AGENT: &str = concat!("vidense/", env!("CARGO_PKG_VERSION"));

/// Deadline of a download, and the condition that stops it earlier.
pub(super) struct FetchClock<'h> {
    /// Time limit of the whole download.
    pub(super) limit: Duration,
    started: Instant,
    halt: &'h dyn Fn() -> bool,
}

impl<'h> FetchClock<'h> {
    /// Starts the clock.
    pub(super) fn start(limit: Duration, halt: &'h dyn Fn() -> bool) -> Self {
        Self { limit, started: Instant::now(), halt }
    }

    /// Returns the remaining time.
    ///
    /// # Errors
    /// [`Kind::TimeLimit`] if none is left, [`Kind::Halted`] if the caller stops.
    pub(super) fn remaining(&self) -> Result<Duration> {
        if (self.halt)() {
            return Err(Error::new(Kind::Halted, "the download was stopped"));
        }
        let left = self.limit.checked_sub(self.started.elapsed()).filter(|left| !left.is_zero());
        left.ok_or_else(|| time_limit(self.limit))
    }
}

/// Method of a request, with its content.
pub(super) enum RequestMethod {
    Get,
    /// A JSON text, and the key of the `Authorization` header.
    Post {
        json: Vec<u8>,
        key: Option<String>,
    },
}

/// Request of a hop.
pub(super) struct HopRequest {
    pub(super) url: FetchUrl,
    pub(super) method: RequestMethod,
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) admits: AddressRule,
    /// Remaining time of the download.
    pub(super) time: Duration,
    /// Time limit of the whole download, for messages.
    pub(super) limit: Duration,
}

/// Step of a request. A body ends with an event of its own: a closed channel is a defect.
pub(super) enum ExchangeEvent {
    /// Status and headers.
    Head(ResponseHead),
    /// Bytes of the body.
    Chunk(Vec<u8>),
    /// End of the body.
    End,
}

/// Status and headers of a response.
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    /// Number of bytes that the server declares.
    pub(super) length: Option<u64>,
    /// Content type, if it is short and in ASCII.
    pub(super) content_type: Option<String>,
    headers: HeaderMap,
}

impl ResponseHead {
    /// Target of a redirect: `None` for any other status.
    ///
    /// # Errors
    /// [`Kind::Fetch`] for a redirect without a target in ASCII.
    pub(super) fn location(&self) -> Result<Option<&str>> {
        if !matches!(self.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let location = self.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        location.map(Some).ok_or_else(|| Error::new(Kind::Fetch, "a redirect without a valid target"))
    }

    /// Returns the value of a header, if it is in ASCII.
    pub(super) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Checks that the response is the content as it is.
    ///
    /// # Errors
    /// [`Kind::Fetch`] for any other status than 200, and for encoded content, which was not asked for.
    pub(super) fn check(&self) -> Result<()> {
        if self.status != StatusCode::OK {
            return Err(Error::new(Kind::Fetch, format!("the server answered with status {}", self.status.as_u16())));
        }
        self.check_encoding()
    }

    /// Checks that the content is not encoded.
    ///
    /// # Errors
    /// [`Kind::Fetch`] for encoded content, which was not asked for.
    pub(super) fn check_encoding(&self) -> Result<()> {
        let encoding = self.headers.get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Error::new(Kind::Fetch, "the server compressed the content, which was not asked for"));
        }
        Ok(())
    }
}

/// HTTP client of a request, shared by its thread and its caller.
#[derive(Default)]
enum RequestClient {
    /// The addresses of the host are not known yet.
    #[default]
    Resolving,
    /// The request may be under way.
    Requesting(Agent),
    /// The caller is gone.
    Over,
}

/// A request under way, which ends when it is dropped.
pub(super) struct Exchange<'c> {
    clock: &'c FetchClock<'c>,
    events: Receiver<Result<ExchangeEvent>>,
    client: Arc<Mutex<RequestClient>>,
}

impl<'c> Exchange<'c> {
    /// Starts a request.
    ///
    /// # Errors
    /// [`Kind::Fetch`] when no thread can be started.
    pub(super) fn start(request: HopRequest, clock: &'c FetchClock<'c>) -> Result<Self> {
        let (sender, events) = bounded(N_AHEAD);
        let client: Arc<Mutex<RequestClient>> = Arc::default();
        let shared = client.clone();
        let run = move || {
            let outcome = guarded(|| perform(&request, &shared, &sender));
            let failure = match outcome {
                Some(Ok(())) => return,
                Some(Err(error)) => error,
                None => Error::new(Kind::Fetch, "the server's response broke the HTTP library"),
            };
            // The caller may be gone.
            drop(sender.send(Err(failure)));
        };
        let started = std::thread::Builder::new().name("fetch".to_owned()).spawn(run);
        started.map_err(|cause| Error::caused_by(Kind::Fetch, cause).about("no thread for a download"))?;
        Ok(Self { clock, events, client })
    }

    /// Waits for the head of the response.
    ///
    /// # Errors
    /// The failure of the request; those of [`FetchClock::remaining`].
    pub(super) fn head(&self) -> Result<ResponseHead> {
        match self.next()? {
            ExchangeEvent::Head(head) => Ok(head),
            ExchangeEvent::Chunk(_) | ExchangeEvent::End => Err(ended()),
        }
    }

    /// Waits for the next bytes of the body; `None` at its end.
    ///
    /// # Errors
    /// As [`Exchange::head`].
    pub(super) fn chunk(&self) -> Result<Option<Vec<u8>>> {
        match self.next()? {
            ExchangeEvent::Chunk(bytes) => Ok(Some(bytes)),
            ExchangeEvent::End => Ok(None),
            ExchangeEvent::Head(_) => Err(ended()),
        }
    }

    fn next(&self) -> Result<ExchangeEvent> {
        loop {
            let wait = self.clock.remaining()?.min(HALT_CHECK);
            match self.events.recv_timeout(wait) {
                Ok(event) => return event,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
            }
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if let RequestClient::Requesting(agent) = std::mem::replace(&mut *lock(&self.client), RequestClient::Over) {
            agent.shutdown();
        }
    }
}

fn lock(client: &Mutex<RequestClient>) -> MutexGuard<'_, RequestClient> {
    client.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ended() -> Error {
    Error::new(Kind::Fetch, "the download ended unexpectedly")
}

/// Performs a request, and sends its events. A caller that is gone ends it without an error.
fn perform(request: &HopRequest, client: &Mutex<RequestClient>, events: &Sender<Result<ExchangeEvent>>) -> Result<()> {
    let failed = |cause: ureq::Error| of_transfer(cause, request.limit);
    let addresses = resolve(&request.url, &*request.resolver, request.admits)?;
    let agent = agent(addresses, request.time);
    match &mut *lock(client) {
        RequestClient::Over => return Ok(()),
        shared => *shared = RequestClient::Requesting(agent.clone()),
    }
    let response = send(&agent, request).map_err(failed)?;
    let (parts, body) = response.into_parts();
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let head = ResponseHead {
        status: parts.status,
        length: body.content_length(),
        content_type: content_type.filter(|text| text.len() <= MAX_CONTENT_TYPE).map(str::to_owned),
        headers: parts.headers,
    };
    if events.send(Ok(ExchangeEvent::Head(head))).is_err() {
        return Ok(());
    }
    let mut reader = body.into_reader();
    loop {
        let mut bytes = vec![0; CHUNK];
        let n_read = reader.read(&mut bytes).map_err(|cause| failed(ureq::Error::from(cause)))?;
        bytes.truncate(n_read);
        let event = if n_read == 0 { ExchangeEvent::End } else { ExchangeEvent::Chunk(bytes) };
        if events.send(Ok(event)).is_err() || n_read == 0 {
            return Ok(());
        }
    }
}

fn send(agent: &Agent, request: &HopRequest) -> Result<Response<Body>, ureq::Error> {
    let url = request.url.to_string();
    match &request.method {
        RequestMethod::Get => agent.get(url).call(),
        RequestMethod::Post { json, key } => {
            let mut post = agent.post(url).content_type("application/json");
            if let Some(key) = key {
                post = post.header(header::AUTHORIZATION, format!("Bearer {key}"));
            }
            post.send(&json[..])
        }
    }
}

/// Returns a client for one request to the checked addresses.
fn agent(addresses: PinnedAddresses, time: Duration) -> Agent {
    let config = Config::builder()
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .timeout_global(Some(time))
        .max_idle_connections(0)
        .user_agent(USER_AGENT)
        .accept("*/*")
        .accept_encoding("identity")
        .build();
    let connector = ().chain(TcpConnector::default()).chain(RustlsConnector::default());
    Agent::with_parts(config, connector, addresses)
}

/// Returns the error of a content of more bytes than the limit.
pub(super) fn too_large(n_bytes: u64, limit: u64) -> Error {
    let size = |n_bytes| ByteSize::b(n_bytes).display().iec().to_string();
    Error::new(Kind::TooLarge, format!("at least {}, over the limit of {} for a download", size(n_bytes), size(limit)))
}
