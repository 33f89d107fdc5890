//! A manifest as an archive: a path a line, objects, or a table, read as it comes. A line that says nothing usable is a failed
//! item, named by its number.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{ArchiveEntry, FailedEntry, ManifestFormat};
use crate::batch::BatchError;
use crate::batch::item::{ArchiveItem, Id, readable};
use crate::batch::questions::BatchQuestion;
use crate::files::stand_in;
use crate::records::{
    TableFault, cells, check_width, decode, delimiter, find_fault, header_hint, is_utf_16, parse_array, parse_json,
    utf_16_error,
};
use crate::units::Seconds;
use crate::video::Window;

/// Bytes of a line: no real one comes near.
const MAX_LINE: usize = 1 << 20;
/// Bytes of a path that a system takes.
const MAX_NAME: usize = 4096;
/// Names of the column or key that holds the path.
const VIDEO: [&str; 3] = ["video", "path", "file"];

/// Bytes of a manifest that is one JSON array, which is read as a whole.
const MAX_ARRAY: u64 = 1 << 30;

/// The items of a manifest; without a path, of standard input.
pub(super) fn list(
    path: Option<&Path>,
    root: PathBuf,
    format: Option<ManifestFormat>,
) -> Result<Box<dyn Iterator<Item = ArchiveEntry> + Send>, BatchError> {
    // A line's identity is the same wherever the manifest lies.
    let name =
        path.and_then(Path::file_name).map_or_else(|| "-".to_owned(), |name| name.to_string_lossy().into_owned());
    let opened: io::Result<Box<dyn Read + Send>> = match path {
        None => Ok(Box::new(io::stdin())),
        Some(path) => File::open(path).map(|file| Box::new(file) as Box<dyn Read + Send>),
    };
    let shown = path.unwrap_or(Path::new("-"));
    let mut reader = BufReader::new(opened.map_err(BatchError::io(shown))?);
    let (first, format) = first_line(&mut reader, format).map_err(BatchError::io(shown))?;
    let wrong = |cause: String| BatchError::Manifest { name: shown.to_string_lossy().into_owned(), cause };
    if is_utf_16(&first) {
        return Err(wrong(utf_16_error().to_string()));
    }
    if let Some(sign) = stand_in(&first) {
        return Err(wrong(sign.to_string()));
    }
    let text = Cursor::new(first).chain(reader);
    let place = ManifestSource { name, root };
    match format {
        ManifestFormat::Json => {
            let mut bytes = Vec::new();
            text.take(MAX_ARRAY + 1).read_to_end(&mut bytes).map_err(BatchError::io(shown))?;
            if bytes.len() as u64 > MAX_ARRAY {
                return Err(wrong(format!("over {MAX_ARRAY} bytes in one array; hint: .jsonl, an object a line")));
            }
            let records = decode(&bytes).and_then(parse_array).map_err(|error| wrong(error.to_string()))?;
            Ok(Box::new(array(records, place)))
        }
        ManifestFormat::Lines => Ok(Box::new(ManifestLines::new(text, place, path_of_line))),
        ManifestFormat::Jsonl => Ok(Box::new(ManifestLines::new(text, place, object_of_line))),
        ManifestFormat::Csv => Ok(Box::new(ManifestRows::new(text, place)?)),
    }
}

/// The beginning of a manifest, and how it is written: as is known, or as the beginning looks.
fn first_line(reader: &mut impl BufRead, format: Option<ManifestFormat>) -> io::Result<(Vec<u8>, ManifestFormat)> {
    let mut first = Vec::new();
    reader.take(MAX_LINE as u64).read_until(b'\n', &mut first)?;
    let first = first.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec).unwrap_or(first);
    let begins = |sign: &[u8]| first.trim_ascii_start().starts_with(sign);
    let is_object = || serde_json::from_slice::<serde::de::IgnoredAny>(&first).is_ok();
    let format = match format {
        // An object a line, under the name of an array.
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

/// Whether a line is an array of JSON, or the beginning of one.
fn begins_as_array(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"[")
        && match serde_json::from_slice::<Value>(line) {
            Ok(_) => true,
            // Not after the bracket alone, which a path may begin with.
            Err(error) => error.is_eof() && line.trim_ascii().len() > 1,
        }
}

