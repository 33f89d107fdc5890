//! Bodies of requests: limited in bytes, in the memory of all together, and in the time without progress.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_stream::{Stream, StreamExt as _};
use vidense::serve::api::{ApiError, ErrorStatus};

use super::reply::refused;

/// Bytes that must arrive within the time limit of a read, else the client counts as too slow.
const PROGRESS: usize = 64 << 10;
/// Bytes a second that a body must have on the whole, so that slow clients do not take the memory from others.
const LEAST_RATE: u64 = 256 << 10;
/// Bytes of one unit of the shared memory.
const UNIT: u64 = 1 << 10;
/// Units of the shared memory at least.
const LEAST_UNITS: usize = 4096;

/// Time and bytes of the rest of a refused body that are passed over.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;

/// Limits of bodies.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// Bytes of a body at most.
    pub max_bytes: u64,
    /// Time in which [`PROGRESS`] bytes or the end must arrive.
    pub read_timeout: Duration,
    /// Memory of the bodies of all requests.
    pub memory: BodyMemory,
}

impl BodyLimits {
    /// Returns the time that a body of a declared length may take, of any length where none is declared.
    fn whole_time(&self, declared: Option<u64>) -> Duration {
        let n_bytes = declared.unwrap_or(self.max_bytes).min(self.max_bytes);
        self.read_timeout + Duration::from_secs(n_bytes / LEAST_RATE)
    }
}

/// Memory of bodies: those that do not fit wait.
#[derive(Debug, Clone)]
pub struct BodyMemory(Arc<Semaphore>);

impl BodyMemory {
    /// Makes the memory of two bodies of the largest size, each with its parsed copy.
    pub fn for_bodies_of(max_bytes: u64) -> Self {
        let units = usize::try_from(max_bytes.saturating_mul(2) / UNIT).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(units.clamp(LEAST_UNITS, Semaphore::MAX_PERMITS))))
    }

    /// Takes the memory of a body of a known length, as soon as there is room.
    async fn reserve(&self, n_bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(n_bytes.div_ceil(UNIT)).ok()?;
        self.0.clone().acquire_many_owned(units).await.ok()
    }

    /// Takes further memory for a body that is in memory in part, and therefore does not wait.
    fn extend(&self, permit: &mut OwnedSemaphorePermit) -> Result<(), ApiError> {
        let more = u32::try_from(PROGRESS as u64 / UNIT).unwrap_or(1);
        let busy =
            |_| refused(ErrorStatus::Unavailable, "the bodies of other requests take the memory", "try again later");
        permit.merge(self.0.clone().try_acquire_many_owned(more).map_err(busy)?);
        Ok(())
    }
}

/// A body in memory. Its memory is free for others when it is dropped.
pub struct HeldBody {
    /// Bytes of the body.
    pub bytes: Vec<u8>,
    _memory: OwnedSemaphorePermit,
}

/// Reader of a body, piece by piece.
pub struct BodyReader {
    pieces: Pin<Box<BodyDataStream>>,
    limits: BodyLimits,
    is_declared_larger: bool,
    /// Whether the client sends nothing until the body is read (`Expect: 100-continue`).
    waits_for_consent: bool,
    n_bytes: u64,
    /// Bytes since the deadline was set.
    n_since: usize,
    deadline: Instant,
    /// Time at which the whole body must have arrived.
    end: Instant,
}

impl BodyReader {
    /// Opens a body.
    pub fn open(headers: &HeaderMap, body: Body, limits: &BodyLimits) -> Self {
        Self {
            pieces: Box::pin(body.into_data_stream()),
            limits: limits.clone(),
            is_declared_larger: content_length(headers).is_some_and(|length| length > limits.max_bytes),
            waits_for_consent: headers.contains_key(header::EXPECT),
            n_bytes: 0,
            n_since: 0,
            deadline: Instant::now() + limits.read_timeout,
            end: Instant::now() + limits.whole_time(content_length(headers)),
        }
    }

    /// Returns the next piece, or `None` at the end.
    ///
    /// # Errors
    /// [`ErrorStatus::TooLarge`], [`ErrorStatus::RequestTimeout`] without progress, [`ErrorStatus::BadRequest`] for a
    /// body that breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        if self.is_declared_larger {
            return Err(self.refuse_large().await);
        }
        let slow = |_| refused(ErrorStatus::RequestTimeout, "the body arrives too slowly", "a faster connection");
        let piece = timeout_at(self.deadline.min(self.end), self.pieces.next()).await.map_err(slow)?;
        let Some(piece) = piece else { return Ok(None) };
        let piece = piece.map_err(|_| ApiError::new(ErrorStatus::BadRequest, "the body breaks off"))?;
        self.n_bytes = self.n_bytes.saturating_add(piece.len() as u64);
        if self.n_bytes > self.limits.max_bytes {
            return Err(self.refuse_large().await);
        }
        self.n_since += piece.len();
        if self.n_since >= PROGRESS {
            (self.n_since, self.deadline) = (0, Instant::now() + self.limits.read_timeout);
        }
        Ok(Some(piece))
    }

    /// Makes the error of a large body. The rest of the body is passed over, as far as it comes quickly: a client that
    /// is still sending when the connection closes may never see the response.
    async fn refuse_large(&mut self) -> ApiError {
        let deadline = Instant::now() + LINGER;
        let mut left = if self.waits_for_consent { 0 } else { LINGER_BYTES };
        while left > 0
            && let Ok(Some(Ok(piece))) = timeout_at(deadline, self.pieces.next()).await
        {
            left = left.saturating_sub(piece.len());
        }
        let rule = format!("the body is over the limit of {} bytes", self.limits.max_bytes);
        refused(ErrorStatus::TooLarge, rule, "--max-body of the server")
    }

    /// Returns the smallest and the largest number of bytes that are left, as far as they are known.
    fn size(&self) -> (usize, Option<usize>) {
        self.pieces.size_hint()
    }
}

/// Reads a whole body into memory.
///
/// # Errors
/// As [`BodyReader::next`], and [`ErrorStatus::Unavailable`] while other bodies take the memory.
pub async fn read_whole(headers: &HeaderMap, body: Body, limits: &BodyLimits) -> Result<HeldBody, ApiError> {
    let mut reader = BodyReader::open(headers, body, limits);
    let declared = content_length(headers).filter(|length| *length <= limits.max_bytes);
    let ended = || ApiError::new(ErrorStatus::Unavailable, "the server is ending");
    let mut memory = limits.memory.reserve(declared.unwrap_or(0)).await.ok_or_else(ended)?;
    // The wait for memory was not the client's.
    (reader.deadline, reader.end) =
        (Instant::now() + limits.read_timeout, Instant::now() + limits.whole_time(content_length(headers)));
    let (least, _) = reader.size();
    let mut bytes = Vec::with_capacity(least.max(usize::try_from(declared.unwrap_or(0)).unwrap_or(0)).min(PROGRESS));
    let mut room = declared.unwrap_or(0);
    while let Some(piece) = reader.next().await? {
        while room < reader.n_bytes {
            limits.memory.extend(&mut memory)?;
            room += PROGRESS as u64;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(HeldBody { bytes, _memory: memory })
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
