//! Entries of a manifest that is a table: adjacent rows about the same window of a video are one item.

use std::io::{self, BufRead};

use super::text::{MAX_LINE, ManifestLine, ManifestText};
use super::{EntryReading, ManifestSource, VIDEO, window};
use crate::batch::archive::ArchiveEntry;
use crate::batch::questions::BatchQuestion;
use crate::error::{Error, Kind};
use crate::records::{TableFault, cells, check_width, delimiter, find_fault, header_hint};
use crate::units::Seconds;
use crate::video::ImageRate;

/// Maximum number of lines of a row with quoted cells.
const MAX_LINES_OF_ROW: usize = 100;

/// Entries of a table.
pub(super) struct ManifestRows<R> {
    text: ManifestText<R>,
    source: ManifestSource,
    columns: ManifestColumns,
    delimiter: u8,
    /// Unused columns, to be reported once.
    unused: Option<Vec<String>>,
    /// First row of the next item, or its failure.
    ahead: Option<Result<ManifestRow, ArchiveEntry>>,
    has_ended: bool,
}

/// Indices of the columns.
struct ManifestColumns {
    video: usize,
    start: Option<usize>,
    end: Option<usize>,
    image_rate: Option<usize>,
    question: Option<usize>,
    question_id: Option<usize>,
    /// Number of columns.
    n: usize,
}

/// Text of a row, and the number of its first line.
struct RowText {
    line: u64,
    text: ManifestLine,
}

/// A parsed row.
struct ManifestRow {
    line: u64,
    video: Vec<u8>,
    reading: EntryReading,
    question: Option<BatchQuestion>,
}

impl<R: BufRead> ManifestRows<R> {
    /// Reads the header of a table.
    pub(super) fn new(text: R, source: ManifestSource) -> Result<Self, Error> {
        let invalid = |error: Error| error.about(source.name.clone());
        let mut text = ManifestText::new(text);
        let header = text.next().map_err(|error| invalid(Error::caused_by(Kind::Unreadable, error)))?;
        let header = header.unwrap_or(Ok(Vec::new())).map_err(invalid)?;
        let delimiter = delimiter(&header, &VIDEO).unwrap_or(b',');
        if let Some((_, fault)) = find_fault(&header, delimiter) {
            return Err(invalid(Error::from(fault).about("line 1")));
        }
        let names = column_names(&header, delimiter).map_err(invalid)?;
        let columns = ManifestColumns::new(&names)
            .ok_or_else(|| Error::invalid(format!("no column `video` among {}", names.join(", "))))
            .map_err(|error| invalid(error.with_hint(header_hint(&String::from_utf8_lossy(&header)))))?;
        let unused = columns.unused(&names);
        Ok(Self { text, source, columns, delimiter, unused: Some(unused), ahead: None, has_ended: false })
    }

    /// Returns the next row, or the failure of its line.
    fn next_row(&mut self) -> Option<Result<ManifestRow, ArchiveEntry>> {
        if self.ahead.is_some() {
            return self.ahead.take();
        }
        while !self.has_ended {
            let RowText { line, text } = match self.row_text() {
                Ok(row) => row?,
                Err(error) => {
                    self.has_ended = true;
                    let error = Error::caused_by(Kind::Unreadable, error);
                    return Some(Err(self.source.failed(self.text.line + 1, &error)));
                }
            };
            let parsed = match text {
                Ok(row) if row.trim_ascii().is_empty() => continue,
                Ok(row) => cells(&row, self.delimiter).and_then(|cells| self.parse(line, &cells)),
                Err(error) => Err(error),
            };
            return Some(parsed.map_err(|error| self.source.failed(line, &error)));
        }
        None
    }

