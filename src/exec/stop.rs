//! Stop signal of a run: first drain (items under way are finished), then abort.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

/// Stop signal shared between its senders (a signal handler, a failing stage) and the stages of one run. Not reusable
/// for another run.
#[derive(Debug, Clone)]
pub struct Stop {
    inner: Arc<StopFlags>,
}

#[derive(Debug)]
struct StopFlags {
    is_draining: AtomicBool,
    /// Dropped by an abort, which wakes all that wait on the other end.
    alive: Mutex<Option<Sender<()>>>,
    aborted: Receiver<()>,
}

impl Default for Stop {
    fn default() -> Self {
        let (alive, aborted) = bounded(0);
        let flags = StopFlags { is_draining: AtomicBool::new(false), alive: Mutex::new(Some(alive)), aborted };
        Self { inner: Arc::new(flags) }
    }
}

impl Stop {
    /// Creates a signal that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drains at the first call and aborts at every later one, as Ctrl-C does. Returns whether it aborts.
    pub fn request(&self) -> bool {
        let aborts = self.inner.is_draining.swap(true, Ordering::SeqCst);
        if aborts {
            self.abort();
        }
        aborts
    }

    /// Drains the run: sources send nothing new, and items under way are finished.
    pub fn drain(&self) {
        self.inner.is_draining.store(true, Ordering::SeqCst);
    }

    /// Aborts the run: every stage ends after its current item, also while it waits.
    pub fn abort(&self) {
        self.drain();
        self.inner.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Returns whether sources should send nothing new.
    pub fn is_draining(&self) -> bool {
        self.inner.is_draining.load(Ordering::SeqCst)
    }

    /// Returns whether the run is aborted.
    pub fn is_aborted(&self) -> bool {
        self.inner.alive.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Returns a channel that is closed by an abort and never receives a value.
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
    fn an_abort_wakes_waiting_threads() {
        let stop = Stop::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| stop.aborted().recv());
            stop.abort();
            assert!(waiting.join().expect("no panic").is_err());
        });
        assert!(stop.is_draining());
    }
}
