//! State that the handlers share: limits, keys, counters, and the service once its model is loaded.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use vidense::pipeline::Limits;
use vidense::serve::api::{ApiError, ErrorStatus};
use vidense::serve::media::{MediaPart, MediaResolver};
use vidense::serve::metrics::ServeMetrics;
use vidense::serve::service::Service;
use vidense::video::worker::Isolation;

use super::access::ListenFacts;
use super::body::BodyLimits;
use super::keys::ApiKeys;
use super::waiting::ending;

/// Requests whose media are read at once.
const MAX_RESOLVING: usize = 32;
/// Requests whose media are fetched from other hosts at once.
const MAX_FETCHING: usize = 32;
/// Uploads whose frames are read at once, for people to see.
const MAX_FRAME_READINGS: usize = 2;

/// Limits of the requests of all clients.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    /// Limits of bodies.
    pub body: BodyLimits,
    /// Requests at once, each until the end of its response.
    pub max_requests: usize,
    /// Time of a whole answer.
    pub request_timeout: Duration,
    /// Time between two signs of life in a stream.
    pub keep_alive: Duration,
}

/// Phase of a server's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ServerPhase {
    Serving,
    /// No new requests; those in progress are finished.
    Draining,
    /// Requests in progress are given up.
    Aborted,
}

/// State of a server.
pub struct ServerState {
    /// Limits.
    pub limits: RequestLimits,
    /// API keys.
    pub keys: ApiKeys,
    /// Address.
    pub listen: ListenFacts,
    /// Counters.
    pub metrics: ServeMetrics,
    requests: Arc<Semaphore>,
    resolving: Arc<Semaphore>,
    fetching: Arc<Semaphore>,
    frame_readings: Arc<Semaphore>,
    ready: OnceLock<ReadyServer>,
    phase: watch::Sender<ServerPhase>,
}

/// Service with a loaded model.
pub struct ReadyServer {
    /// Service.
    pub service: Arc<Service>,
    /// Resolver of media.
    pub media: Arc<MediaResolver>,
    /// Names of the model; the first is that of responses.
    pub names: Vec<String>,
    /// Time of loading, in seconds since 1970.
    pub created: u64,
    /// Isolation of the frames that the page shows.
    pub isolation: Isolation,
    /// Limits of reading them.
    pub limits: Limits,
}

impl ServerState {
    /// Makes the state of a server whose model is not loaded.
    pub fn new(limits: RequestLimits, keys: ApiKeys, listen: ListenFacts) -> Self {
        let requests = Arc::new(Semaphore::new(limits.max_requests));
        Self {
            limits,
            keys,
            listen,
            metrics: ServeMetrics::default(),
            requests,
            resolving: Arc::new(Semaphore::new(MAX_RESOLVING)),
            fetching: Arc::new(Semaphore::new(MAX_FETCHING)),
            frame_readings: Arc::new(Semaphore::new(MAX_FRAME_READINGS)),
            ready: OnceLock::new(),
            phase: watch::Sender::new(ServerPhase::Serving),
        }
    }

    /// Opens the server for requests.
    pub fn set_ready(&self, ready: ReadyServer) {
        let _ = self.ready.set(ready);
    }

    /// Returns the service.
    ///
    /// # Errors
    /// [`ErrorStatus::Unavailable`] while the model is loading, and while the server ends.
    pub fn ready(&self) -> Result<&ReadyServer, ApiError> {
        if self.is_draining() {
            return Err(ending());
        }
        self.loaded().ok_or_else(|| ApiError::new(ErrorStatus::Unavailable, "the model is loading"))
    }

    /// Returns the service, also while the server ends.
    pub fn loaded(&self) -> Option<&ReadyServer> {
        self.ready.get()
    }

    /// Takes the place of a request among those at once.
    ///
    /// # Errors
    /// [`ErrorStatus::TooManyRequests`].
    pub fn enter(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.requests.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{} requests at once, the limit; hint: try again later", self.limits.max_requests);
            ApiError::new(ErrorStatus::TooManyRequests, message)
        })
    }

    /// Waits for the place of a request whose media are read. Slow hosts keep only those waiting that ask for files of
    /// other hosts; a request without media needs no place.
    pub async fn enter_resolving(&self, media: &[MediaPart]) -> Option<OwnedSemaphorePermit> {
        if media.is_empty() {
            return None;
        }
        let places = if media.iter().any(MediaPart::is_remote) { &self.fetching } else { &self.resolving };
        // The places are never closed.
        places.clone().acquire_owned().await.ok()
    }

    /// Waits for the place of a request whose frames are read for people to see.
    pub async fn enter_frame_reading(&self) -> Option<OwnedSemaphorePermit> {
        self.frame_readings.clone().acquire_owned().await.ok()
    }

    /// Waits until no request is in progress.
    pub async fn wait_idle(&self) {
        let all = u32::try_from(self.limits.max_requests).unwrap_or(u32::MAX);
        let _ = self.requests.acquire_many(all).await;
    }

    /// Refuses new requests from now on.
    pub fn drain(&self) {
        self.enter_phase(ServerPhase::Draining);
    }

    /// Gives up the requests in progress.
    pub fn abort(&self) {
        self.enter_phase(ServerPhase::Aborted);
    }

    fn enter_phase(&self, phase: ServerPhase) {
        self.phase.send_modify(|own| *own = phase.max(*own));
    }

    /// Returns whether new requests are refused.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= ServerPhase::Draining
    }

    /// Returns whether requests in progress are given up.
    pub fn is_aborted(&self) -> bool {
        *self.phase.borrow() >= ServerPhase::Aborted
    }

    /// Waits until requests in progress are given up.
    pub async fn aborted(&self) {
        // The sender lives as long as the state.
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= ServerPhase::Aborted).await;
    }
}
