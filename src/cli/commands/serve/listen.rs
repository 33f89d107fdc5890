//! Connections: the address, the loop that accepts them, and their orderly end.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use vidense::error::{About as _, Error};

use super::access::ListenFacts;
use super::watched::WatchedStream;

/// Bytes of the header of a request at most.
const MAX_HEADER: usize = 64 << 10;
/// Pause after an error of the operating system, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections beside those of the requests at once: kept alive, or asking for health and metrics.
const MORE_CONNECTIONS: usize = 256;

/// Bound address.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

/// Connections of a server.
pub struct Connections {
    router: Router,
    graceful: GracefulShutdown,
    places: Arc<Semaphore>,
    read_timeout: Duration,
}

/// Returns the first address of a name with a port.
///
/// # Errors
/// An unknown name.
pub fn address(text: &str) -> Result<SocketAddr, Error> {
    let mut found = text.to_socket_addrs().map_err(|error| {
        let error = Error::invalid(format!("invalid address: {error}")).with_hint("127.0.0.1:8000");
        error.about(format!("--listen {text}"))
    })?;
    found.next().ok_or_else(|| Error::invalid("no address of this name").about(format!("--listen {text}")))
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// When the address is in use or not of this machine.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            std::io::Result::Ok(Self { listener, address })
        };
        bound.await.about(format!("--listen {address}"))
    }

    /// Address, with the port that the system chose for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Facts of the address.
    pub fn facts(&self) -> ListenFacts {
        ListenFacts { is_loopback: self.address.ip().is_loopback() }
    }

    /// Accepts connections, until the future is dropped.
    pub async fn accept(&self, connections: &Connections) {
        loop {
            let Ok(place) = connections.places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let serving = connections.serve(stream);
                    tokio::spawn(async move {
                        let _place = place;
                        serving.await;
                    });
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

impl Connections {
    /// Makes the connections of a router, with room for `max_requests` at once.
    pub fn new(router: Router, max_requests: usize, read_timeout: Duration) -> Self {
        let n_places = max_requests.saturating_add(MORE_CONNECTIONS).min(Semaphore::MAX_PERMITS);
        Self { router, graceful: GracefulShutdown::new(), places: Arc::new(Semaphore::new(n_places)), read_timeout }
    }

    fn serve(&self, stream: TcpStream) -> impl Future<Output = ()> + Send + use<> {
        // Events of a stream are small, and each is to arrive at once.
        let _ = stream.set_nodelay(true);
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.read_timeout).max_buf_size(MAX_HEADER);
        let stream = WatchedStream::new(stream, self.read_timeout);
        let service = TowerToHyperService::new(self.router.clone());
        let connection = self.graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        async move {
            // A client that breaks off, or sends what is not HTTP.
            let _ = connection.await;
        }
    }

    /// Ends idle connections, and waits for the others.
    pub async fn close(self, limit: Duration) {
        let _ = timeout(limit, self.graceful.shutdown()).await;
    }
}
