//! Rows of a data set's files: objects of JSON, JSON Lines, a table or Parquet, with their position for messages.
//!
//! Numbers keep their spelling, so an id is the same as an integer and as a text. Called by the readers of formats.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::ChoiceOptions;
use super::parquet_rows::read_parquet;
use crate::error::{About as _, Error, Result};
use crate::files;
use crate::records::{RecordFormat, decode, parse_array, parse_json, parse_table};
use crate::units::Seconds;

/// Maximum number of bytes of a file of questions; the largest benchmark has a tenth.
const MAX_BYTES: u64 = 1 << 30;

/// Data directory; notes the files that are read.
pub(super) struct DatasetDirectory<'d> {
    path: &'d Path,
    files: RefCell<Vec<PathBuf>>,
}

impl<'d> DatasetDirectory<'d> {
    /// Makes a directory of which no file is read yet.
    pub(super) fn new(path: &'d Path) -> Self {
        Self { path, files: RefCell::default() }
    }

    /// Returns the path of a file that is about to be read, and notes it.
    pub(super) fn file(&self, relative: &Path) -> PathBuf {
        let path = self.path.join(relative);
        self.files.borrow_mut().push(path.clone());
        path
    }

    /// Notes a file that is read later, once for all rows that name it.
    pub(super) fn note(&self, relative: &Path) {
        let path = self.path.join(relative);
        let mut files = self.files.borrow_mut();
        if !files.contains(&path) {
            files.push(path);
        }
    }

    /// Path of the directory.
    pub(super) fn path(&self) -> &'d Path {
        self.path
    }

    /// Returns the files that were read.
    pub(super) fn into_files(self) -> Vec<PathBuf> {
        self.files.into_inner()
    }
}

/// Row of a file.
#[derive(Debug, Clone)]
pub(super) struct DatasetRow {
    fields: Map<String, Value>,
    file: PathBuf,
    /// Position in the file: `line 3`, `entry 7`, or the key of an object.
    position: String,
}

/// Reads a file of rows: an array of objects (`.json`), lines (`.jsonl`), a table (`.csv`, `.tsv`) or Parquet.
///
/// # Errors
/// An unreadable file, an unknown extension, or the first row that is no object.
pub(super) fn read_rows(path: &Path) -> Result<Vec<DatasetRow>> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
        return entries(path, read_parquet(path)?);
    }
    let text = read_text(path)?;
    match RecordFormat::from_path(path) {
        Some(RecordFormat::Table) => {
            let row = |(line, row)| DatasetRow::new(path, format!("line {line}"), row);
            let rows = parse_table(&text, &["question"]).about(path)?.into_iter().map(row);
            Ok(with_empty_cells(rows.collect::<Result<_>>()?))
        }
        Some(RecordFormat::Json) => entries(path, parse_array(&text).about(path)?),
        Some(RecordFormat::Jsonl) => {
            let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
            let row = |(number, line)| {
                let position = format!("line {number}");
                let value = parse_json(line).about(position.clone()).about(path)?;
                DatasetRow::new(path, position, value)
            };
            lines.map(row).collect()
        }
        None => {
            let error = Error::invalid("unknown format of a list").with_hint("a file .json, .jsonl, .csv or .parquet");
            Err(error.about(path))
        }
    }
}

/// Adds the empty cells of a table's rows, which its parser leaves out, as null.
fn with_empty_cells(mut rows: Vec<DatasetRow>) -> Vec<DatasetRow> {
    let columns: BTreeSet<String> = rows.iter().flat_map(|row| row.fields.keys().cloned()).collect();
    for row in &mut rows {
        for column in &columns {
            row.fields.entry(column.clone()).or_insert(Value::Null);
        }
    }
    rows
}

fn entries(path: &Path, values: Vec<Value>) -> Result<Vec<DatasetRow>> {
    (1..).zip(values).map(|(number, value)| DatasetRow::new(path, format!("entry {number}"), value)).collect()
}

/// Reads a file that is one JSON object.
///
/// # Errors
/// An unreadable file, or other JSON.
pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    match parse_json(&read_text(path)?).about(path)? {
        Value::Object(map) => Ok(map),
        _ => Err(Error::invalid("not a JSON object").about(path)),
    }
}

/// Reads a text file.
///
/// # Errors
/// An unreadable file, or bytes that are not UTF-8.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let bytes = files::read_bounded(path, MAX_BYTES).map_err(Error::io(path))?;
    Ok(decode(&bytes).about(path)?.to_owned())
}