    /// Reads the lines of the next row. An unclosed quote fails its first line alone.
    fn row_text(&mut self) -> io::Result<Option<RowText>> {
        let Some(first) = self.text.next()? else { return Ok(None) };
        let line = self.text.line;
        let Ok(mut row) = first else { return Ok(Some(RowText { line, text: first })) };
        let mut more = Vec::new();
        while let Some((_, fault)) = find_fault(&row, self.delimiter) {
            let next = if fault == TableFault::OpenQuote { self.text.next()? } else { None };
            match next {
                Some(Ok(next)) if more.len() + 1 < MAX_LINES_OF_ROW && row.len() + next.len() < MAX_LINE => {
                    row.push(b'\n');
                    row.extend(&next);
                    more.push(next);
                }
                last => {
                    // A last line that is too long itself is lost.
                    more.extend(last.and_then(Result::ok));
                    self.text.unread(more);
                    return Ok(Some(RowText { line, text: Err(fault.into()) }));
                }
            }
        }
        Ok(Some(RowText { line, text: Ok(row) }))
    }

    fn parse(&self, line: u64, cells: &csv::ByteRecord) -> Result<ManifestRow, Error> {
        check_width(cells, self.columns.n)?;
        let text = |column: Option<usize>| {
            let cell = column.and_then(|column| cells.get(column)).filter(|cell| !cell.trim_ascii().is_empty());
            let decoded = cell.map(|cell| String::from_utf8(cell.to_vec()));
            decoded.transpose().map_err(|_| Error::invalid("a cell is not valid UTF-8"))
        };
        let time = |column| text(column)?.map(|text| text.parse::<Seconds>()).transpose();
        let window = window(time(self.columns.start)?, time(self.columns.end)?)?;
        let image_rate = text(self.columns.image_rate)?.map(|text| text.parse::<ImageRate>()).transpose()?;
        let reading = EntryReading { window, image_rate };
        let id = text(self.columns.question_id)?;
        let question = text(self.columns.question)?.map(|question| BatchQuestion { id, question });
        let video = cells.get(self.columns.video).unwrap_or_default().to_vec();
        self.source.item(&video, reading, question.iter().cloned().collect())?;
        Ok(ManifestRow { line, video, reading, question })
    }
}

impl<R: BufRead> Iterator for ManifestRows<R> {
    type Item = ArchiveEntry;

    fn next(&mut self) -> Option<ArchiveEntry> {
        if let Some(unused) = self.unused.take().filter(|unused| !unused.is_empty()) {
            return Some(ArchiveEntry::Ignored(unused));
        }
        let first = match self.next_row()? {
            Ok(row) => row,
            Err(failed) => return Some(failed),
        };
        let mut questions: Vec<BatchQuestion> = first.question.into_iter().collect();
        while let Some(next) = self.next_row() {
            match next {
                Ok(row) if row.video == first.video && row.reading == first.reading => questions.extend(row.question),
                other => {
                    self.ahead = Some(other);
                    break;
                }
            }
        }
        let item = self.source.item(&first.video, first.reading, questions);
        Some(item.unwrap_or_else(|error| self.source.failed(first.line, &error)))
    }
}

impl ManifestColumns {
    /// Finds the columns by their names; returns `None` without a column of videos.
    fn new(names: &[String]) -> Option<Self> {
        let find = |wanted: &str| names.iter().position(|name| name == wanted);
        Some(Self {
            video: VIDEO.iter().find_map(|name| find(name))?,
            start: find("start"),
            end: find("end"),
            image_rate: find("image_rate"),
            question: find("question"),
            // Without a question, `id` is not that of a question.
            question_id: find("question_id").or_else(|| find("question").and_then(|_| find("id"))),
            n: names.len(),
        })
    }

    /// Returns the names of the unused columns.
    fn unused(&self, names: &[String]) -> Vec<String> {
        let used = [Some(self.video), self.start, self.end, self.image_rate, self.question, self.question_id];
        let unused = names.iter().enumerate().filter(|(i, _)| !used.contains(&Some(*i)));
        unused.map(|(_, name)| name.clone()).collect()
    }
}

/// Returns the names of a header's cells, trimmed and in lower case.
fn column_names(header: &[u8], delimiter: u8) -> Result<Vec<String>, Error> {
    let name = |name: &[u8]| String::from_utf8_lossy(name).trim().to_ascii_lowercase();
    Ok(cells(header, delimiter)?.iter().map(name).collect())
}
