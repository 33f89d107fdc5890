//! Entries of a manifest of paths or JSON objects: one per line, or in an array.

use std::collections::BTreeMap;
use std::io::BufRead;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::text::ManifestText;
use super::{EntryReading, ManifestSource, window};
use crate::batch::archive::ArchiveEntry;
use crate::batch::questions::BatchQuestion;
use crate::error::{Error, Kind};
use crate::records::{decode, parse_record, unique_map};
use crate::units::Seconds;
use crate::video::ImageRate;

/// Entry of a line or an object, and its unused keys.
pub(super) struct ParsedEntry {
    entry: ArchiveEntry,
    unused: Vec<String>,
}

/// Parser of a line.
type ParseLine = fn(&ManifestSource, &[u8]) -> Result<ParsedEntry, Error>;

/// Entries of a manifest with one entry per line.
pub(super) struct ManifestLines<R> {
    text: ManifestText<R>,
    source: ManifestSource,
    parse: ParseLine,
    /// Unused keys of the first object with some, to be reported once; `None` afterwards.
    unused: Option<Vec<String>>,
    has_ended: bool,
}

impl<R: BufRead> ManifestLines<R> {
    pub(super) fn new(text: R, source: ManifestSource, parse: ParseLine) -> Self {
        Self { text: ManifestText::new(text), source, parse, unused: Some(Vec::new()), has_ended: false }
    }
}

impl<R: BufRead> Iterator for ManifestLines<R> {
    type Item = ArchiveEntry;

    fn next(&mut self) -> Option<ArchiveEntry> {
        if self.unused.as_ref().is_some_and(|keys| !keys.is_empty()) {
            return self.unused.take().map(ArchiveEntry::Ignored);
        }
        while !self.has_ended {
            let line = match self.text.next() {
                Ok(None) => break,
                Ok(Some(line)) => line,
                Err(error) => {
                    self.has_ended = true;
                    let error = Error::caused_by(Kind::Unreadable, error);
                    return Some(self.source.failed(self.text.line + 1, &error));
                }
            };
            let parsed = match line {
                Ok(line) if line.trim_ascii().is_empty() => continue,
                Ok(line) => (self.parse)(&self.source, &line),
                Err(error) => Err(error),
            };
            return Some(match parsed {
                Ok(ParsedEntry { entry, unused }) => {
                    if let Some(keys) = self.unused.as_mut() {
                        *keys = unused;
                    }
                    entry
                }
                Err(error) => self.source.failed(self.text.line, &error),
            });
        }
        None
    }
}

/// Returns the entries of an array of objects or paths.
pub(super) fn entries_of_array(
    records: Vec<Value>,
    source: ManifestSource,
) -> impl Iterator<Item = ArchiveEntry> + Send {
    let mut is_reported = false;
    records.into_iter().zip(1..).flat_map(move |(record, number)| {
        let parsed = match record {
            Value::String(path) => parse_path(&source, path.as_bytes()),
            record => serde_json::from_value(record)
                .map_err(|error| Error::caused_by(Kind::Invalid, error))
                .and_then(|object| entry_of_object(&source, object)),
        };
        let ParsedEntry { entry, unused } =
            parsed.unwrap_or_else(|error| ParsedEntry { entry: source.failed(number, &error), unused: Vec::new() });
        let reports = !is_reported && !unused.is_empty();
        is_reported |= reports;
        [Some(entry), reports.then_some(ArchiveEntry::Ignored(unused))].into_iter().flatten()
    })
}

/// Parses a line that is a path.
pub(super) fn parse_path(source: &ManifestSource, line: &[u8]) -> Result<ParsedEntry, Error> {
    Ok(ParsedEntry { entry: source.item(line, EntryReading::default(), Vec::new())?, unused: Vec::new() })
}

/// Parses a line that is a JSON object.
pub(super) fn parse_object(source: &ManifestSource, line: &[u8]) -> Result<ParsedEntry, Error> {
    entry_of_object(source, decode(line).and_then(parse_record)?)
}

/// An object of a manifest, with its numbers as texts.
#[derive(Deserialize)]
struct ManifestObject {
    #[serde(alias = "path", alias = "file")]
    video: String,
    #[serde(default, deserialize_with = "time")]
    start: Option<Seconds>,
    #[serde(default, deserialize_with = "time")]
    end: Option<Seconds>,
    image_rate: Option<ImageRate>,
    question: Option<String>,
    question_id: Option<String>,
    #[serde(default)]
    questions: Vec<BatchQuestion>,
    #[serde(flatten, deserialize_with = "unique_map")]
    rest: BTreeMap<String, Value>,
}

/// Deserializes a number of seconds, or a time in the format of [`Seconds`].
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Seconds>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() => Ok(Some(Seconds(seconds))),
        _ => text.parse().map(Some).map_err(D::Error::custom),
    }
}

fn entry_of_object(source: &ManifestSource, object: ManifestObject) -> Result<ParsedEntry, Error> {
    let ManifestObject { video, start, end, image_rate, question, mut question_id, mut questions, mut rest } = object;
    // Beside a question, `id` is the question's.
    if question.is_some() && question_id.is_none() && rest.get("id").is_some_and(Value::is_string) {
        question_id = rest.remove("id").and_then(|id| id.as_str().map(str::to_owned));
    }
    questions.extend(question.map(|question| BatchQuestion { id: question_id, question }));
    let reading = EntryReading { window: window(start, end)?, image_rate };
    let entry = source.item(video.as_bytes(), reading, questions)?;
    Ok(ParsedEntry { entry, unused: rest.into_keys().collect() })
}
