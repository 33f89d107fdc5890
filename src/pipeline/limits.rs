//! How long a stage may work on one item. A limit that is reached fails the item, not the run.

use std::time::Duration;

use super::PipelineError;
use super::run::GENERATE;
use super::stages::{AGGREGATE, DECODE, ENCODE, PREPROCESS};
use crate::video::ReadLimits;

/// The stages whose time may be limited.
pub const STAGES: [&str; 5] = [DECODE, PREPROCESS, ENCODE, AGGREGATE, GENERATE];

/// The most that one item may take. An item is a video; of `generate`, an answer, whose time is
/// its share of the engine's steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a frame as RGB.
    pub frame_bytes: u64,
    /// Of a read that brings nothing.
    pub stall: Duration,
    /// As [`STAGES`].
    times: [Option<Duration>; STAGES.len()],
}

impl Default for Limits {
    /// No limit but those of a frame's size and of a read that brings nothing.
    fn default() -> Self {
        let ReadLimits { frame_bytes, stall, .. } = ReadLimits::default();
        Self { frame_bytes, stall, times: [None; STAGES.len()] }
    }
}

impl Limits {
    /// The same limit for every stage.
    #[must_use]
    pub fn with_time(self, limit: Duration) -> Self {
        Self { times: [Some(limit); STAGES.len()], ..self }
    }

    /// Limits one stage.
    ///
    /// # Errors
    /// In words, when there is no such stage.
    pub fn set_time(&mut self, stage: &str, limit: Duration) -> Result<(), String> {
        let place = STAGES.iter().position(|name| *name == stage);
        let place = place.ok_or_else(|| format!("there is no stage `{stage}`; hint: {}", STAGES.join(", ")))?;
        self.times[place] = Some(limit);
        Ok(())
    }

    /// Whether the time of a stage is limited.
    pub fn has_times(&self) -> bool {
        self.times.iter().any(Option::is_some)
    }

    /// The limit of a stage.
    pub(super) fn time(&self, stage: &str) -> Option<Duration> {
        STAGES.iter().position(|name| *name == stage).and_then(|place| self.times[place])
    }

    /// Fails what took longer in a stage than it may.
    pub(super) fn check(&self, stage: &'static str, spent: Duration) -> Result<(), PipelineError> {
        match self.time(stage) {
            Some(limit) if spent > limit => Err(PipelineError::TimeLimit { stage, limit }),
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
        let error = limits.set_time("tower", seconds(1)).expect_err("no stage");
        assert_eq!(error, "there is no stage `tower`; hint: decode, preprocess, encode, aggregate, generate");
    }
}