impl DatasetRow {
    /// Makes a row of an object.
    ///
    /// # Errors
    /// A value that is no object.
    pub(super) fn new(file: &Path, position: impl Into<String>, value: Value) -> Result<Self> {
        let (file, position) = (file.to_owned(), position.into());
        match value {
            Value::Object(fields) => Ok(Self { fields, file, position }),
            _ => Err(Error::invalid("not an object").about(position).about(&file)),
        }
    }

    /// Makes the error of a rule that this row breaks.
    pub(super) fn error(&self, rule: impl Into<String>) -> Error {
        self.locate(Error::invalid(rule.into()))
    }

    /// Adds the file and the position to an error.
    pub(super) fn locate(&self, error: Error) -> Error {
        error.about(self.position.clone()).about(&self.file)
    }

    /// Returns a field, unless it is absent or null.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// Returns a text or the digits of a number, if the field is present.
    pub(super) fn optional(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(format!("`{key}` is not a text or a number"))),
        }
    }

    /// Returns a text or the digits of a number.
    pub(super) fn text(&self, key: &str) -> Result<&str> {
        self.optional(key)?.ok_or_else(|| self.error(format!("missing field `{key}`")))
    }

    /// Returns the first of some fields that is present.
    pub(super) fn any_text(&self, keys: &[&str]) -> Result<&str> {
        for key in keys {
            if let Some(text) = self.optional(key)? {
                return Ok(text);
            }
        }
        Err(self.error(format!("missing field `{}`", keys.join("` or `"))))
    }

    /// Returns a list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>> {
        let list = self.value(key).ok_or_else(|| self.error(format!("missing field `{key}`")))?;
        let texts = list
            .as_array()
            .map(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>());
        texts.flatten().ok_or_else(|| self.error(format!("`{key}` is not a list of texts")))
    }

    /// Returns a list of objects as rows.
    pub(super) fn rows(&self, key: &str) -> Result<Vec<Self>> {
        let list = self.value(key).and_then(Value::as_array);
        let list = list.ok_or_else(|| self.error(format!("missing list `{key}`")))?;
        let row = |(number, value): (usize, &Value)| {
            Self::new(&self.file, format!("{}, `{key}` {number}", self.position), value.clone())
        };
        (1..).zip(list).map(row).collect()
    }

    /// Returns a list of texts as options with letters.
    pub(super) fn options(&self, key: &str) -> Result<ChoiceOptions> {
        ChoiceOptions::lettered(self.texts(key)?).map_err(|error| self.locate(error))
    }

    /// Returns the index of the option whose text is that of a field.
    pub(super) fn position(&self, key: &str, options: &ChoiceOptions) -> Result<usize> {
        let text = self.text(key)?;
        let position = options.position_of(text);
        position.ok_or_else(|| self.error(format!("the {key} `{text}` is none of the options")))
    }

    /// Returns an index below `n`.
    pub(super) fn index(&self, key: &str, n: usize) -> Result<usize> {
        let text = self.text(key)?;
        let index = text.trim().parse().ok().filter(|&index: &usize| index < n);
        index.ok_or_else(|| self.error(format!("`{key}` is `{text}`; expected an index below {n}")))
    }

    /// Returns a time in seconds, if the field is present.
    pub(super) fn seconds(&self, key: &str) -> Result<Option<Seconds>> {
        let Some(text) = self.optional(key)? else { return Ok(None) };
        let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
        seconds
            .map(|seconds| Some(Seconds(seconds)))
            .ok_or_else(|| self.error(format!("`{key}`: invalid time `{text}`")))
    }

    /// Returns the texts of `a0`, `a1`, ...
    ///
    /// # Errors
    /// An empty field, or a missing one before others.
    pub(super) fn numbered(&self, prefix: &str) -> Result<Vec<String>> {
        let number = |key: &String| key.strip_prefix(prefix)?.parse::<usize>().ok();
        let n = self.fields.keys().filter_map(number).max().map_or(0, |last| last + 1);
        let text = |index: usize| {
            let key = format!("{prefix}{index}");
            match self.optional(&key)? {
                Some(text) if !text.trim().is_empty() => Ok(text.to_owned()),
                _ if self.fields.contains_key(&key) => Err(self.error(format!("`{key}` is empty"))),
                _ => Err(self.error(format!("missing field `{key}` before `{prefix}{}`", n - 1))),
            }
        };
        (0..n).map(text).collect()
    }
}
