//! What a batch did so far, counted as it goes, and how it stands.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::archive::SkippedFile;
use super::store::{ResultRecord, now};
use crate::exec::{StageReport, lock};
use crate::pipeline::{Answer, EncodedVideo};

/// Stages whose work is on the model's device; that of the others is on the CPU.
const ON_DEVICE: [&str; 3] = ["encode", "aggregate", "generate"];

/// Names of files passed over that are kept for each reason.
const N_EXAMPLES: usize = 3;

/// How many items an archive has, and how large their files are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveSize {
    /// Items.
    pub items: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// Sums of one process.
#[derive(Debug)]
pub struct Tally {
    begin: Instant,
    device: &'static str,
    /// Of the archive, as far as it is known.
    expected: Mutex<Option<ArchiveSize>>,
    skipped: Sum,
    done: Sum,
    failed: Sum,
    answers: AtomicU64,
    failed_answers: AtomicU64,
    frames_decoded: AtomicU64,
    frames_encoded: AtomicU64,
    found: AtomicU64,
    tokens: AtomicU64,
    milliseconds_of_video: AtomicU64,
    /// Decoder processes that were replaced.
    pub restarts: AtomicU64,
    failed_by: Mutex<BTreeMap<String, u64>>,
    passed_over: Mutex<BTreeMap<String, SkippedFiles>>,
    last: Mutex<(Instant, Vec<StageReport>)>,
}

/// Items, and bytes of their files.
#[derive(Debug, Default)]
struct Sum {
    items: AtomicU64,
    bytes: AtomicU64,
}

