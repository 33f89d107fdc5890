//! Counters of a batch process, updated by the threads of its run. [`Tally::snapshot`] reads them all, and estimates
//! the remaining time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::archive::SkippedFile;
use super::snapshot::{SkippedFiles, Snapshot, StageUse};
use super::store::{ResultRecord, now};
use crate::exec::{StageReport, lock};
use crate::pipeline::{Answer, EncodedVideo};

/// Stages that run on the model's device; the others run on the CPU.
const ON_DEVICE: [&str; 3] = ["encode", "aggregate", "generate"];

/// Number of example names per reason of skipped files.
const N_EXAMPLES: usize = 3;

/// Size of an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ArchiveSize {
    /// Number of items.
    pub items: u64,
    /// Bytes of the items' files.
    pub bytes: u64,
}

/// Counters of one process.
#[derive(Debug)]
pub struct Tally {
    begin: Instant,
    device: &'static str,
    /// Size of the archive, once counted.
    expected: Mutex<Option<ArchiveSize>>,
    skipped: SizeCounter,
    done: SizeCounter,
    failed: SizeCounter,
    answers: AtomicU64,
    failed_answers: AtomicU64,
    frames_decoded: AtomicU64,
    frames_encoded: AtomicU64,
    cache_hits: AtomicU64,
    tokens: AtomicU64,
    milliseconds_of_video: AtomicU64,
    /// Number of restarted decoder processes.
    pub restarts: AtomicU64,
    failed_by: Mutex<BTreeMap<String, u64>>,
    passed_over: Mutex<BTreeMap<String, SkippedFiles>>,
    last_report: Mutex<StageReports>,
}

/// Reports of the stages at a time.
#[derive(Debug)]
struct StageReports {
    time: Instant,
    stages: Vec<StageReport>,
}

/// Counter of items and of the bytes of their files.
#[derive(Debug, Default)]
struct SizeCounter {
    items: AtomicU64,
    bytes: AtomicU64,
}

