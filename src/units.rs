//! Units as types: seconds, frame indices, hidden-state indices, token counts.
//!
//! They keep a frame's index apart from its time and a layer apart from a token. No arithmetic
//! beyond what the code needs.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// A time on a video's own clock, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Seconds(pub f64);

impl<'de> Deserialize<'de> for Seconds {
    /// Reads a number of seconds, or a text as [`FromStr`] does.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(f64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(seconds) => Ok(Self(seconds)),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
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
        json_schema!({ "type": ["number", "string"], "pattern": r"^\s*-?(\d+|\d+:[0-5]?\d|\d+:[0-5]?\d:[0-5]?\d)(\.\d*)?\s*$", "x-hint": "seconds, or h:mm:ss" })
    }
}

/// A frame's place among the decodable frames of a video, in presentation order, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FrameIndex(pub usize);

/// An index into a tower's hidden states: 0 is the embedding output, `L` the last layer's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerIndex(pub usize);

/// A number of positions in the language model's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tokens(pub usize);

/// `n` of `have` places at equal distances, both ends among them: `round(linspace(0, have - 1, n))`, half to even.
pub fn linspace(have: usize, n: usize) -> Vec<usize> {
    let step = have.saturating_sub(1) as f64 / n.saturating_sub(1).max(1) as f64;
    (0..n).map(|i| (step * i as f64).round_ties_even() as usize).collect()
}

impl fmt::Display for Seconds {
    /// `h:mm:ss.sss`, the form that [`FromStr`] reads back; the hour is left out below one hour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0.0 { "-" } else { "" };
        let milliseconds = (self.0.abs() * 1000.0).round();
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
    type Err = String;

    /// Reads `12`, `12.5`, `1:05`, `1:02:03.25`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is no time; hint: seconds (`83.5`) or h:mm:ss (`1:23.5`, `0:01:23.5`)");
        let (sign, digits) = match text.trim().strip_prefix('-') {
            Some(rest) => (-1.0, rest),
            None => (1.0, text.trim()),
        };
        let parts: Vec<&str> = digits.split(':').collect();
        if parts.len() > 3 {
            return Err(wrong());
        }
        let mut total = 0.0;
        for (place, part) in parts.iter().enumerate() {
            let last = place + 1 == parts.len();
            let plain = !part.is_empty()
                && part.chars().all(|c| c.is_ascii_digit() || (last && c == '.'))
                && part.chars().any(|c| c.is_ascii_digit());
            let value: f64 = if plain { part.parse().map_err(|_| wrong())? } else { return Err(wrong()) };
            if place > 0 && value >= 60.0 {
                return Err(wrong());
            }
            total = total * 60.0 + value;
        }
        Ok(Seconds(sign * total))
    }
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
    fn places_at_equal_distances_hold_both_ends() {
        // 0, 2.25, 4.5 (to even: 4), 6.75, 9.
        assert_eq!(linspace(10, 5), [0, 2, 4, 7, 9]);
        assert_eq!((linspace(9, 1), linspace(1, 2), linspace(0, 0)), (vec![0], vec![0, 0], vec![]));
    }

    #[test]
    fn times_are_read_in_seconds_and_in_clock_form() {
        for (text, seconds) in
            [("0", 0.0), ("12.5", 12.5), ("1:05", 65.0), ("1:02:03.25", 3723.25), ("-0:01", -1.0), ("90", 90.0)]
        {
            assert_eq!(text.parse(), Ok(Seconds(seconds)), "{text}");
        }
        for text in ["", ":", "1:", "1:60", "1:2:3:4", "abc", "1e3", "NaN", "inf", "--1", ".", "1.5:10"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_print_as_they_are_read() {
        for (seconds, text) in [
            (0.0, "0:00.000"),
            (65.5, "1:05.500"),
            (3723.25, "1:02:03.250"),
            (59.9999, "1:00.000"),
            (-1.0, "-0:01.000"),
        ] {
            assert_eq!(Seconds(seconds).to_string(), text);
        }
    }
}