impl Sum {
    fn add(&self, bytes: u64) {
        self.items.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> ArchiveSize {
        ArchiveSize { items: self.items.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// Files that were passed over for one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedFiles {
    /// How many; a hidden directory counts as one.
    pub files: u64,
    /// Names of the first.
    pub examples: Vec<String>,
}

/// How a batch stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When this was so, in seconds since 1970.
    pub updated: u64,
    /// Seconds since the process began.
    pub seconds: f64,
    /// Items of the archive, once they are counted.
    pub expected: Option<u64>,
    /// Items that an earlier process had done.
    pub skipped: u64,
    /// Items of which something was seen.
    pub done: u64,
    /// Items of which nothing could be seen.
    pub failed: u64,
    /// Answers.
    pub answers: u64,
    /// Questions that got none.
    pub failed_answers: u64,
    /// Items and questions that failed, by stage and kind.
    pub failed_by: BTreeMap<String, u64>,
    /// Files of the folder that were not taken for videos, by reason.
    #[serde(default)]
    pub passed_over: BTreeMap<String, SkippedFiles>,
    /// Frames that were decoded, sampled or not.
    pub frames_decoded: u64,
    /// Frames that went through the tower.
    pub frames_encoded: u64,
    /// Items whose visual tokens an earlier process had kept.
    pub found_in_cache: u64,
    /// Tokens of all answers.
    pub tokens: u64,
    /// Hours of video that were answered about.
    pub video_hours: f64,
    /// Decoder processes that were replaced.
    pub decoder_restarts: u64,
    /// Hours of video that are left, as the sizes of files tell.
    pub video_hours_left: Option<f64>,
    /// Seconds that are left, as the sizes of files tell.
    pub seconds_left: Option<f64>,
    /// What each stage was busy with since the last time.
    pub stages: Vec<StageUse>,
}

/// How busy a stage is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageUse {
    /// Its name.
    pub name: String,
    /// Where its work is done.
    pub device: String,
    /// The share of its threads' time that they were at work, 0 to 1.
    pub utilisation: f64,
    /// Seconds at work, all threads together, since the process began.
    pub busy_seconds: f64,
}

impl Snapshot {
    /// Items a second.
    pub fn items_per_second(&self) -> f64 {
        (self.done + self.failed) as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Encoded frames a second.
    pub fn frames_per_second(&self) -> f64 {
        self.frames_encoded as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Tokens of answers a second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Hours of video an hour.
    pub fn video_hours_per_hour(&self) -> f64 {
        self.video_hours * 3600.0 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Items that are behind us.
    pub fn behind(&self) -> u64 {
        self.skipped + self.done + self.failed
    }
}

impl Tally {
    /// Nothing yet; the model is on `device`.
    pub fn new(device: &'static str) -> Self {
        Self {
            begin: Instant::now(),
            device,
            expected: Mutex::default(),
            skipped: Sum::default(),
            done: Sum::default(),
            failed: Sum::default(),
            answers: AtomicU64::new(0),
            failed_answers: AtomicU64::new(0),
            frames_decoded: AtomicU64::new(0),
            frames_encoded: AtomicU64::new(0),
            found: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            milliseconds_of_video: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            failed_by: Mutex::default(),
            passed_over: Mutex::default(),
            last: Mutex::new((Instant::now(), Vec::new())),
        }
    }

    pub(super) fn expect(&self, size: ArchiveSize) {
        *lock(&self.expected) = Some(size);
    }

    pub(super) fn skip(&self, bytes: u64) {
        self.skipped.add(bytes);
    }

    pub(super) fn answer(&self, answer: &Answer) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.tokens.fetch_add(answer.token_ids.len() as u64, Ordering::Relaxed);
    }

    /// Counts a line about a failure.
    pub(super) fn fail(&self, record: &ResultRecord) {
        let Some(failure) = record.failure() else { return };
        *lock(&self.failed_by).entry(failure.category()).or_insert(0) += 1;
        if record.question.is_some() {
            self.failed_answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a file that is not taken for a video.
    pub(super) fn pass_over(&self, passed: &SkippedFile) {
        let mut all = lock(&self.passed_over);
        let left = all.entry(passed.reason.name().to_owned()).or_default();
        left.files += 1;
        if left.examples.len() < N_EXAMPLES {
            left.examples.push(passed.name.clone());
        }
    }

    /// Counts an item of which nothing could be seen.
    pub(super) fn lose(&self, bytes: u64) {
        self.failed.add(bytes);
    }

    /// Counts an item that is done.
    pub(super) fn finish(&self, seen: &EncodedVideo, bytes: u64) {
        self.done.add(bytes);
        if seen.is_cached {
            self.found.fetch_add(1, Ordering::Relaxed);
        } else {
            self.frames_decoded.fetch_add(seen.report.n_decoded as u64, Ordering::Relaxed);
            self.frames_encoded.fetch_add(seen.frames.len() as u64, Ordering::Relaxed);
        }
        let milliseconds = seen.report.duration().map_or(0.0, |duration| duration.0 * 1e3);
        self.milliseconds_of_video.fetch_add(milliseconds as u64, Ordering::Relaxed);
    }

    /// How it stands, given what the stages did so far.
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
            found_in_cache: get(&self.found),
            tokens: get(&self.tokens),
            video_hours,
            decoder_restarts: get(&self.restarts),
            video_hours_left: share_left.map(|share| share * video_hours),
            seconds_left: share_left.map(|share| share * seconds),
            stages: self.uses(stages),
        }
    }

    /// What each stage was busy with since this was last asked.
    fn uses(&self, stages: &[StageReport]) -> Vec<StageUse> {
        let mut last = lock(&self.last);
        let wall = last.0.elapsed();
        let uses = stages.iter().map(|stage| {
            let before = last.1.iter().find(|before| before.name == stage.name).map_or(Duration::ZERO, |b| b.busy);
            let lately = StageReport { busy: stage.busy.saturating_sub(before), ..stage.clone() };
            let device = if ON_DEVICE.contains(&stage.name.as_str()) { self.device } else { "cpu" };
            StageUse {
                name: stage.name.clone(),
                device: device.to_owned(),
                utilisation: lately.utilisation(wall),
                busy_seconds: stage.busy.as_secs_f64(),
            }
        });
        let uses = uses.collect();
        *last = (Instant::now(), stages.to_vec());
        uses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_goes_by_the_sizes_of_files() {
        let tally = Tally::new("cpu");
        assert_eq!(tally.snapshot(&[]).seconds_left, None);
        tally.expect(ArchiveSize { items: 4, bytes: 1000 });
        tally.skip(100);
        tally.lose(300);
        std::thread::sleep(Duration::from_millis(20));
        let snapshot = tally.snapshot(&[]);
        // 600 bytes are left, 300 took the time so far.
        let left = snapshot.seconds_left.expect("something was done");
        assert!((left / snapshot.seconds - 2.0).abs() < 1e-9);
        assert_eq!((snapshot.behind(), snapshot.expected), (2, Some(4)));
    }
}
