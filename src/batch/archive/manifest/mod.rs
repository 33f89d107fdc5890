//! Manifests: a path per line, JSON objects or a table, read as a stream. An invalid line becomes a failed entry, named
//! by its number.
//!
//! `text` reads lines, `objects` parses lines and arrays, `rows` parses tables; this file detects the format. Called by
//! [`Archive::list`](super::Archive::list).

mod objects;
mod rows;
#[cfg(test)]
mod tests;
mod text;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::objects::{ManifestLines, entries_of_array, parse_object, parse_path};
use self::rows::ManifestRows;
use self::text::MAX_LINE;
use super::{ArchiveEntry, ArchiveUrls, FailedEntry, ManifestFormat};
use crate::batch::item::ArchiveItem;
use crate::batch::questions::BatchQuestion;
use crate::error::{About as _, Error};
use crate::fetch::check_url;
use crate::files::placeholder;
use crate::records::{decode, delimiter, is_utf_16, parse_array, utf_16_error};
use crate::units::Seconds;
use crate::video::{ImageRate, Window};

/// Maximum number of bytes of a path.
const MAX_PATH: usize = 4096;
/// Names of the column or key of the path.
const VIDEO: [&str; 3] = ["video", "path", "file"];
/// Maximum number of bytes of a JSON array, which is read as a whole.
const MAX_ARRAY: u64 = 1 << 30;

/// Lists the entries of a manifest; without a path, of standard input.
pub(super) fn list(
    path: Option<&Path>,
    paths: ManifestPaths,
    format: Option<ManifestFormat>,
) -> Result<Box<dyn Iterator<Item = ArchiveEntry> + Send>, Error> {
    // The identity of a line does not depend on the manifest's directory.
    let name =
        path.and_then(Path::file_name).map_or_else(|| "-".to_owned(), |name| name.to_string_lossy().into_owned());
    let opened: io::Result<Box<dyn Read + Send>> = match path {
        None => Ok(Box::new(io::stdin())),
        Some(path) => File::open(path).map(|file| Box::new(file) as Box<dyn Read + Send>),
    };
    let shown = path.unwrap_or(Path::new("-"));
    let mut reader = BufReader::new(opened.map_err(Error::io(shown))?);
    let (first, format) = first_line(&mut reader, format).map_err(Error::io(shown))?;
    if is_utf_16(&first) {
        return Err(utf_16_error().about(shown));
    }
    if let Some(error) = placeholder(&first) {
        return Err(error.about(shown));
    }
    let text = Cursor::new(first).chain(reader);
    let source = ManifestSource { name, paths };
    match format {
        ManifestFormat::Json => {
            let mut bytes = Vec::new();
            text.take(MAX_ARRAY + 1).read_to_end(&mut bytes).map_err(Error::io(shown))?;
            if bytes.len() as u64 > MAX_ARRAY {
                let error = Error::invalid(format!("an array of more than {MAX_ARRAY} bytes"));
                return Err(error.with_hint(".jsonl, one object per line").about(shown));
            }
            let records = decode(&bytes).and_then(parse_array).about(shown)?;
            Ok(Box::new(entries_of_array(records, source)))
        }
        ManifestFormat::Lines => Ok(Box::new(ManifestLines::new(text, source, parse_path))),
        ManifestFormat::Jsonl => Ok(Box::new(ManifestLines::new(text, source, parse_object))),
        ManifestFormat::Csv => Ok(Box::new(ManifestRows::new(text, source)?)),
    }
}

/// Reads the first line of a manifest, and returns it with the given format or the one that the line suggests.
fn first_line(reader: &mut impl BufRead, format: Option<ManifestFormat>) -> io::Result<(Vec<u8>, ManifestFormat)> {
    let mut first = Vec::new();
    reader.take(MAX_LINE as u64).read_until(b'\n', &mut first)?;
    let first = first.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec).unwrap_or(first);
    let begins = |prefix: &[u8]| first.trim_ascii_start().starts_with(prefix);
    let is_object = || serde_json::from_slice::<serde::de::IgnoredAny>(&first).is_ok();
    let format = match format {
        // One object per line, in a file with the extension of an array.
        Some(ManifestFormat::Json) if begins(b"{") && is_object() => ManifestFormat::Jsonl,
        Some(format) => format,
        None if begins(b"{") => ManifestFormat::Jsonl,
        // A path may begin with a bracket too.
        None if begins(b"[{") || first.trim_ascii() == b"[" || begins_as_array(&first) => ManifestFormat::Json,
        None if delimiter(&first, &VIDEO).is_some() => ManifestFormat::Csv,
        None => ManifestFormat::Lines,
    };
    Ok((first, format))
}

/// Returns whether a line is a JSON array, or the beginning of one.
fn begins_as_array(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"[")
        && match serde_json::from_slice::<Value>(line) {
            Ok(_) => true,
            // A bracket alone may begin a path.
            Err(error) => error.is_eof() && line.trim_ascii().len() > 1,
        }
}

/// Meaning of the paths of a manifest.
#[derive(Debug, Clone)]
pub(super) struct ManifestPaths {
    /// Directory of relative paths.
    pub(super) root: PathBuf,
    /// Meaning of URLs.
    pub(super) urls: ArchiveUrls,
}

/// Rules by which an entry's video is read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct EntryReading {
    /// Part of the video.
    window: Option<Window>,
    /// Rate of the images of a directory.
    image_rate: Option<ImageRate>,
}

/// Name of a manifest, and the meaning of its paths.
struct ManifestSource {
    name: String,
    paths: ManifestPaths,
}

impl ManifestSource {
    /// Returns the failed entry of a line.
    fn failed(&self, line: u64, error: &Error) -> ArchiveEntry {
        ArchiveEntry::Failed(FailedEntry::new(format!("{}:{line}", self.name).as_bytes(), "manifest", error))
    }

    /// Returns the item of a line.
    ///
    /// # Errors
    /// A missing or overlong path, a URL that breaks a rule of notation, or an empty question.
    fn item(&self, video: &[u8], reading: EntryReading, questions: Vec<BatchQuestion>) -> Result<ArchiveEntry, Error> {
        if video.is_empty() {
            return Err(Error::invalid("the video has no name"));
        }
        if video.len() > MAX_PATH {
            return Err(Error::invalid(format!("a path of {} bytes, over {MAX_PATH}", video.len())));
        }
        if questions.iter().any(|question| question.question.trim().is_empty()) {
            return Err(Error::invalid("a question is empty"));
        }
        let path = match self.paths.urls.url(video) {
            // A URL with credentials is not to be named in the results.
            Some(url) => check_url(url).map(|()| PathBuf::from(url))?,
            None => self.paths.root.join(to_path(video)),
        };
        let item = ArchiveItem::new(video, path, reading.window).with_image_rate(reading.image_rate);
        Ok(ArchiveEntry::Item(ArchiveItem { questions, ..item }))
    }
}

/// Returns the window of two times, if there is one.
///
/// # Errors
/// A start that is not before the end.
fn window(start: Option<Seconds>, end: Option<Seconds>) -> Result<Option<Window>, Error> {
    match (start, end) {
        (None, None) => Ok(None),
        (Some(start), Some(end)) if start >= end => {
            Err(Error::invalid(format!("start {start} is not before end {end}")))
        }
        (start, end) => Ok(Some(Window { start, end })),
    }
}

#[cfg(unix)]
fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes))
}

#[cfg(not(unix))]
fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(String::from_utf8_lossy(bytes).into_owned())
}
