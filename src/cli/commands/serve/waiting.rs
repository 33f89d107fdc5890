//! Waiting of handlers: until a deadline, until the server gives up its requests, until the client goes away. Work on
//! another thread learns from a flag that its client has gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::{Instant, timeout_at};
use vidense::serve::api::{ApiError, ErrorStatus};

use super::reply::refused;
use super::state::ServerState;

/// Waits for work, until the server gives up its requests.
///
/// # Errors
/// Those of the work; [`ErrorStatus::Unavailable`].
pub async fn until_abort<T>(
    state: &ServerState,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    tokio::select! {
        biased;
        outcome = work => outcome,
        () = state.aborted() => Err(ending()),
    }
}

/// Waits for work as [`until_abort`], at most until a deadline.
///
/// # Errors
/// As [`until_abort`]; [`ErrorStatus::Timeout`].
pub async fn until<T>(
    state: &ServerState,
    deadline: Instant,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    timeout_at(deadline, until_abort(state, work)).await.unwrap_or_else(|_| Err(over_time(state)))
}

/// Runs work on a thread that may block.
///
/// # Errors
/// Those of the work; [`ErrorStatus::Internal`] for a panic, whose message is on standard error.
pub async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let defect = |_| ApiError::new(ErrorStatus::Internal, "a defect of the server");
    tokio::task::spawn_blocking(work).await.map_err(defect)?
}

/// Makes the error of a request that the end of the server gives up.
pub fn ending() -> ApiError {
    ApiError::new(ErrorStatus::Unavailable, "the server is ending")
}

/// Makes the error of an answer that took too long.
pub fn over_time(state: &ServerState) -> ApiError {
    let limit = humantime::format_duration(state.limits.request_timeout);
    refused(
        ErrorStatus::Timeout,
        format!("the answer took longer than the limit of {limit}"),
        "--request-timeout of the server",
    )
}

/// Guard of a handler that waits, which sets a flag when it is dropped: nobody waits any more.
#[derive(Debug, Default)]
pub struct GoneGuard(Arc<AtomicBool>);

impl GoneGuard {
    /// Returns the flag.
    pub fn flag(&self) -> GoneFlag {
        GoneFlag(self.0.clone())
    }
}

impl Drop for GoneGuard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Flag of a [`GoneGuard`].
#[derive(Debug, Clone)]
pub struct GoneFlag(Arc<AtomicBool>);

impl GoneFlag {
    /// Returns whether nobody waits any more.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
