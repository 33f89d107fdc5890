//! Counters of a service, shared between its threads and read by metrics and by the check of the queue.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use crate::engine::EngineStats;
use crate::exec::lock;

/// State of a service at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceLoad {
    /// Jobs that are not done.
    pub n_open: usize,
    /// Sequences that the engine runs.
    pub n_running: usize,
    /// Jobs that wait: for their media, for a slot, or for memory.
    pub n_waiting: usize,
    /// Media that are read and encoded, or wait for it.
    pub n_encoding: usize,
    /// Key-value memory in use, in bytes.
    pub kv_bytes: usize,
    /// Encoded media in memory.
    pub n_cached: usize,
    /// Bytes of their visual tokens.
    pub cached_bytes: u64,
    /// Media that jobs asked for.
    pub media_queries: u64,
    /// Media that were found encoded, in memory or on the way.
    pub media_hits: u64,
    /// Frames that were encoded.
    pub n_frames: u64,
    /// Counters of the engine.
    pub engine: EngineStats,
}

/// Counters of a service.
#[derive(Debug, Default)]
pub(super) struct ServiceCounters {
    n_open: AtomicUsize,
    pub(super) n_frames: AtomicU64,
    is_draining: AtomicBool,
    /// State that the engine's thread stored last.
    engine: Mutex<ServiceLoad>,
    /// Notified when the last open job is done.
    idle: Condvar,
}

impl ServiceCounters {
    /// Counts a new job, unless `limit` jobs are open. Returns whether it was counted.
    pub(super) fn open(&self, limit: usize) -> bool {
        let more = |n: usize| (n < limit).then_some(n + 1);
        self.n_open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Counts a job that is done.
    pub(super) fn close(&self) {
        let _guard = lock(&self.engine);
        if self.n_open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.idle.notify_all();
        }
    }

    pub(super) fn n_open(&self) -> usize {
        self.n_open.load(Ordering::SeqCst)
    }

    /// Refuses new jobs from now on.
    pub(super) fn drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Waits until no job is open. Returns false at the deadline.
    pub(super) fn wait_idle(&self, deadline: Instant) -> bool {
        let mut guard = lock(&self.engine);
        while self.n_open() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            guard = self.idle.wait_timeout(guard, left).map_or_else(|poison| poison.into_inner().0, |woken| woken.0);
        }
        true
    }

    /// Stores the state of the engine's thread.
    pub(super) fn store(&self, load: ServiceLoad) {
        *lock(&self.engine) = load;
    }

    pub(super) fn load(&self) -> ServiceLoad {
        let load = *lock(&self.engine);
        let n_open = self.n_open();
        let n_frames = self.n_frames.load(Ordering::Relaxed);
        ServiceLoad { n_open, n_waiting: n_open.saturating_sub(load.n_running), n_frames, ..load }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn jobs_beyond_the_limit_are_refused_until_others_are_done() {
        let counters = ServiceCounters::default();
        assert!(counters.open(2) && counters.open(2));
        assert!(!counters.open(2));
        counters.close();
        assert!(counters.open(2));
        assert_eq!(counters.load().n_waiting, 2);
    }

    #[test]
    fn waiting_for_the_last_job_ends_at_the_deadline_or_with_it() {
        let counters = ServiceCounters::default();
        assert!(counters.open(1));
        assert!(!counters.wait_idle(Instant::now()));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| counters.wait_idle(Instant::now() + Duration::from_secs(60)));
            counters.close();
            assert!(waiting.join().expect("no panic"));
        });
    }
}
