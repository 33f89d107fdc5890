//! Snapshot of a batch process: counts, rates and estimates at a time. Read by the progress display, the status file
//! and the metrics endpoint.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counts, rates and estimates of a batch at a time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Time of the snapshot, in seconds since 1970.
    pub updated: u64,
    /// Seconds since the begin of the process.
    pub seconds: f64,
    /// Number of items of the archive, once counted.
    pub expected: Option<u64>,
    /// Number of items that were done before.
    pub skipped: u64,
    /// Number of items that were encoded and asked about.
    pub done: u64,
    /// Number of items that failed as a whole.
    pub failed: u64,
    /// Number of answers.
    pub answers: u64,
    /// Number of failed questions.
    pub failed_answers: u64,
    /// Number of failed items and questions by stage and kind.
    pub failed_by: BTreeMap<String, u64>,
    /// Files of the folder that are not items, by reason.
    #[serde(default)]
    pub passed_over: BTreeMap<String, SkippedFiles>,
    /// Number of decoded frames, sampled or not.
    pub frames_decoded: u64,
    /// Number of encoded frames.
    pub frames_encoded: u64,
    /// Number of items whose visual tokens were cached.
    pub found_in_cache: u64,
    /// Number of tokens of all answers.
    pub tokens: u64,
    /// Hours of video of the done items.
    pub video_hours: f64,
    /// Number of restarted decoder processes.
    pub decoder_restarts: u64,
    /// Remaining hours of video, estimated by the sizes of the files.
    pub video_hours_left: Option<f64>,
    /// Remaining seconds, estimated by the sizes of the files.
    pub seconds_left: Option<f64>,
    /// Utilisation of each stage since the last snapshot.
    pub stages: Vec<StageUse>,
}

/// Utilisation of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageUse {
    /// Name of the stage.
    pub name: String,
    /// Device of the stage.
    pub device: String,
    /// Fraction of the threads' time at work, 0 to 1.
    pub utilisation: f64,
    /// Seconds at work since the begin of the process, summed over threads.
    pub busy_seconds: f64,
}

impl Snapshot {
    /// Returns the items per second.
    pub fn items_per_second(&self) -> f64 {
        (self.done + self.failed) as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Returns the encoded frames per second.
    pub fn frames_per_second(&self) -> f64 {
        self.frames_encoded as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Returns the generated tokens per second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Returns the hours of video per hour.
    pub fn video_hours_per_hour(&self) -> f64 {
        self.video_hours * 3600.0 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Returns the number of items that are done or failed, in this process or before.
    pub fn n_finished(&self) -> u64 {
        self.skipped + self.done + self.failed
    }
}

/// Files that were skipped for one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedFiles {
    /// Number of files; a hidden directory counts as one.
    pub files: u64,
    /// Names of the first files.
    pub examples: Vec<String>,
}
