//! Gate of the processes that probe media: at most a few run at once, whatever the number of requests.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::Result;
use crate::exec::lock;

/// Probes at once.
const MAX_PROBES: usize = 8;
/// Time between two looks whether the client still waits.
const PATIENCE: Duration = Duration::from_millis(50);

/// Gate that a limited number of probes has passed at any time.
#[derive(Debug, Default)]
pub(super) struct ProbeGate {
    n_inside: Mutex<usize>,
    freed: Condvar,
}

impl ProbeGate {
    /// Waits for a place, as long as `check` succeeds.
    ///
    /// # Errors
    /// Those of `check`.
    pub(super) fn enter(&self, check: impl Fn() -> Result<()>) -> Result<ProbePlace<'_>> {
        let mut n_inside = lock(&self.n_inside);
        while *n_inside >= MAX_PROBES {
            check()?;
            (n_inside, _) = self.freed.wait_timeout(n_inside, PATIENCE).unwrap_or_else(PoisonError::into_inner);
        }
        *n_inside += 1;
        Ok(ProbePlace(self))
    }
}

/// Place of a probe, free for others when it is dropped.
#[derive(Debug)]
pub(super) struct ProbePlace<'g>(&'g ProbeGate);

impl Drop for ProbePlace<'_> {
    fn drop(&mut self) {
        *lock(&self.0.n_inside) -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    #[test]
    fn a_full_gate_is_entered_once_a_place_is_free() {
        let gate = ProbeGate::default();
        let mut places: Vec<_> = (0..MAX_PROBES).map(|_| gate.enter(|| Ok(())).expect("room")).collect();
        let gone = || Err(Error::new(Kind::Stopped, "the client has gone away"));
        assert_eq!(gate.enter(gone).expect_err("full").kind(), Kind::Stopped);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.enter(|| Ok(())).is_ok());
            places.pop();
            assert!(waiting.join().expect("no panic"));
        });
        drop(places);
        assert_eq!(*lock(&gate.n_inside), 0);
    }
}
