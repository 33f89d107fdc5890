//! Retries of requests to a service: failures that pass, waiting times, and a pause that all workers share.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::error::Kind;
use crate::exec::{Stop, lock};

/// Interval at which a waiting worker looks for the stop signal.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// Rule of retries: the waiting time doubles from one retry to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Number of retries of a request.
    pub n_retries: u32,
    /// Waiting time before the first retry.
    pub first_wait: Duration,
    /// Maximum of a waiting time; a service that asks for more (`Retry-After`) is not asked again.
    pub max_wait: Duration,
}

impl RetryPolicy {
    /// Returns the waiting time before a retry; `None` if there is none left.
    pub(super) fn wait(&self, n_tried: u32, retry_after: Option<Duration>) -> Option<Duration> {
        let is_over = n_tried >= self.n_retries || retry_after.is_some_and(|asked| asked > self.max_wait);
        let doubled = self.first_wait.saturating_mul(2u32.saturating_pow(n_tried)).min(self.max_wait);
        (!is_over).then(|| doubled.max(retry_after.unwrap_or_default()))
    }
}

/// Returns whether a status may be another one later: time limits, rates, faults of the service.
pub(super) fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 409 | 425 | 429 | 500..=599)
}

/// Returns whether a failed transfer may succeed later.
pub(super) fn is_transient_kind(kind: Kind) -> bool {
    matches!(kind, Kind::Fetch | Kind::TimeLimit)
}

/// Time before which no worker sends a request, because the service asked to wait.
#[derive(Debug, Default)]
pub(super) struct SharedPause {
    until: Mutex<Option<Instant>>,
}

impl SharedPause {
    /// Prolongs the pause.
    pub(super) fn extend(&self, wait: Duration) {
        let mut until = lock(&self.until);
        *until = Some(Instant::now() + wait).max(*until);
    }

    /// Waits for the end of the pause. Returns whether a request may be sent: not once the run drains.
    pub(super) fn pass(&self, stop: &Stop) -> bool {
        loop {
            let left =
                lock(&self.until).map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
            if stop.is_draining() || left.is_zero() {
                return !stop.is_draining();
            }
            std::thread::sleep(left.min(STOP_CHECK));
        }
    }
}

/// Waits. Returns whether a request may be sent then: not once the run drains.
pub(super) fn wait(time: Duration, stop: &Stop) -> bool {
    let pause = SharedPause::default();
    pause.extend(time);
    pause.pass(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_times_double_and_obey_the_service() {
        let seconds = Duration::from_secs;
        let policy = RetryPolicy { n_retries: 3, first_wait: seconds(1), max_wait: seconds(3) };
        let waits: Vec<_> = (0..4).map(|n_tried| policy.wait(n_tried, None)).collect();
        assert_eq!(waits, [Some(seconds(1)), Some(seconds(2)), Some(seconds(3)), None]);
        assert_eq!(policy.wait(0, Some(seconds(2))), Some(seconds(2)));
        assert_eq!((policy.wait(0, Some(seconds(4))), policy.wait(u32::MAX, None)), (None, None));
    }

    #[test]
    fn a_draining_run_sends_nothing_after_a_wait() {
        let stop = Stop::new();
        assert!(wait(Duration::from_millis(1), &stop));
        stop.drain();
        assert!(!wait(Duration::from_secs(3600), &stop) && !SharedPause::default().pass(&stop));
    }
}
