//! Units as types: seconds, frame indices, hidden-state indices, token counts.
//!
//! Newtypes, so that the compiler refuses a frame's index where its time is expected, or a layer's where a token count
//! is. They have no arithmetic beyond what the code needs.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::Error;

/// Time on a video's own clock, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Seconds(pub f64);

impl<'de> Deserialize<'de> for Seconds {
    /// Deserializes a number of seconds, or a string as [`FromStr`] parses it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum NumberOrText {
            Number(f64),
            Text(String),
        }
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(seconds) => Ok(Self(seconds)),
            NumberOrText::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

impl JsonSchema for Seconds {
    fn schema_name() -> Cow<'static, str> {
        "Seconds".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["number", "string"],
            "pattern": r"^\s*-?(\d+|\d+:[0-5]?\d|\d+:[0-5]?\d:[0-5]?\d)(\.\d*)?\s*$",
            "x-hint": "seconds, or h:mm:ss"
        })
    }
}

/// Index of a frame among the decodable frames of a video, in presentation order, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FrameIndex(pub usize);

/// Index into a tower's hidden states: 0 is the embedding output, `L` the last layer's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerIndex(pub usize);

/// Number of positions in the language model's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tokens(pub usize);

/// Returns `n` of `len` indices at equal distances, including both ends: `round(linspace(0, len - 1, n))`, half to
/// even.
pub fn linspace(len: usize, n: usize) -> Vec<usize> {
    let step = len.saturating_sub(1) as f64 / n.saturating_sub(1).max(1) as f64;
    (0..n).map(|i| (step * i as f64).round_ties_even() as usize).collect()
}

impl fmt::Display for Seconds {
    /// Formats as `h:mm:ss.sss`, which [`FromStr`] reads back; times below one hour have no hour. Times without a
    /// finite number of milliseconds, which are no times of a video, are in seconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0.0 { "-" } else { "" };
        let milliseconds = (self.0.abs() * 1000.0).round();
        if !milliseconds.is_finite() {
            return write!(f, "{:e} s", self.0);
        }
        let (minutes, seconds) = ((milliseconds / 60_000.0).floor(), (milliseconds % 60_000.0) / 1000.0);
        let (hours, minutes) = ((minutes / 60.0).floor(), minutes % 60.0);
        if hours > 0.0 {
            write!(f, "{sign}{hours}:{minutes:02}:{seconds:06.3}")
        } else {
            write!(f, "{sign}{minutes}:{seconds:06.3}")
        }
    }
}

impl FromStr for Seconds {
    type Err = Error;

    /// Parses `12`, `12.5`, `1:05`, `1:02:03.25`.
    fn from_str(text: &str) -> Result<Self, Error> {
        parse_clock(text).ok_or_else(|| {
            let hint = "seconds (`83.5`) or h:mm:ss (`1:23.5`, `0:01:23.5`)";
            Error::invalid(format!("invalid time `{text}`")).with_hint(hint)
        })
    }
}

/// Parses up to three fields between colons: hours, minutes, seconds. Only the last has a fraction, and only the first
/// may be 60 or more.
fn parse_clock(text: &str) -> Option<Seconds> {
    let (sign, digits) = match text.trim().strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.trim()),
    };
    let fields: Vec<&str> = digits.split(':').collect();
    if fields.len() > 3 {
        return None;
    }
    let mut total = 0.0;
    for (i, field) in fields.iter().enumerate() {
        let is_last = i + 1 == fields.len();
        let is_decimal = field.chars().all(|c| c.is_ascii_digit() || (is_last && c == '.'))
            && field.chars().any(|c| c.is_ascii_digit());
        let value: f64 = if is_decimal { field.parse().ok()? } else { return None };
        if i > 0 && value >= 60.0 {
            return None;
        }
        total = total * 60.0 + value;
    }
    Some(Seconds(sign * total))
}

impl fmt::Display for FrameIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_at_equal_distances_include_both_ends() {
        // 0, 2.25, 4.5 (to even: 4), 6.75, 9.
        assert_eq!(linspace(10, 5), [0, 2, 4, 7, 9]);
        assert_eq!((linspace(9, 1), linspace(1, 2), linspace(0, 0)), (vec![0], vec![0, 0], vec![]));
    }

    #[test]
    fn times_are_parsed_in_seconds_and_in_clock_form() {
        for (text, seconds) in
            [("0", 0.0), ("12.5", 12.5), ("1:05", 65.0), ("1:02:03.25", 3723.25), ("-0:01", -1.0), ("90", 90.0)]
        {
            assert_eq!(text.parse().ok(), Some(Seconds(seconds)), "{text}");
        }
        for text in ["", ":", "1:", "1:60", "1:2:3:4", "abc", "1e3", "NaN", "inf", "--1", ".", "1.5:10"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_printed_in_the_form_that_is_parsed() {
        for (seconds, text) in [
            (0.0, "0:00.000"),
            (65.5, "1:05.500"),
            (3723.25, "1:02:03.250"),
            (59.9999, "1:00.000"),
            (-1.0, "-0:01.000"),
            (1e308, "1e308 s"),
            (f64::NEG_INFINITY, "-inf s"),
            (f64::NAN, "NaN s"),
        ] {
            assert_eq!(Seconds(seconds).to_string(), text);
        }
    }
}