/// Where a manifest is.
struct ManifestSource {
    name: String,
    /// Where its paths begin.
    root: PathBuf,
}

impl ManifestSource {
    fn unlisted(&self, line: u64, cause: impl Into<String>) -> ArchiveEntry {
        ArchiveEntry::Failed(FailedEntry::new(format!("{}:{line}", self.name).as_bytes(), "manifest", cause))
    }

    fn item(&self, video: &[u8], window: Option<Window>, questions: Vec<BatchQuestion>) -> ArchiveEntry {
        let path = self.root.join(to_path(video));
        ArchiveEntry::Item(ArchiveItem {
            id: Id::of_item(video, window.as_ref()),
            video: readable(video),
            path,
            window,
            questions,
        })
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

/// The lines of a text, one after the other.
struct Text<R> {
    reader: R,
    /// Lines that were read ahead, the next one first.
    ahead: VecDeque<Vec<u8>>,
    /// The number of the last line that was handed out.
    line: u64,
}

impl<R: BufRead> Text<R> {
    fn new(reader: R) -> Self {
        Self { reader, ahead: VecDeque::new(), line: 0 }
    }

    /// The next line without its end, or what is wrong with it; none at the end of the text.
    fn next(&mut self) -> io::Result<Option<Result<Vec<u8>, String>>> {
        if let Some(line) = self.ahead.pop_front() {
            self.line += 1;
            return Ok(Some(Ok(line)));
        }
        let mut line = Vec::new();
        if (&mut self.reader).take(MAX_LINE as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        self.line += 1;
        if line.last() != Some(&b'\n') && line.len() == MAX_LINE {
            self.reader.skip_until(b'\n')?;
            return Ok(Some(Err(format!("a line of more than {MAX_LINE} bytes"))));
        }
        let end = line.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
        line.truncate(end);
        Ok(Some(Ok(line)))
    }

    /// Gives back lines that were handed out last, to be handed out again.
    fn give_back(&mut self, lines: Vec<Vec<u8>>) {
        self.line -= lines.len() as u64;
        lines.into_iter().rev().for_each(|line| self.ahead.push_front(line));
    }
}

/// What a line gives; `Err` says in words what is wrong with it.
type Parse = fn(&ManifestSource, &[u8]) -> Result<(ArchiveEntry, Vec<String>), String>;

/// A manifest of lines that each stand alone.
struct ManifestLines<R> {
    text: Text<R>,
    place: ManifestSource,
    parse: Parse,
    ignored: Option<Vec<String>>,
    ended: bool,
}

impl<R: BufRead> ManifestLines<R> {
    fn new(text: R, place: ManifestSource, parse: Parse) -> Self {
        Self { text: Text::new(text), place, parse, ignored: Some(Vec::new()), ended: false }
    }
}

impl<R: BufRead> Iterator for ManifestLines<R> {
    type Item = ArchiveEntry;

    fn next(&mut self) -> Option<ArchiveEntry> {
        if self.ignored.as_ref().is_some_and(|keys| !keys.is_empty()) {
            return self.ignored.take().map(ArchiveEntry::Ignored);
        }
        while !self.ended {
            let line = match self.text.next() {
                Ok(None) => break,
                Ok(Some(line)) => line,
                Err(error) => {
                    self.ended = true;
                    return Some(self.place.unlisted(self.text.line + 1, error.to_string()));
                }
            };
            let parsed = match line {
                Ok(line) if line.trim_ascii().is_empty() => continue,
                Ok(line) => (self.parse)(&self.place, &line),
                Err(cause) => Err(cause),
            };
            return Some(match parsed {
                Ok((listed, ignored)) => {
                    if let Some(keys) = self.ignored.as_mut() {
                        *keys = ignored;
                    }
                    listed
                }
                Err(cause) => self.place.unlisted(self.text.line, cause),
            });
        }
        None
    }
}

fn path_of_line(place: &ManifestSource, line: &[u8]) -> Result<(ArchiveEntry, Vec<String>), String> {
    Ok((checked(place, line, None, Vec::new())?, Vec::new()))
}

/// An object of a manifest; its numbers are texts by now.
#[derive(Deserialize)]
struct ManifestObject {
    #[serde(alias = "path", alias = "file")]
    video: String,
    #[serde(default, deserialize_with = "time")]
    start: Option<Seconds>,
    #[serde(default, deserialize_with = "time")]
    end: Option<Seconds>,
    question: Option<String>,
    question_id: Option<String>,
    #[serde(default)]
    questions: Vec<BatchQuestion>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Reads a number as JSON writes it, or a text as [`Seconds`] does.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Seconds>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() => Ok(Some(Seconds(seconds))),
        _ => text.parse().map(Some).map_err(D::Error::custom),
    }
}

/// The items of an array of objects, or of paths.
fn array(records: Vec<Value>, place: ManifestSource) -> impl Iterator<Item = ArchiveEntry> + Send {
    let mut is_told = false;
    records.into_iter().zip(1..).flat_map(move |(record, number)| {
        let item = match record {
            Value::String(path) => path_of_line(&place, path.as_bytes()),
            record => serde_json::from_value(record)
                .map_err(|error| error.to_string())
                .and_then(|object| item_of_object(&place, object)),
        };
        let (item, ignored) = item.unwrap_or_else(|cause| (place.unlisted(number, cause), Vec::new()));
        let is_news = !is_told && !ignored.is_empty();
        is_told |= is_news;
        [Some(item), is_news.then_some(ArchiveEntry::Ignored(ignored))].into_iter().flatten()
    })
}

fn object_of_line(place: &ManifestSource, line: &[u8]) -> Result<(ArchiveEntry, Vec<String>), String> {
    item_of_object(place, decode(line).and_then(parse_json).map_err(|error| error.to_string())?)
}

fn item_of_object(place: &ManifestSource, object: ManifestObject) -> Result<(ArchiveEntry, Vec<String>), String> {
    let ManifestObject { video, start, end, question, mut question_id, mut questions, mut rest } = object;
    // Beside a question `id` is its name; alone, that of something else.
    if question.is_some() && question_id.is_none() && rest.get("id").is_some_and(Value::is_string) {
        question_id = rest.remove("id").and_then(|id| id.as_str().map(str::to_owned));
    }
    questions.extend(question.map(|question| BatchQuestion { id: question_id, question }));
    let listed = checked(place, video.as_bytes(), window(start, end)?, questions)?;
    Ok((listed, rest.into_keys().collect()))
}

fn window(start: Option<Seconds>, end: Option<Seconds>) -> Result<Option<Window>, String> {
    match (start, end) {
        (None, None) => Ok(None),
        (Some(start), Some(end)) if start >= end => Err(format!("start {start} is not before end {end}")),
        (start, end) => Ok(Some(Window { start, end })),
    }
}

fn checked(
    place: &ManifestSource,
    video: &[u8],
    window: Option<Window>,
    questions: Vec<BatchQuestion>,
) -> Result<ArchiveEntry, String> {
    if video.is_empty() {
        return Err("the video has no name".to_owned());
    }
    if video.len() > MAX_NAME {
        return Err(format!("a name of {} bytes; no path has more than {MAX_NAME}", video.len()));
    }
    if questions.iter().any(|question| question.question.trim().is_empty()) {
        return Err("a question is empty".to_owned());
    }
    Ok(place.item(video, window, questions))
}

/// A table: rows about the same part of a video that follow each other are one item.
struct ManifestRows<R> {
    text: Text<R>,
    place: ManifestSource,
    columns: Columns,
    /// Delimiter of the cells.
    delimiter: u8,
    ignored: Option<Vec<String>>,
    /// The row that belongs to the next item.
    ahead: Option<Result<ManifestColumns, ArchiveEntry>>,
    ended: bool,
}

/// Lines that a row may go over, where a quoted cell does.
const MAX_LINES_OF_ROW: usize = 100;

/// The number of a row's first line, and the row, or what is wrong with it.
type NumberedRow = (u64, Result<Vec<u8>, String>);

/// Where in a row things stand.
struct Columns {
    video: usize,
    start: Option<usize>,
    end: Option<usize>,
    question: Option<usize>,
    question_id: Option<usize>,
    /// Number of columns.
    n: usize,
}

struct ManifestColumns {
    line: u64,
    video: Vec<u8>,
    window: Option<Window>,
    question: Option<BatchQuestion>,
}

impl<R: BufRead> ManifestRows<R> {
    fn new(text: R, place: ManifestSource) -> Result<Self, BatchError> {
        let wrong = |cause: String| BatchError::Manifest { name: place.name.clone(), cause };
        let mut text = Text::new(text);
        let header = text.next().map_err(|error| wrong(error.to_string()))?.unwrap_or(Ok(Vec::new())).map_err(wrong)?;
        let delimiter = delimiter(&header, &VIDEO).unwrap_or(b',');
        if let Some((_, fault)) = find_fault(&header, delimiter) {
            return Err(wrong(format!("line 1: {}", crate::error::Error::from(fault))));
        }
        let first = String::from_utf8_lossy(&header).into_owned();
        let header = cells(&header, delimiter).map_err(|error| wrong(error.to_string()))?;
        let name = |name: &[u8]| String::from_utf8_lossy(name).trim().to_ascii_lowercase();
        let names: Vec<String> = header.iter().map(name).collect();
        let find = |wanted: &str| names.iter().position(|name| name == wanted);
        let video = VIDEO.iter().find_map(|name| find(name)).ok_or_else(|| {
            wrong(format!("no column `video` among {}; hint: {}", names.join(", "), header_hint(&first)))
        })?;
        let columns = Columns {
            video,
            start: find("start"),
            end: find("end"),
            question: find("question"),
            // Without a question it is an identity of something else.
            question_id: find("question_id").or_else(|| find("question").and_then(|_| find("id"))),
            n: names.len(),
        };
        let used = [Some(video), columns.start, columns.end, columns.question, columns.question_id];
        let ignored = names.iter().enumerate().filter(|(i, _)| !used.contains(&Some(*i)));
        let ignored = Some(ignored.map(|(_, name)| name.clone()).collect());
        Ok(Self { text, place, columns, delimiter, ignored, ahead: None, ended: false })
    }

    fn next_row(&mut self) -> Option<Result<ManifestColumns, ArchiveEntry>> {
        if self.ahead.is_some() {
            return self.ahead.take();
        }
        while !self.ended {
            let lines = match self.lines_of_row() {
                Ok(lines) => lines?,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(self.place.unlisted(self.text.line + 1, error.to_string())));
                }
            };
            let (line, row) = lines;
            let parsed = match row {
                Ok(row) if row.trim_ascii().is_empty() => continue,
                Ok(row) => cells(&row, self.delimiter)
                    .map_err(|error| error.to_string())
                    .and_then(|record| self.row(line, &record)),
                Err(cause) => Err(cause),
            };
            return Some(parsed.map_err(|cause| self.place.unlisted(line, cause)));
        }
        None
    }

