//! Scheduling the parts of an archive over devices: each device runs one part at a time, and a part that fails on a
//! device is retried on another one.
//!
//! This module decides only the order of the work; the caller runs the parts. Called by `batch` on several devices.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::exec::lock;

/// A part to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartTask {
    /// Index of the part.
    pub part: usize,
    /// Items of the part to run.
    pub retry: Retry,
    /// Indices of the devices that have run the part.
    tried: Vec<usize>,
}

/// Items of a part that are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Items that are not done yet.
    Undone,
    /// Items that are not done yet, and failed items.
    Failed,
}

/// Result of running a part on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartEnd {
    /// All items are done.
    Done,
    /// All items are done, and some failed because of the device: they are retried on another one.
    FailedOnDevice(String),
    /// The device or its process is lost: another device resumes the part.
    Lost(String),
    /// The run was stopped.
    Stopped,
}

/// Outcome of a schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedParts {
    /// Indices of the parts that are done, ascending.
    pub done: Vec<usize>,
    /// Indices of the parts that are not done, ascending.
    pub undone: Vec<usize>,
    /// Indices of lost devices, with the reason.
    pub lost: Vec<(usize, String)>,
}

/// Queue of parts, shared by the devices' threads.
struct PartQueue {
    state: Mutex<PartsState>,
    /// Notified when a part ends.
    changed: Condvar,
}

struct PartsState {
    waiting: VecDeque<PartTask>,
    /// Number of running parts.
    n_running: usize,
    /// Indices of the devices that are not lost.
    healthy: Vec<usize>,
    outcome: SharedParts,
    is_stopped: bool,
}

/// Function that runs a part on a device, given by its index.
pub(crate) type RunPart<'a> = dyn Fn(usize, &PartTask) -> PartEnd + Sync + 'a;

/// Runs parts `0..n_parts` on devices `0..n_devices`, one thread per device.
pub fn share(n_parts: usize, n_devices: usize, run: &RunPart<'_>) -> SharedParts {
    let task = |part| PartTask { part, retry: Retry::Undone, tried: Vec::new() };
    let state = Mutex::new(PartsState {
        waiting: (0..n_parts).map(task).collect(),
        n_running: 0,
        healthy: (0..n_devices).collect(),
        outcome: SharedParts::default(),
        is_stopped: false,
    });
    let queue = PartQueue { state, changed: Condvar::new() };
    std::thread::scope(|scope| {
        for device in 0..n_devices {
            let queue = &queue;
            scope.spawn(move || queue.work(device, run));
        }
    });
    let mut outcome = queue.state.into_inner().unwrap_or_else(PoisonError::into_inner).outcome;
    outcome.done.sort_unstable();
    outcome.undone = (0..n_parts).filter(|part| !outcome.done.contains(part)).collect();
    outcome
}

impl PartQueue {
    /// Runs part after part on a device, until no more can come or the device is lost.
    fn work(&self, device: usize, run: &RunPart<'_>) {
        let mut guard = lock(&self.state);
        loop {
            let at = guard.waiting.iter().position(|task| !task.tried.contains(&device));
            match at.and_then(|at| guard.waiting.remove(at)) {
                _ if guard.is_stopped => return,
                Some(mut task) => {
                    guard.n_running += 1;
                    drop(guard);
                    let end = run(device, &task);
                    guard = lock(&self.state);
                    guard.n_running -= 1;
                    task.tried.push(device);
                    let is_usable = guard.finish(device, task, end);
                    self.changed.notify_all();
                    if !is_usable {
                        return;
                    }
                }
                // A part that runs on another device may come back.
                None if guard.n_running > 0 => {
                    guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                None => return,
            }
        }
    }
}

impl PartsState {
    /// Records the result of a part on a device. Returns whether the device takes more parts.
    fn finish(&mut self, device: usize, task: PartTask, end: PartEnd) -> bool {
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
                    // Retried before, or no other device: the failures stand.
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
    fn the_part_of_a_lost_device_is_resumed_by_another() {
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
    fn failures_of_a_device_are_retried_once_on_another() {
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
