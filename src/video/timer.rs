//! Timer of a reading: enforces the limits of `limits` from within FFmpeg's calls, and keeps the consumer's time apart.
//!
//! FFmpeg's interrupt callback calls [`ReadTimer::is_over`]: a call is given up when the time is over, when it waits
//! for data for too long, or when the [`super::Halt`] of the consumer is exhausted.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::error;
use super::limits::{Bounds, ReadLimits};
use super::request::{Flow, ReadEvent};
use crate::error::{Error, Kind};

/// Time that FFmpeg has to return once a call is to be given up.
const GRACE: Duration = Duration::from_secs(1);

/// Reason why a reading was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopReason {
    Time,
    Stall,
    Halt,
}

/// Time that a reading has taken, and its limits.
#[derive(Debug)]
pub(super) struct ReadTimer {
    begin: Instant,
    /// Limits, replaced when the reading of a scan begins.
    bounds: RwLock<Bounds>,
    /// Nanoseconds spent by the consumer.
    consumer_time: AtomicU64,
    /// Nanoseconds from `begin` to the start of the current call.
    call: AtomicU64,
    /// Whether a call of FFmpeg that may wait for data is in progress.
    is_inside: AtomicBool,
    /// Nanoseconds from `begin` to the first observation of the current call over its limit; 0 before that.
    seen_over: AtomicU64,
    /// Reason, set once FFmpeg was told to give up: an end of file after that is not one.
    given_up: OnceLock<StopReason>,
}

impl ReadTimer {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            begin: Instant::now(),
            bounds: RwLock::new(bounds),
            consumer_time: AtomicU64::new(0),
            call: AtomicU64::new(0),
            is_inside: AtomicBool::new(false),
            seen_over: AtomicU64::new(0),
            given_up: OnceLock::new(),
        })
    }

    pub(super) fn limits(&self) -> ReadLimits {
        self.with_bounds(|bounds| bounds.limits)
    }

    fn with_bounds<R>(&self, ask: impl FnOnce(&Bounds) -> R) -> R {
        ask(&self.bounds.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Resumes with other bounds after a pause that does not count.
    pub(super) fn resume(&self, bounds: Bounds, pause: Duration) {
        *self.bounds.write().unwrap_or_else(PoisonError::into_inner) = bounds;
        self.consumer_time.fetch_add(nanoseconds(pause), Ordering::Relaxed);
        self.begin_call();
    }

    /// Time without the consumer's.
    pub(super) fn worked(&self) -> Duration {
        self.since(&self.consumer_time)
    }

    /// Marks the start of a call that may wait for data.
    pub(super) fn begin_call(&self) {
        self.call.store(nanoseconds(self.begin.elapsed()), Ordering::Relaxed);
    }

    /// Marks the start of a call that lasts until the returned guard is dropped.
    pub(super) fn enter(&self) -> OngoingCall<'_> {
        self.begin_call();
        self.seen_over.store(0, Ordering::SeqCst);
        self.is_inside.store(true, Ordering::SeqCst);
        OngoingCall(self)
    }

    /// Returns the error of a call in progress that has been over its limit for a while; called by other threads.
    pub(super) fn stuck(&self, path: &Path) -> Option<Error> {
        let reason = self.reason().filter(|_| self.is_inside.load(Ordering::SeqCst))?;
        let now = nanoseconds(self.begin.elapsed());
        let seen = self.seen_over.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst).err()?;
        (now.saturating_sub(seen) > nanoseconds(GRACE)).then(|| self.error(reason, path))
    }

    /// Returns whether the current call is to be given up; called by FFmpeg's interrupt callback.
    pub(super) fn is_over(&self) -> bool {
        if let Some(reason) = self.reason() {
            self.given_up.get_or_init(|| reason);
        }
        self.given_up.get().is_some()
    }

    fn reason(&self) -> Option<StopReason> {
        let in_call = self.since(&self.call);
        if self.with_bounds(|bounds| bounds.halt.gives_up(in_call)) {
            Some(StopReason::Halt)
        } else if self.is_time_over() {
            Some(StopReason::Time)
        } else {
            (in_call > self.limits().stall).then_some(StopReason::Stall)
        }
    }

    fn is_time_over(&self) -> bool {
        self.limits().time.is_some_and(|limit| self.worked() > limit)
    }

    fn since(&self, nanoseconds: &AtomicU64) -> Duration {
        self.begin.elapsed().saturating_sub(Duration::from_nanos(nanoseconds.load(Ordering::Relaxed)))
    }

    /// Checks that no call was given up and the time is not over. A slow frame is not a stall; a wait of FFmpeg is.
    pub(super) fn check(&self, path: &Path) -> Result<(), Error> {
        let reason = self.given_up.get().copied().or_else(|| self.is_time_over().then_some(StopReason::Time));
        reason.map_or(Ok(()), |reason| Err(self.error(reason, path)))
    }

    fn error(&self, reason: StopReason, path: &Path) -> Error {
        let limits = self.limits();
        match reason {
            StopReason::Halt => error::halted(path),
            StopReason::Stall => {
                let rule = format!("reading stalled: no data for {} s", limits.stall.as_secs_f64());
                Error::new(Kind::Stall, rule).with_hint(error::LONGER_STALL_LIMIT).about(path)
            }
            StopReason::Time => error::time_limit(path, limits.time.unwrap_or_default()),
        }
    }
}

/// Guard of a call of FFmpeg in progress.
#[must_use = "the call ends where this is dropped"]
pub(super) struct OngoingCall<'s>(&'s ReadTimer);

impl Drop for OngoingCall<'_> {
    fn drop(&mut self) {
        self.0.is_inside.store(false, Ordering::SeqCst);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Callback of a reading's consumer, with the limits and the timer of the reading.
pub(super) struct ReadWatch<'e> {
    pub(super) limits: ReadLimits,
    pub(super) timer: Arc<ReadTimer>,
    emit: &'e mut dyn FnMut(ReadEvent) -> Flow,
}

impl<'e> ReadWatch<'e> {
    pub(super) fn new(bounds: Bounds, emit: &'e mut dyn FnMut(ReadEvent) -> Flow) -> Self {
        Self { limits: bounds.limits, timer: ReadTimer::new(bounds), emit }
    }

    /// Resumes a paused reading, for another consumer and with other bounds.
    pub(super) fn resume(
        timer: Arc<ReadTimer>,
        pause: Duration,
        bounds: Bounds,
        emit: &'e mut dyn FnMut(ReadEvent) -> Flow,
    ) -> Self {
        let limits = bounds.limits;
        timer.resume(bounds, pause);
        Self { limits, timer, emit }
    }

    /// Emits an event to the consumer, whose time does not count.
    pub(super) fn emit(&mut self, event: ReadEvent) -> Flow {
        let start = Instant::now();
        let flow = (self.emit)(event);
        self.timer.consumer_time.fetch_add(nanoseconds(start.elapsed()), Ordering::Relaxed);
        self.timer.begin_call();
        flow
    }

    /// Checks that the time is not over.
    pub(super) fn check(&self, path: &Path) -> Result<(), Error> {
        self.timer.check(path)
    }
}

#[cfg(test)]
#[path = "timer_tests.rs"]
mod tests;
