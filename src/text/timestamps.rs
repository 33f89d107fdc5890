//! Times of frames in a prompt: the setting, and the formats of times.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, VariantNames};

use crate::choice;
use crate::error::Error;

/// Times of frames in the text of a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, EnumString, VariantNames)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = unknown_timestamps)]
pub enum Timestamps {
    /// Frames as the model's own processor writes them, with times or without.
    #[default]
    Checkpoint,
    /// No times.
    None,
    /// `Frame from MM:SS: ` before each frame, and a line end after it.
    MmSs,
    /// `<3.0 seconds>` before each frame.
    Seconds,
}

fn unknown_timestamps(name: &str) -> Error {
    choice::unknown_name("timestamps", name, Timestamps::VARIANTS)
}

/// Returns whole seconds, rounded down. Less than a microsecond below a whole second is a rounding error of the clock.
pub(super) fn whole(seconds: f64) -> u64 {
    ((seconds * 1e6).round() / 1e6).max(0.0) as u64
}

/// Formats `MM:SS`.
pub(super) fn minutes(second: u64) -> String {
    format!("{:02}:{:02}", second / 60, second % 60)
}

/// Formats `H:MM:SS`, with days before it from 24 hours on, like Python's `timedelta`.
pub(super) fn hours(second: u64) -> String {
    let time = format!("{}:{:02}:{:02}", second / 3600 % 24, second / 60 % 60, second % 60);
    match second / 86_400 {
        0 => time,
        1 => format!("1 day, {time}"),
        days => format!("{days} days, {time}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_cut_to_whole_seconds_and_may_be_long() {
        assert_eq!((whole(7.999), whole(7.999_999_9), whole(-1.0)), (7, 8, 0));
        assert_eq!((minutes(59), minutes(3725)), ("00:59".to_owned(), "62:05".to_owned()));
        let expected = ["0:00:08", "1:02:03", "1 day, 0:00:00", "2 days, 1:00:00"];
        assert_eq!([8, 3723, 86_400, 176_400].map(hours), expected);
    }

    #[test]
    fn unknown_timestamps_are_refused_with_the_known_ones() {
        assert_eq!("mm_ss".parse::<Timestamps>().expect("known"), Timestamps::MmSs);
        let error = "hours".parse::<Timestamps>().expect_err("unknown").to_string();
        assert_eq!(error, "unknown timestamps `hours`; hint: checkpoint, none, mm_ss, seconds");
    }
}