    /// The lines of the next row, and the number of the first. A quote that is never closed costs its line alone.
    fn lines_of_row(&mut self) -> io::Result<Option<NumberedRow>> {
        let Some(first) = self.text.next()? else { return Ok(None) };
        let number = self.text.line;
        let Ok(mut row) = first else { return Ok(Some((number, first))) };
        let mut more = Vec::new();
        while let Some((_, fault)) = find_fault(&row, self.delimiter) {
            if fault != TableFault::OpenQuote {
                self.text.give_back(more);
                return Ok(Some((number, Err(crate::error::Error::from(fault).to_string()))));
            }
            match self.text.next()? {
                Some(Ok(line)) if more.len() + 1 < MAX_LINES_OF_ROW && row.len() + line.len() < MAX_LINE => {
                    row.push(b'\n');
                    row.extend(&line);
                    more.push(line);
                }
                last => {
                    // One that is too long itself is lost with it.
                    more.extend(last.and_then(Result::ok));
                    self.text.give_back(more);
                    return Ok(Some((number, Err(crate::error::Error::from(fault).to_string()))));
                }
            }
        }
        Ok(Some((number, Ok(row))))
    }

    fn row(&self, line: u64, record: &csv::ByteRecord) -> Result<ManifestColumns, String> {
        check_width(record, self.columns.n).map_err(|error| error.to_string())?;
        let text = |column: Option<usize>| {
            let cell = column.and_then(|column| record.get(column)).filter(|cell| !cell.trim_ascii().is_empty());
            cell.map(|cell| String::from_utf8(cell.to_vec()).map_err(|_| "a cell is not valid UTF-8".to_owned()))
                .transpose()
        };
        let time =
            |column| text(column)?.map(|text| text.parse::<Seconds>().map_err(|error| error.to_string())).transpose();
        let window = window(time(self.columns.start)?, time(self.columns.end)?)?;
        let id = text(self.columns.question_id)?;
        let question = text(self.columns.question)?.map(|question| BatchQuestion { id, question });
        let video = record.get(self.columns.video).unwrap_or_default().to_vec();
        checked(&self.place, &video, window, question.iter().cloned().collect())?;
        Ok(ManifestColumns { line, video, window, question })
    }
}

