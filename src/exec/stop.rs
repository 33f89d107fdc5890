//! Ending a run early: first let what is under way be finished, then give up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

/// A wish to end a run, shared between whoever has it (a signal handler, a failing stage) and the run's stages. One is good
/// for one run.
#[derive(Debug, Clone)]
pub struct Stop {
    inner: Arc<StopFlags>,
}

#[derive(Debug)]
struct StopFlags {
    drains: AtomicBool,
    /// Dropped at the abort, which wakes all who wait on the other end.
    alive: Mutex<Option<Sender<()>>>,
    aborted: Receiver<()>,
}

impl Default for Stop {
    fn default() -> Self {
        let (alive, aborted) = bounded(0);
        Self { inner: Arc::new(StopFlags { drains: AtomicBool::new(false), alive: Mutex::new(Some(alive)), aborted }) }
    }
}

impl Stop {
    /// No wish yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first request drains, every later one aborts: what Ctrl-C asks for. True when it aborts.
    pub fn request(&self) -> bool {
        let aborts = self.inner.drains.swap(true, Ordering::SeqCst);
        if aborts {
            self.abort();
        }
        aborts
    }

    /// Sources make nothing new; what is under way is finished.
    pub fn drain(&self) {
        self.inner.drains.store(true, Ordering::SeqCst);
    }

    /// Every stage ends after its current item, also one that waits.
    pub fn abort(&self) {
        self.drain();
        self.inner.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether sources should make nothing new.
    pub fn is_draining(&self) -> bool {
        self.inner.drains.load(Ordering::SeqCst)
    }

    /// Whether the run is given up.
    pub fn is_aborted(&self) -> bool {
        self.inner.alive.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Closed once the run is given up; nothing ever comes.
    pub(super) fn aborted(&self) -> &Receiver<()> {
        &self.inner.aborted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_drains_and_the_second_aborts() {
        let stop = Stop::new();
        let same = stop.clone();
        assert!(!same.is_draining() && !same.is_aborted());
        assert!(!stop.request());
        assert!(same.is_draining() && !same.is_aborted());
        assert!(stop.request());
        assert!(same.is_aborted());
    }

    #[test]
    fn an_abort_wakes_those_who_wait() {
        let stop = Stop::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| stop.aborted().recv());
            stop.abort();
            assert!(waiting.join().expect("no panic").is_err());
        });
        assert!(stop.is_draining());
    }
}
