//! Life of a server: bound, loading, serving, draining after a signal, ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::keys::ApiKeys;
use super::listen::{Connections, Listener};
use super::router;
use super::state::{ReadyServer, RequestLimits, ServerState};
use crate::cli::output;

/// Time that requests have to end after they were given up: at most a step of the engine and of a reading.
const AFTER_ABORT: Duration = Duration::from_secs(10);
/// Time that connections have to send their last bytes.
const LAST_BYTES: Duration = Duration::from_secs(2);
/// Time between two searches for expired uploads.
const EXPIRY_CHECK: Duration = Duration::from_secs(60);
/// Exit code after a second signal.
const STOPPED: i32 = 1;

/// Server that is not bound.
pub struct HttpServer {
    /// Address to listen on.
    pub address: SocketAddr,
    /// API keys.
    pub keys: ApiKeys,
    /// Limits of requests.
    pub limits: RequestLimits,
    /// Time that requests in progress have after a signal.
    pub grace: Duration,
}

/// Signals that end a server.
struct EndSignals([Signal; 3]);

impl EndSignals {
    fn new() -> std::io::Result<Self> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [terminate, interrupt, hangup] = kinds.map(signal);
        Ok(Self([terminate?, interrupt?, hangup?]))
    }

    async fn next(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

impl HttpServer {
    /// Runs the server until a signal ends it. `open` loads the model, on a thread of its own.
    ///
    /// # Errors
    /// When the address is not bound, or the model not loaded.
    pub fn run(self, open: impl FnOnce() -> anyhow::Result<ReadyServer> + Send + 'static) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let outcome = runtime.block_on(self.serve(open));
        runtime.shutdown_timeout(LAST_BYTES);
        outcome
    }

    async fn serve(self, open: impl FnOnce() -> anyhow::Result<ReadyServer> + Send + 'static) -> anyhow::Result<()> {
        let mut signals = EndSignals::new()?;
        let listener = Listener::bind(self.address).await?;
        let (max_requests, read_timeout) = (self.limits.max_requests, self.limits.body.read_timeout);
        let state = Arc::new(ServerState::new(self.limits, self.keys, listener.facts()));
        let connections = Connections::new(router(&state), max_requests, read_timeout);
        output::listening(&format!("listening on http://{}", listener.address()));
        let (sender, mut opened) = oneshot::channel();
        std::thread::Builder::new().name("loading".to_owned()).spawn(move || {
            let _ = sender.send(open());
        })?;
        let mut is_loading = true;
        let mut expiry = tokio::time::interval(EXPIRY_CHECK);
        loop {
            tokio::select! {
                () = listener.accept(&connections) => {}
                ready = &mut opened, if is_loading => {
                    is_loading = false;
                    let ready = ready??;
                    output::note(&format!("ready: {}", ready.names.join(", ")));
                    state.set_ready(ready);
                }
                _ = expiry.tick() => {
                    let state = state.clone();
                    tokio::task::spawn_blocking(move || {
                        state.loaded().inspect(|ready| ready.media.scratch().expire());
                    });
                }
                () = signals.next() => break,
            }
        }
        state.drain();
        tokio::select! {
            () = end(&state, self.grace, listener, connections) => Ok(()),
            () = signals.next() => std::process::exit(STOPPED),
        }
    }
}

/// Finishes the requests in progress within `grace`, gives up the others, and closes the connections. New requests are
/// answered with 503 until the end.
async fn end(state: &Arc<ServerState>, grace: Duration, listener: Listener, connections: Connections) {
    output::note("finishing the requests in progress; a second signal ends at once");
    let finished = async {
        if timeout(grace, state.wait_idle()).await.is_err() {
            state.abort();
            let ending = state.clone();
            let drained = tokio::task::spawn_blocking(move || {
                ending.loaded().inspect(|ready| ready.service.drain(Duration::ZERO));
            });
            let _ = drained.await;
            let _ = timeout(AFTER_ABORT, state.wait_idle()).await;
        }
    };
    tokio::select! {
        () = finished => {}
        () = listener.accept(&connections) => {}
    }
    drop(listener);
    connections.close(LAST_BYTES).await;
}
