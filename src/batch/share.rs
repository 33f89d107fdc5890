//! Sharing the parts of an archive among devices: each device takes a part at a time, and what a device fails at is
//! tried again on another one.
//!
//! Only the order of the work is decided here; what running a part means is the caller's.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

/// A part that is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartTask {
    /// Its number, from 0.
    pub part: usize,
    /// Whether only what failed is left of it.
    pub retry: Retry,
    /// Devices that are not to run it again, by their index.
    tried: Vec<usize>,
}

/// Whether failures of a part are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Items that are not done yet.
    Undone,
    /// Items that are not done yet, and those that failed.
    Failed,
}

/// The end of a part on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartEnd {
    /// Everything in it is done.
    Done,
    /// Everything is done, and some of it failed in a way that is the device's: it is tried again on another one.
    FailedOnDevice(String),
    /// The device, or the process on it, is gone: another one goes on with the part.
    Lost(String),
    /// The run is to end.
    Stopped,
}

/// The outcome of sharing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedParts {
    /// Parts that are done, in order.
    pub done: Vec<usize>,
    /// Parts that are not, in order.
    pub undone: Vec<usize>,
    /// Devices that were lost, by their index, with the reason.
    pub lost: Vec<(usize, String)>,
}

/// State that the devices' threads share.
struct PartsState {
    waiting: VecDeque<PartTask>,
    /// Parts that are running.
    n_running: usize,
    /// Devices that still take parts.
    healthy: Vec<usize>,
    outcome: SharedParts,
    is_stopped: bool,
}

/// Runs parts `0..n_parts` on devices `0..n_devices`, a thread a device; `run` returns once its part has ended.
pub fn share(n_parts: usize, n_devices: usize, run: &(dyn Fn(usize, &PartTask) -> PartEnd + Sync)) -> SharedParts {
    let task = |part| PartTask { part, retry: Retry::Undone, tried: Vec::new() };
    let state = Mutex::new(PartsState {
        waiting: (0..n_parts).map(task).collect(),
        n_running: 0,
        healthy: (0..n_devices).collect(),
        outcome: SharedParts::default(),
        is_stopped: false,
    });
    let changed = Condvar::new();
    std::thread::scope(|scope| {
        for device in 0..n_devices {
            let (state, changed) = (&state, &changed);
            scope.spawn(move || work(device, (state, changed), run));
        }
    });
    let mut outcome = state.into_inner().unwrap_or_else(PoisonError::into_inner).outcome;
    outcome.done.sort_unstable();
    outcome.undone = (0..n_parts).filter(|part| !outcome.done.contains(part)).collect();
    outcome
}

/// Takes part after part for a device, until none can come any more or the device is lost.
fn work(
    device: usize,
    (state, changed): (&Mutex<PartsState>, &Condvar),
    run: &(dyn Fn(usize, &PartTask) -> PartEnd + Sync),
) {
    let mut guard = state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let at = guard.waiting.iter().position(|task| !task.tried.contains(&device));
        match at.and_then(|at| guard.waiting.remove(at)) {
            _ if guard.is_stopped => return,
            Some(mut task) => {
                guard.n_running += 1;
                drop(guard);
                let end = run(device, &task);
                guard = state.lock().unwrap_or_else(PoisonError::into_inner);
                guard.n_running -= 1;
                task.tried.push(device);
                let goes_on = guard.take(device, task, end);
                changed.notify_all();
                if !goes_on {
                    return;
                }
            }
            // What runs elsewhere may come back.
            None if guard.n_running > 0 => guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
            None => return,
        }
    }
}