impl SizeCounter {
    fn add(&self, bytes: u64) {
        self.items.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> ArchiveSize {
        ArchiveSize { items: self.items.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

impl Tally {
    /// Creates the counters of a process with the model on `device`.
    pub fn new(device: &'static str) -> Self {
        Self {
            begin: Instant::now(),
            device,
            expected: Mutex::default(),
            skipped: SizeCounter::default(),
            done: SizeCounter::default(),
            failed: SizeCounter::default(),
            answers: AtomicU64::new(0),
            failed_answers: AtomicU64::new(0),
            frames_decoded: AtomicU64::new(0),
            frames_encoded: AtomicU64::new(0),
            cache_hits: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            milliseconds_of_video: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            failed_by: Mutex::default(),
            passed_over: Mutex::default(),
            last_report: Mutex::new(StageReports { time: Instant::now(), stages: Vec::new() }),
        }
    }

    /// Sets the size of the archive.
    pub(super) fn set_expected(&self, size: ArchiveSize) {
        *lock(&self.expected) = Some(size);
    }

    /// Counts an item that was done before.
    pub(super) fn add_done_before(&self, bytes: u64) {
        self.skipped.add(bytes);
    }

    /// Counts an answer.
    pub(super) fn add_answer(&self, answer: &Answer) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.tokens.fetch_add(answer.token_ids.len() as u64, Ordering::Relaxed);
    }

    /// Counts a failure by its category.
    pub(super) fn add_failure(&self, record: &ResultRecord) {
        let Some(failure) = record.failure() else { return };
        *lock(&self.failed_by).entry(failure.category()).or_insert(0) += 1;
        if record.question.is_some() {
            self.failed_answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a file that is not an item.
    pub(super) fn add_skipped_file(&self, file: &SkippedFile) {
        let mut all = lock(&self.passed_over);
        let skipped = all.entry(file.reason.name().to_owned()).or_default();
        skipped.files += 1;
        if skipped.examples.len() < N_EXAMPLES {
            skipped.examples.push(file.name.clone());
        }
    }

    /// Counts an item that failed as a whole.
    pub(super) fn add_failed_item(&self, bytes: u64) {
        self.failed.add(bytes);
    }

    /// Counts an item whose questions are done.
    pub(super) fn add_done_item(&self, encoded: &EncodedVideo, bytes: u64) {
        self.done.add(bytes);
        if encoded.is_cached {
            self.cache_hits.fetch_add(1, Ordering::Relaxed);
        } else {
            self.frames_decoded.fetch_add(encoded.report.n_decoded as u64, Ordering::Relaxed);
            self.frames_encoded.fetch_add(encoded.frames.len() as u64, Ordering::Relaxed);
        }
        let milliseconds = encoded.report.duration().map_or(0.0, |duration| duration.0 * 1e3);
        self.milliseconds_of_video.fetch_add(milliseconds as u64, Ordering::Relaxed);
    }

    /// Returns a snapshot, given the reports of the stages so far.
    pub fn snapshot(&self, stages: &[StageReport]) -> Snapshot {
        let get = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        let (skipped, done, failed) = (self.skipped.get(), self.done.get(), self.failed.get());
        let expected = *lock(&self.expected);
        let seconds = self.begin.elapsed().as_secs_f64();
        let video_hours = get(&self.milliseconds_of_video) as f64 / 3.6e6;
        let share_left = expected.and_then(|expected| {
            let worked = done.bytes + failed.bytes;
            let left = expected.bytes.saturating_sub(skipped.bytes + worked);
            (worked > 0).then(|| left as f64 / worked as f64)
        });
        Snapshot {
            updated: now(),
            seconds,
            expected: expected.map(|size| size.items),
            skipped: skipped.items,
            done: done.items,
            failed: failed.items,
            answers: get(&self.answers),
            failed_answers: get(&self.failed_answers),
            failed_by: lock(&self.failed_by).clone(),
            passed_over: lock(&self.passed_over).clone(),
            frames_decoded: get(&self.frames_decoded),
            frames_encoded: get(&self.frames_encoded),
            found_in_cache: get(&self.cache_hits),
            tokens: get(&self.tokens),
            video_hours,
            decoder_restarts: get(&self.restarts),
            video_hours_left: share_left.map(|share| share * video_hours),
            seconds_left: share_left.map(|share| share * seconds),
            stages: self.stage_uses(stages),
        }
    }

    /// Returns the utilisation of each stage since the last call.
    fn stage_uses(&self, stages: &[StageReport]) -> Vec<StageUse> {
        let mut last = lock(&self.last_report);
        let wall = last.time.elapsed();
        let uses = stages.iter().map(|stage| {
            let before = last.stages.iter().find(|before| before.name == stage.name).map_or(Duration::ZERO, |b| b.busy);
            let recent = StageReport { busy: stage.busy.saturating_sub(before), ..stage.clone() };
            let device = if ON_DEVICE.contains(&stage.name.as_str()) { self.device } else { "cpu" };
            StageUse {
                name: stage.name.clone(),
                device: device.to_owned(),
                utilisation: recent.utilisation(wall),
                busy_seconds: stage.busy.as_secs_f64(),
            }
        });
        let uses = uses.collect();
        *last = StageReports { time: Instant::now(), stages: stages.to_vec() };
        uses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remaining_time_is_estimated_by_file_sizes() {
        let tally = Tally::new("cpu");
        assert_eq!(tally.snapshot(&[]).seconds_left, None);
        tally.set_expected(ArchiveSize { items: 4, bytes: 1000 });
        tally.add_done_before(100);
        tally.add_failed_item(300);
        std::thread::sleep(Duration::from_millis(20));
        let snapshot = tally.snapshot(&[]);
        // 600 bytes are left, 300 took the time so far.
        let left = snapshot.seconds_left.expect("something was done");
        assert!((left / snapshot.seconds - 2.0).abs() < 1e-9);
        assert_eq!((snapshot.n_finished(), snapshot.expected), (2, Some(4)));
    }
}
