//! Rate of the images of a directory, which gives them times. Called by the reader of directories, and by everything
//! that names a video: plans, manifests, questions, benchmarks.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::Error;
use crate::units::Seconds;

/// Images per second of a directory of images: image `i`, counted from 0 in natural order of names, is shown from
/// `i / rate` seconds on.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct ImageRate(f64);

impl ImageRate {
    /// Makes a rate.
    ///
    /// # Errors
    /// A number of images that is not finite or not above 0.
    pub fn new(per_second: f64) -> Result<Self, Error> {
        if per_second.is_finite() && per_second > 0.0 {
            return Ok(Self(per_second));
        }
        Err(Error::invalid(format!("invalid rate of {per_second} images a second")).with_hint("a number above 0"))
    }

    /// Returns the number of images per second.
    pub fn per_second(self) -> f64 {
        self.0
    }

    /// Returns the time from which an image is shown.
    pub fn time_of(self, image: usize) -> Seconds {
        Seconds(image as f64 / self.0)
    }

    /// Refuses a rate of a video that is not a directory.
    ///
    /// # Errors
    /// A path that is not a directory.
    pub(super) fn check_directory(self, path: &Path) -> Result<(), Error> {
        if path.is_dir() {
            return Ok(());
        }
        let rule = "image_rate (--image-rate) gives the images of a directory times, and this is not a directory";
        Err(Error::invalid(rule).with_hint("leave it out: the file has times of its own").about(path))
    }
}

impl FromStr for ImageRate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::invalid(format!("invalid image rate `{text}`")).with_hint("images per second, above 0");
        Self::new(text.trim().parse().map_err(|_| invalid())?).map_err(|_| invalid())
    }
}

impl fmt::Display for ImageRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for ImageRate {
    /// Deserializes a number, or its digits: lists that people write are read with their numbers as strings.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum NumberOrDigits {
            Number(f64),
            Digits(String),
        }
        let rate = match NumberOrDigits::deserialize(deserializer)? {
            NumberOrDigits::Number(per_second) => Self::new(per_second),
            NumberOrDigits::Digits(digits) => digits.parse(),
        };
        rate.map_err(|error| D::Error::custom(error.statement()))
    }
}

impl JsonSchema for ImageRate {
    fn schema_name() -> Cow<'static, str> {
        "ImageRate".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "exclusiveMinimum": 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_above_0_or_its_digits() {
        let read = |text: &str| serde_json::from_str::<ImageRate>(text).map_err(|error| error.to_string());
        for text in ["3", "3.0", "\"3\"", "\" 3.00 \""] {
            assert_eq!(read(text).map(ImageRate::per_second), Ok(3.0), "{text}");
        }
        for text in ["0", "-3", "\"0\"", "\"x\"", "\"nan\"", "\"inf\"", "true", "[3]"] {
            assert!(read(text).is_err(), "{text}");
        }
        let error = "3 fps".parse::<ImageRate>().expect_err("not a number").to_string();
        assert_eq!(error, "invalid image rate `3 fps`; hint: images per second, above 0");
        let rate = ImageRate::new(3.0).expect("above 0");
        assert_eq!([0, 1, 6].map(|i| rate.time_of(i)), [0.0, 1.0 / 3.0, 2.0].map(Seconds));
    }

    #[test]
    fn a_file_has_no_image_rate() {
        let dir = tempfile::tempdir().expect("a directory");
        let rate = ImageRate::new(3.0).expect("above 0");
        assert!(rate.check_directory(dir.path()).is_ok());
        let error = rate.check_directory(&dir.path().join("a.mp4")).expect_err("not a directory").to_string();
        assert!(error.contains("a.mp4: image_rate (--image-rate) gives the images of a directory times"), "{error}");
    }
}
