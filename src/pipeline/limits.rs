//! Limits of one item: time per stage, bytes of a frame, time without data. A reached limit fails the item, not the
//! run.

use std::time::Duration;

use super::error::time_limit;
use super::run::GENERATE;
use super::stages::{AGGREGATE, DECODE, ENCODE, PREPROCESS};
use crate::error::Error;
use crate::video::{LinkedFilePolicy, ReadLimits};

/// Stages whose time can be limited.
pub(crate) const STAGES: [&str; 5] = [DECODE, PREPROCESS, ENCODE, AGGREGATE, GENERATE];

/// Limits of one item. An item is a video; in the stage `generate`, an answer, whose time is its share of the
/// engine's steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of bytes of a frame as RGB.
    pub frame_bytes: u64,
    /// Maximum number of frames of a video.
    pub max_frames: Option<u64>,
    /// Files that a video leads to.
    pub links: LinkedFilePolicy,
    /// Maximum time of a read without data.
    pub stall: Duration,
    /// Maximum time of each of [`STAGES`].
    times: [Option<Duration>; STAGES.len()],
}

impl Default for Limits {
    /// Returns the default limits of a frame's size and of a read without data, and no limit of time.
    fn default() -> Self {
        let ReadLimits { frame_bytes, max_frames, links, stall, .. } = ReadLimits::default();
        Self { frame_bytes, max_frames, links, stall, times: [None; STAGES.len()] }
    }
}

impl Limits {
    /// Sets the same time limit for every stage.
    #[must_use]
    pub fn with_time(self, limit: Duration) -> Self {
        Self { times: [Some(limit); STAGES.len()], ..self }
    }

    /// Sets the time limit of one stage.
    ///
    /// # Errors
    /// An unknown stage.
    pub fn set_time(&mut self, stage: &str, limit: Duration) -> Result<(), Error> {
        let unknown = || Error::invalid(format!("unknown stage `{stage}`")).with_hint(STAGES.join(", "));
        let index = STAGES.iter().position(|name| *name == stage).ok_or_else(unknown)?;
        self.times[index] = Some(limit);
        Ok(())
    }

    /// Returns whether the time of any stage is limited.
    pub fn has_times(&self) -> bool {
        self.times.iter().any(Option::is_some)
    }

    /// Returns the time limit of a stage.
    pub(super) fn time(&self, stage: &str) -> Option<Duration> {
        STAGES.iter().position(|name| *name == stage).and_then(|index| self.times[index])
    }

    /// Returns the limits of a scan of packets, without decoding.
    pub(crate) fn of_scan(&self) -> ReadLimits {
        ReadLimits {
            time: self.time(DECODE),
            stall: self.stall,
            frame_bytes: self.frame_bytes,
            max_frames: self.max_frames,
            links: self.links,
            threads: 1,
            ..ReadLimits::default()
        }
    }

    /// Checks the time spent in a stage.
    ///
    /// # Errors
    /// [`Error`] when `spent` is over the stage's limit.
    pub(super) fn check(&self, stage: &'static str, spent: Duration) -> Result<(), Error> {
        match self.time(stage) {
            Some(limit) if spent > limit => Err(time_limit(stage, limit)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_has_its_own_limit_or_that_of_all() {
        let seconds = Duration::from_secs;
        let mut limits = Limits::default().with_time(seconds(60));
        limits.set_time("encode", seconds(5)).expect("a stage");
        assert_eq!((limits.time(ENCODE), limits.time(DECODE)), (Some(seconds(5)), Some(seconds(60))));
        assert!(limits.check(ENCODE, seconds(5)).is_ok());
        let error = limits.check(ENCODE, seconds(6)).expect_err("six are over five").to_string();
        assert_eq!(error, "it took longer than the limit of 5 s; hint: a longer --time-limit encode=");
        let error = limits.set_time("tower", seconds(1)).expect_err("unknown stage").to_string();
        assert_eq!(error, "unknown stage `tower`; hint: decode, preprocess, encode, aggregate, generate");
    }
}
