//! Gate of the processes that probe media: at most a few quick ones run at once, whatever the number of requests. A
//! probe that takes long leaves its place to others, of which there are a bounded number too.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::exec::lock;

/// Probes at once, without those that take longer than [`QUICK`].
const MAX_PROBES: usize = 8;
/// Time after which a probe leaves its place to others: a medium that hangs keeps no other waiting.
const QUICK: Duration = Duration::from_secs(1);
/// Maximum number of probes in all, each of which is a process.
const MAX_IN_ALL: usize = 40;
/// Time between two looks whether the client still waits, and whether a probe has left its place.
const PATIENCE: Duration = Duration::from_millis(50);

/// Gate that a limited number of quick probes has passed at any time.
#[derive(Debug)]
pub(super) struct ProbeGate {
    probes: Mutex<RunningProbes>,
    freed: Condvar,
    quick: Duration,
}

/// Probes that have not ended.
#[derive(Debug, Default)]
struct RunningProbes {
    /// Begin of each probe by its number.
    begun: HashMap<u64, Instant>,
    n_entered: u64,
}

impl RunningProbes {
    /// Returns whether every place is taken by a probe that is younger than `quick`, or by any probe.
    fn is_full(&self, quick: Duration) -> bool {
        self.begun.len() >= MAX_IN_ALL
            || self.begun.values().filter(|begin| begin.elapsed() < quick).count() >= MAX_PROBES
    }
}

impl Default for ProbeGate {
    fn default() -> Self {
        Self { probes: Mutex::default(), freed: Condvar::new(), quick: QUICK }
    }
}

impl ProbeGate {
    /// Waits for a place, as long as `check` succeeds.
    ///
    /// # Errors
    /// Those of `check`.
    pub(super) fn enter(&self, check: impl Fn() -> Result<()>) -> Result<ProbePlace<'_>> {
        let mut probes = lock(&self.probes);
        while probes.is_full(self.quick) {
            check()?;
            (probes, _) = self.freed.wait_timeout(probes, PATIENCE).unwrap_or_else(PoisonError::into_inner);
        }
        let number = probes.n_entered;
        probes.n_entered += 1;
        probes.begun.insert(number, Instant::now());
        Ok(ProbePlace { gate: self, number })
    }
}

/// Place of a probe, free for others when it is dropped.
#[derive(Debug)]
pub(super) struct ProbePlace<'g> {
    gate: &'g ProbeGate,
    number: u64,
}

impl Drop for ProbePlace<'_> {
    fn drop(&mut self) {
        lock(&self.gate.probes).begun.remove(&self.number);
        self.gate.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    fn gone() -> Result<()> {
        Err(Error::new(Kind::Stopped, "the client has gone away"))
    }

    #[test]
    fn a_full_gate_is_entered_once_a_place_is_free() {
        let gate = ProbeGate { quick: Duration::MAX, ..ProbeGate::default() };
        let mut places: Vec<_> = (0..MAX_PROBES).map(|_| gate.enter(|| Ok(())).expect("room")).collect();
        assert_eq!(gate.enter(gone).expect_err("full").kind(), Kind::Stopped);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.enter(|| Ok(())).is_ok());
            places.pop();
            assert!(waiting.join().expect("no panic"));
        });
        drop(places);
        assert!(lock(&gate.probes).begun.is_empty());
    }

    #[test]
    fn probes_that_take_long_keep_no_other_waiting() {
        let gate = ProbeGate { quick: Duration::ZERO, ..ProbeGate::default() };
        let places: Vec<_> = (0..3 * MAX_PROBES).map(|_| gate.enter(gone).expect("all are slow at once")).collect();
        assert_eq!(lock(&gate.probes).begun.len(), 3 * MAX_PROBES);
        drop(places);
        assert!(lock(&gate.probes).begun.is_empty());
    }
}
