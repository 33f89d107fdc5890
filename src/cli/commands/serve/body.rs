//! Bodies of requests: limited in bytes, in the memory of all together, and in the time without progress.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::StreamExt as _;
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

/// Time that a body waits for the memory of others.
const MEMORY_WAIT: Duration = Duration::from_secs(5);

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

/// Memory of bodies, which is taken for bytes that have arrived: a client that sends nothing has none.
#[derive(Debug, Clone)]
pub struct BodyMemory {
    units: Arc<Semaphore>,
    /// Time that a body waits for the memory of others.
    wait: Duration,
}

impl BodyMemory {
    /// Makes the memory of two bodies of the largest size, each with its parsed copy.
    pub fn for_bodies_of(max_bytes: u64) -> Self {
        let units = usize::try_from(max_bytes.saturating_mul(2) / UNIT).unwrap_or(usize::MAX);
        let units = Arc::new(Semaphore::new(units.clamp(LEAST_UNITS, Semaphore::MAX_PERMITS)));
        Self { units, wait: MEMORY_WAIT }
    }

    /// Takes memory for the first `n_bytes` of a body, as soon as there is room.
    ///
    /// # Errors
    /// [`ErrorStatus::Unavailable`] while other bodies take the memory for too long.
    async fn extend(&self, share: &mut BodyShare, n_bytes: u64) -> Result<(), ApiError> {
        let Some(missing) = n_bytes.checked_sub(share.n_bytes).filter(|missing| *missing > 0) else { return Ok(()) };
        let units = missing.div_ceil(UNIT);
        let more = self.units.clone().acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX));
        let Ok(Ok(more)) = timeout(self.wait, more).await else {
            let rule = "the bodies of other requests take the memory";
            return Err(refused(ErrorStatus::Unavailable, rule, "try again later"));
        };
        match &mut share.permit {
            Some(permit) => permit.merge(more),
            None => share.permit = Some(more),
        }
        share.n_bytes += units * UNIT;
        Ok(())
    }
}

/// Share of a body in the memory of all.
#[derive(Debug, Default)]
struct BodyShare {
    n_bytes: u64,
    permit: Option<OwnedSemaphorePermit>,
}

/// A body in memory. Its memory is free for others when it is dropped.
pub struct HeldBody {
    /// Bytes of the body.
    pub bytes: Vec<u8>,
    memory: BodyShare,
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

    /// Makes the error of a large body, whose rest is passed over.
    async fn refuse_large(&mut self) -> ApiError {
        self.pass_over().await;
        let rule = format!("the body is over the limit of {} bytes", self.limits.max_bytes);
        refused(ErrorStatus::TooLarge, rule, "--max-body of the server")
    }

    /// Passes over the rest of a refused body, as far as it comes quickly: a client that is still sending when the
    /// connection closes may never see the response.
    async fn pass_over(&mut self) {
        let deadline = Instant::now() + LINGER;
        let mut left = if self.waits_for_consent { 0 } else { LINGER_BYTES };
        while left > 0
            && let Ok(Some(Ok(piece))) = timeout_at(deadline, self.pieces.next()).await
        {
            left = left.saturating_sub(piece.len());
        }
    }

    /// Moves the deadlines by a time in which the body was not read.
    fn postpone(&mut self, time: Duration) {
        self.deadline += time;
        self.end += time;
    }
}

/// Reads a whole body into memory.
///
/// # Errors
/// As [`BodyReader::next`], and [`ErrorStatus::Unavailable`] while other bodies take the memory.
pub async fn read_whole(headers: &HeaderMap, body: Body, limits: &BodyLimits) -> Result<HeldBody, ApiError> {
    let mut reader = BodyReader::open(headers, body, limits);
    let mut held = HeldBody { bytes: Vec::new(), memory: BodyShare::default() };
    while let Some(piece) = reader.next().await? {
        let begin = Instant::now();
        if let Err(error) = limits.memory.extend(&mut held.memory, reader.n_bytes).await {
            drop((held, piece));
            reader.pass_over().await;
            return Err(error);
        }
        reader.postpone(begin.elapsed());
        held.bytes.extend_from_slice(&piece);
    }
    Ok(held)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn limits() -> BodyLimits {
        let memory = BodyMemory { wait: Duration::from_millis(20), ..BodyMemory::for_bodies_of(1 << 20) };
        BodyLimits { max_bytes: 1 << 20, read_timeout: Duration::from_secs(600), memory }
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
    }

    #[test]
    fn memory_is_taken_for_bytes_that_have_arrived() {
        let (limits, mut headers) = (limits(), HeaderMap::new());
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(1_u64 << 20));
        let n_free = || limits.memory.units.available_permits();
        run(async {
            let silent = Body::from_stream(tokio_stream::pending::<Result<Bytes, std::io::Error>>());
            let reading = read_whole(&headers, silent, &limits);
            assert!(timeout(Duration::from_millis(20), reading).await.is_err());
            let begun = tokio_stream::once(Ok::<_, std::io::Error>(Bytes::from_static(&[0; 1500])));
            let reading = read_whole(&headers, Body::from_stream(begun.chain(tokio_stream::pending())), &limits);
            tokio::pin!(reading);
            assert!(timeout(Duration::from_millis(20), &mut reading).await.is_err());
            // 1500 bytes are two units of 1024.
            assert_eq!(n_free(), LEAST_UNITS - 2);
        });
        assert_eq!(n_free(), LEAST_UNITS);
    }

    #[test]
    fn a_body_without_memory_is_refused_after_a_while() {
        let limits = limits();
        let all = limits.memory.units.clone().try_acquire_many_owned(LEAST_UNITS as u32).expect("nobody has any");
        let error = run(read_whole(&HeaderMap::new(), Body::from("{}"), &limits)).err().expect("no memory");
        assert_eq!(error.status, ErrorStatus::Unavailable);
        assert!(error.status.retry_after().is_some());
        drop(all);
        let held = run(read_whole(&HeaderMap::new(), Body::from("{}"), &limits)).unwrap_or_else(|_| panic!("memory"));
        assert_eq!(held.bytes, b"{}");
    }
}