impl PartsState {
    /// Takes the end of a part on a device; whether the device goes on.
    fn take(&mut self, device: usize, task: PartTask, end: PartEnd) -> bool {
        let part = task.part;
        match end {
            PartEnd::Done => self.outcome.done.push(part),
            PartEnd::Stopped => {
                self.is_stopped = true;
                return false;
            }
            PartEnd::FailedOnDevice(_) => {
                let has_other = self.healthy.iter().any(|other| !task.tried.contains(other));
                if has_other && task.retry == Retry::Undone {
                    self.waiting.push_back(PartTask { retry: Retry::Failed, ..task });
                } else {
                    // Tried twice, or nowhere else to try: its failures stand.
                    self.outcome.done.push(part);
                }
            }
            PartEnd::Lost(cause) => {
                self.healthy.retain(|other| *other != device);
                self.outcome.lost.push((device, cause));
                self.waiting.push_front(task);
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs that were made, sorted: part, device, whether failures were tried again.
    fn sorted(runs: Mutex<Vec<(usize, usize, Retry)>>) -> Vec<(usize, usize, Retry)> {
        let mut runs = runs.into_inner().expect("no panic");
        runs.sort_by_key(|(part, device, _)| (*part, *device));
        runs
    }

    #[test]
    fn every_part_is_run_once_where_nothing_fails() {
        let runs = Mutex::new(Vec::new());
        let outcome = share(7, 3, &|device, task| {
            runs.lock().expect("no panic").push((task.part, device, task.retry));
            PartEnd::Done
        });
        assert_eq!(outcome, SharedParts { done: (0..7).collect(), ..SharedParts::default() });
        assert_eq!(sorted(runs).iter().map(|(part, ..)| *part).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
    }

    #[test]
    fn the_part_of_a_lost_device_is_gone_on_with_by_another() {
        let runs = Mutex::new(Vec::new());
        let outcome = share(2, 2, &|device, task| {
            runs.lock().expect("no panic").push((task.part, device, task.retry));
            if device == 0 { PartEnd::Lost("gone".to_owned()) } else { PartEnd::Done }
        });
        assert_eq!((outcome.done, outcome.undone), (vec![0, 1], vec![]));
        // Device 1 may have been quicker and taken both.
        assert!(outcome.lost.iter().all(|lost| *lost == (0, "gone".to_owned())));
        let by_other =
            sorted(runs).iter().filter(|(_, device, _)| *device == 1).map(|(part, ..)| *part).collect::<Vec<_>>();
        assert_eq!(by_other, [0, 1]);
    }

    #[test]
    fn failures_of_a_device_are_tried_once_more_elsewhere() {
        let runs = Mutex::new(Vec::new());
        let outcome = share(1, 2, &|device, task| {
            runs.lock().expect("no panic").push((task.part, device, task.retry));
            PartEnd::FailedOnDevice("compute".to_owned())
        });
        assert_eq!((outcome.done, outcome.lost), (vec![0], vec![]));
        let runs = sorted(runs);
        let mut retries: Vec<Retry> = runs.iter().map(|(.., retry)| *retry).collect();
        retries.sort_by_key(|retry| *retry == Retry::Failed);
        assert_eq!(retries, [Retry::Undone, Retry::Failed]);
        assert_ne!(runs[0].1, runs[1].1);
        // With one device there is nowhere else.
        let n_runs = Mutex::new(0);
        let alone = share(1, 1, &|_, _| {
            *n_runs.lock().expect("no panic") += 1;
            PartEnd::FailedOnDevice("compute".to_owned())
        });
        assert_eq!((alone.done, n_runs.into_inner().expect("no panic")), (vec![0], 1));
    }

    #[test]
    fn parts_stay_undone_once_no_device_is_left_or_the_run_is_stopped() {
        let lost = share(3, 2, &|_, _| PartEnd::Lost("gone".to_owned()));
        assert_eq!((lost.done, lost.undone, lost.lost.len()), (vec![], vec![0, 1, 2], 2));
        let stopped = share(9, 2, &|_, _| PartEnd::Stopped);
        assert_eq!((stopped.done, stopped.lost), (vec![], vec![]));
        assert_eq!(stopped.undone.len(), 9);
    }
}