impl<R: BufRead> Iterator for ManifestRows<R> {
    type Item = ArchiveEntry;

    fn next(&mut self) -> Option<ArchiveEntry> {
        if let Some(ignored) = self.ignored.take().filter(|ignored| !ignored.is_empty()) {
            return Some(ArchiveEntry::Ignored(ignored));
        }
        let first = match self.next_row()? {
            Ok(row) => row,
            Err(unlisted) => return Some(unlisted),
        };
        let mut questions: Vec<BatchQuestion> = first.question.into_iter().collect();
        while let Some(next) = self.next_row() {
            match next {
                Ok(row) if row.video == first.video && row.window == first.window => questions.extend(row.question),
                other => {
                    self.ahead = Some(other);
                    break;
                }
            }
        }
        Some(
            checked(&self.place, &first.video, first.window, questions)
                .unwrap_or_else(|cause| self.place.unlisted(first.line, cause)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::names;
    use super::*;

    fn listed(ending: &str, text: &[u8]) -> Vec<ArchiveEntry> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(format!("m.{ending}"));
        std::fs::write(&path, text).expect("a small file");
        list(Some(&path), PathBuf::from("/root"), ManifestFormat::of_ending(ending)).expect("a manifest").collect()
    }

    fn item(listed: &ArchiveEntry) -> &ArchiveItem {
        match listed {
            ArchiveEntry::Item(item) => item,
            other => panic!("no item: {other:?}"),
        }
    }

    fn cause(listed: &ArchiveEntry) -> String {
        match listed {
            ArchiveEntry::Failed(unlisted) => {
                let line = unlisted.video.rsplit(':').next().expect("a number");
                format!("{line}: {}", unlisted.cause)
            }
            other => panic!("no failure: {other:?}"),
        }
    }

    #[test]
    fn a_path_a_line_is_any_bytes() {
        let found = listed("txt", b"a b.mp4\r\n\n#1.mp4\n\xff.mp4");
        assert_eq!(names(found.iter().cloned()), ["a b.mp4", "#1.mp4", "\\xff.mp4"]);
        assert_eq!(item(&found[0]).path, Path::new("/root/a b.mp4"));
    }

    #[test]
    fn objects_have_parts_and_questions_and_bad_ones_are_told_by_line() {
        let text = br#"{"video": "a.mp4", "start": "1:00", "end": 61.5, "questions": ["x?", {"id": "y", "question": "y?"}], "note": 1}
{"path": "/b.mp4", "question": "z?"}
{"video": []}
{"video": "c.mp4", "start": 2, "end": 1}
not json
{"video": "d.mp4", "question": " "}
"#;
        let found = listed("jsonl", text);
        let first = item(&found[0]);
        assert_eq!(first.window, Some(Window { start: Some(Seconds(60.0)), end: Some(Seconds(61.5)) }));
        assert_eq!(
            first.questions,
            [BatchQuestion::new("x?"), BatchQuestion { id: Some("y".into()), question: "y?".into() }]
        );
        assert_eq!(found[1], ArchiveEntry::Ignored(vec!["note".to_owned()]));
        assert_eq!((item(&found[2]).path.as_path(), item(&found[2]).window), (Path::new("/b.mp4"), None));
        assert_eq!(cause(&found[3]), "3: invalid type: sequence, expected a string at line 1 column 10");
        assert_eq!(cause(&found[4]), "4: start 0:02.000 is not before end 0:01.000");
        assert!(cause(&found[5]).starts_with("5: expected"), "{:?}", found[5]);
        assert_eq!(cause(&found[6]), "6: a question is empty");
    }

    #[test]
    fn rows_about_one_video_that_follow_each_other_are_one_item() {
        let text = b"video, start,end,question,score\na.mp4,,,\"x, y?\",1\na.mp4,,,z?,2\na.mp4,1,2,z?,3\nb.mp4,x,,z?,4\n\nc.mp4\n,,,q,5\n";
        let found = listed("csv", text);
        assert_eq!(found[0], ArchiveEntry::Ignored(vec!["score".to_owned()]));
        assert_eq!(item(&found[1]).questions, [BatchQuestion::new("x, y?"), BatchQuestion::new("z?")]);
        assert_eq!(item(&found[2]).window, Some(Window { start: Some(Seconds(1.0)), end: Some(Seconds(2.0)) }));
        assert!(cause(&found[3]).starts_with("5: invalid time `x`"), "{:?}", found[3]);
        assert_eq!((item(&found[4]).video.as_str(), item(&found[4]).questions.len()), ("c.mp4", 0));
        assert_eq!(cause(&found[5]), "8: the video has no name");
        // A quote that is never closed costs its line alone; one that is closed later is a cell of several lines.
        let found = listed("csv", b"video,question\na.mp4,\"x\nb.mp4,y\nc.mp4,z\n");
        assert_eq!(cause(&found[0]), "2: a quote is not closed");
        assert_eq!(names(found[1..].iter().cloned()), ["b.mp4", "c.mp4"]);
        let found = listed("csv", b"video,question\na.mp4,\"x\ny\"\nb.mp4,z\n");
        assert_eq!(item(&found[0]).questions, [BatchQuestion::new("x\ny")]);
        let error = list_error("csv", b"name,start\na,1\n");
        assert!(error.ends_with("no column `video` among name, start; hint: the first line names the columns, between commas, semicolons or tabs"));
    }

    fn list_error(ending: &str, text: &[u8]) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(format!("m.{ending}"));
        std::fs::write(&path, text).expect("a small file");
        list(Some(&path), PathBuf::new(), ManifestFormat::of_ending(ending)).err().expect("no manifest").to_string()
    }

    #[test]
    fn a_stream_is_read_as_it_begins() {
        let guess = |text: &[u8]| first_line(&mut &text[..], None).expect("memory").1;
        assert_eq!(guess(b"{\"video\": 1}\n"), ManifestFormat::Jsonl);
        assert_eq!(guess(b"\xef\xbb\xbfid,Video\n1,a"), ManifestFormat::Csv);
        assert_eq!(guess(b"id;Video\n1;a"), ManifestFormat::Csv);
        assert_eq!(guess(b"[{\"video\": \"a\"}]"), ManifestFormat::Json);
        assert_eq!(guess(b"[\n"), ManifestFormat::Json);
        assert_eq!(guess(b"[group] a.mp4\n"), ManifestFormat::Lines);
        assert_eq!(guess(b"videos/a,b.mp4\n"), ManifestFormat::Lines);
        assert_eq!(guess(b""), ManifestFormat::Lines);
        let long = [b"a".repeat(MAX_LINE + 10), b"\nb.mp4\n".to_vec()].concat();
        let found = listed("txt", &long);
        assert_eq!(cause(&found[0]), "1: a line of more than 1048576 bytes");
        assert_eq!(item(&found[1]).video, "b.mp4");
    }

    #[test]
    fn numbers_name_questions_and_videos_as_they_are_written() {
        let big = "340282366920938463463374607431768211456";
        let lines = format!(
            "{{\"video\": \"a.mp4\", \"question\": \"x?\", \"question_id\": {big}}}\n\
             {{\"video\": 12, \"questions\": [{{\"id\": 007, \"question\": \"y?\"}}], \"start\": 1.5}}\n"
        );
        let array = format!("[{}]", lines.trim().replace('\n', ",\n"));
        let table = format!("video;question;question_id\r\na.mp4;x?;{big}\r\n12;\"y?\";007\r\n");
        let (semicolons, tabs) = (format!("\u{feff}{table}"), table.replace(';', "\t"));
        for (ending, text) in [
            ("jsonl", &lines),
            ("json", &array),
            ("json", &lines),
            ("csv", &semicolons),
            ("tsv", &tabs),
            ("csv", &tabs),
        ] {
            let found = listed(ending, text.as_bytes());
            let question = |i: usize| item(&found[i]).questions[0].clone();
            assert_eq!(question(0), BatchQuestion { id: Some(big.to_owned()), question: "x?".to_owned() }, "{ending}");
            assert_eq!(
                question(1),
                BatchQuestion { id: Some("007".to_owned()), question: "y?".to_owned() },
                "{ending}"
            );
            assert_eq!((item(&found[0]).video.as_str(), item(&found[1]).video.as_str()), ("a.mp4", "12"));
            assert_eq!(found.len(), 2, "{ending}");
        }
    }

    #[test]
    fn a_row_that_would_be_read_as_another_is_refused() {
        let table = b"video,question,id\na.mp4,Is it red, or blue?,7\nb.mp4,\"x\"y,1\nc.mp4,a 5\" disk,c\nd.mp4,\"z?\n";
        let found = listed("csv", table);
        assert_eq!(cause(&found[0]), "2: 4 cells, 3 columns; hint: quote a cell that contains the delimiter");
        assert!(cause(&found[1]).starts_with("3: text after a closing quote"), "{:?}", found[1]);
        let named = BatchQuestion { id: Some("c".to_owned()), question: "a 5\" disk".to_owned() };
        assert_eq!(item(&found[2]).questions, [named]);
        assert_eq!(cause(&found[3]), "5: a quote is not closed");
        assert!(list_error("csv", b"video,question\ra.mp4,x\r").contains("a carriage return without a line feed"));
        assert!(list_error("csv", b"sep=;\nvideo;question\na.mp4;x\n").ends_with("only spreadsheets read"));
        let found = listed(
            "jsonl",
            b"{\"video\": \"a.mp4\", \"question\": \"x?\", \"id\": 7}\n{\"video\": \"b.mp4\", \"id\": 8}\n",
        );
        assert_eq!(item(&found[0]).questions[0].id.as_deref(), Some("7"));
        assert_eq!(names(found.iter().cloned()), ["a.mp4", "b.mp4", "ignored id"]);
    }

    #[test]
    fn an_array_says_what_is_wrong_with_each_of_its_records() {
        let text = br#"["a.mp4", {"video": "b.mp4", "label": 1}, {"question": "x?"}, {"video": "c.mp4", "label": 2}]"#;
        let found = listed("json", text);
        assert_eq!(names(found.iter().cloned()), ["a.mp4", "b.mp4", "ignored label", "m.json:3 (manifest)", "c.mp4"]);
        assert!(cause(&found[3]).starts_with("3: missing field `video`"), "{:?}", found[3]);
        assert!(
            list_error("json", b"{\n\"video\": 1\n}")
                .contains("a single JSON object, not a list; hint: an array of objects")
        );
        assert!(list_error("json", b"[{]").contains("key must be a string at line 1 column 3"));
        assert!(list_error("csv", b"\xff\xfev\0").ends_with("UTF-16, not UTF-8; hint: save it as UTF-8"));
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n";
        for ending in ["txt", "jsonl", "csv"] {
            assert!(list_error(ending, pointer).contains("a Git LFS pointer, not the file itself; hint: "));
        }
    }
}
