//! Tables: rows of cells between commas, semicolons or tabs, under a first line with the names of the columns.
//!
//! The parser (`csv`) accepts malformed quotes and row ends and reads other rows than were meant; [`find_fault`] and
//! [`check_width`] refuse those.

use serde_json::Value;

use crate::error::{About, Error, Result};

/// Delimiters between the cells of a row.
const DELIMITERS: [u8; 3] = *b",;\t";

/// Detects the delimiter of a table from its first line: among those under which a column has one of the `names`, the
/// one that makes the most columns. Returns `None` if no delimiter makes such a column.
pub(crate) fn delimiter(header: &[u8], names: &[&str]) -> Option<u8> {
    let n_columns = |delimiter: u8| -> Option<usize> {
        let cells = cells(header, delimiter).ok()?;
        let is_wanted = |cell: &[u8]| {
            let cell = String::from_utf8_lossy(cell);
            names.iter().any(|name| cell.trim().eq_ignore_ascii_case(name))
        };
        cells.iter().any(is_wanted).then_some(cells.len())
    };
    let found = DELIMITERS.iter().filter_map(|&delimiter| Some((n_columns(delimiter)?, delimiter)));
    // A single column is the same under each delimiter: the first, a comma, is returned.
    found.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, delimiter)| delimiter)
}

/// Splits one row into its cells.
///
/// # Errors
/// The parser's message.
pub(crate) fn cells(row: &[u8], delimiter: u8) -> Result<csv::ByteRecord> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(row);
    let mut record = csv::ByteRecord::new();
    reader.read_byte_record(&mut record).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(record)
}

/// Syntax error of a table that the parser accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableFault {
    /// A quoted cell that never ends.
    OpenQuote,
    /// Text between the end of a quoted cell and the next delimiter.
    TextAfterQuote,
    /// A carriage return without a line feed, outside quotes.
    LoneCarriageReturn,
}

impl From<TableFault> for Error {
    fn from(fault: TableFault) -> Self {
        match fault {
            TableFault::OpenQuote => Self::invalid("a quote is not closed"),
            TableFault::TextAfterQuote => {
                Self::invalid("text after a closing quote").with_hint("a quote within a quoted cell is written twice")
            }
            TableFault::LoneCarriageReturn => Self::invalid("a carriage return without a line feed")
                .with_hint("save the table with line feeds (LF or CRLF)"),
        }
    }
}

/// Finds the first fault of a table, or of one of its rows, with its offset in bytes; an open quote has the offset of
/// the quote. A quote within an unquoted cell is text.
pub(crate) fn find_fault(table: &[u8], delimiter: u8) -> Option<(usize, TableFault)> {
    #[derive(PartialEq)]
    enum State {
        CellStart,
        Unquoted,
        /// In a quoted cell that began at this offset.
        Quoted(usize),
        /// After a quote in a quoted cell: its end, or the first of two.
        Closed(usize),
    }
    let mut state = State::CellStart;
    for (i, &byte) in table.iter().enumerate() {
        if let State::Quoted(begin) = state {
            if byte == b'"' {
                state = State::Closed(begin);
            }
            continue;
        }
        state = match (state, byte) {
            (_, b'\r') if table.get(i + 1).is_some_and(|&next| next != b'\n') => {
                return Some((i, TableFault::LoneCarriageReturn));
            }
            (_, b'\r' | b'\n') => State::CellStart,
            (_, byte) if byte == delimiter => State::CellStart,
            (State::CellStart, b'"') => State::Quoted(i),
            (State::Closed(begin), b'"') => State::Quoted(begin),
            (State::Closed(begin), b' ' | b'\t') => State::Closed(begin),
            (State::Closed(_), _) => return Some((i, TableFault::TextAfterQuote)),
            _ => State::Unquoted,
        };
    }
    match state {
        State::Quoted(begin) => Some((begin, TableFault::OpenQuote)),
        _ => None,
    }
}

/// Refuses a row with text in a cell beyond the last column.
///
/// # Errors
/// Both counts.
pub(crate) fn check_width<'a>(cells: impl IntoIterator<Item = &'a [u8]>, n_columns: usize) -> Result<()> {
    let filled = cells.into_iter().enumerate().filter(|(_, cell)| !cell.trim_ascii().is_empty());
    match filled.last().map_or(0, |(last, _)| last + 1) {
        n_cells if n_cells > n_columns => Err(Error::invalid(format!("{n_cells} cells, {n_columns} columns"))
            .with_hint("quote a cell that contains the delimiter")),
        _ => Ok(()),
    }
}

/// Returns the hint for a first line without the wanted column.
pub(crate) fn header_hint(first_line: &str) -> &'static str {
    match first_line.trim_start_matches(['"', ' ']).to_ascii_lowercase().starts_with("sep=") {
        true => "remove the line `sep=`, which only spreadsheets read",
        false => "the first line names the columns, between commas, semicolons or tabs",
    }
}

/// Parses a table into objects of strings, each with its line number. Keys are the names of the first line, in lower
/// case; empty cells are left out, and so are empty rows.
///
/// # Errors
/// A table without a column of one of the `names`, or a malformed row, with its line.
pub(crate) fn parse_table(text: &str, names: &[&str]) -> Result<Vec<(u64, Value)>> {
    let first = text.lines().next().unwrap_or_default();
    let delimiter = delimiter(first.as_bytes(), names).ok_or_else(|| {
        let wanted = names.join("` or `");
        Error::invalid(format!("no column `{wanted}` in `{first}`")).with_hint(header_hint(first))
    })?;
    if let Some((at, fault)) = find_fault(text.as_bytes(), delimiter) {
        return Err(Error::from(fault).about(format!("line {}", 1 + n_line_feeds(&text.as_bytes()[..at]))));
    }
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .delimiter(delimiter)
        .trim(csv::Trim::Headers)
        .from_reader(text.as_bytes());
    let invalid = |error: csv::Error| Error::invalid(error.to_string());
    let header = reader.headers().map_err(invalid)?.clone();
    let (mut rows, mut counted, mut line) = (Vec::new(), 0, 1);
    for record in reader.records() {
        let record = record.map_err(invalid)?;
        let position = record.position().and_then(|position| usize::try_from(position.byte()).ok()).unwrap_or(counted);
        // The position is that of the rest of the previous line's end, and of empty lines, before the row.
        let n_ends = text.as_bytes()[position..].iter().take_while(|byte| b"\r\n".contains(byte)).count();
        line += n_line_feeds(&text.as_bytes()[counted..position + n_ends]);
        counted = position + n_ends;
        check_width(record.iter().map(str::as_bytes), header.len()).about(format!("line {line}"))?;
        let filled = header.iter().zip(&record).filter(|(_, cell)| !cell.trim().is_empty());
        let object: serde_json::Map<String, Value> =
            filled.map(|(name, cell)| (name.to_ascii_lowercase(), Value::from(cell))).collect();
        if !object.is_empty() {
            rows.push((line, Value::Object(object)));
        }
    }
    Ok(rows)
}

fn n_line_feeds(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_delimiter_is_detected_from_the_first_line() {
        let names = ["video", "path"];
        for (header, expected) in [
            ("video", Some(b',')),
            ("video,question", Some(b',')),
            ("id;Video;question, in words", Some(b';')),
            ("question, in words\tvideo", Some(b'\t')),
            ("\"a;b\",video", Some(b',')),
            ("\"video\";\"a,b\"", Some(b';')),
            ("name,start", None),
            ("", None),
        ] {
            assert_eq!(delimiter(header.as_bytes(), &names), expected, "{header}");
        }
    }

    #[test]
    fn rows_are_parsed_into_objects_of_strings() {
        let text = "id;Question;note\r\n007;\"What; why?\";\r\n\r\n8;\"two\nlines\";x\r\n";
        let rows = parse_table(text, &["question"]).expect("a table");
        assert_eq!(rows[0], (2, json!({ "id": "007", "question": "What; why?" })));
        assert_eq!(rows[1], (4, json!({ "id": "8", "question": "two\nlines", "note": "x" })));
        let error = parse_table("a,b\n1,2\n", &["question"]).expect_err("no such column").to_string();
        assert!(error.starts_with("no column `question` in `a,b`; hint: "), "{error}");
    }

    #[test]
    fn a_row_that_would_be_read_as_another_is_refused_by_its_line() {
        let error = |text: &str| parse_table(text, &["question"]).expect_err(text).to_string();
        let wide = "id,question\n1,a\n2,Is it red, or blue?\n";
        assert_eq!(error(wide), "line 3: 3 cells, 2 columns; hint: quote a cell that contains the delimiter");
        assert_eq!(error("id,question\n1,\"a\nb\"\n2,\"c\n3,d\n"), "line 4: a quote is not closed");
        assert!(error("id,question\n1,\"a\" b\"\n").starts_with("line 2: text after a closing quote; hint: "));
        assert!(error("id,question\r1,a\r2,b\r").starts_with("line 1: a carriage return without a line feed"));
        assert!(error("sep=;\nid;question\n1;a\n").contains("`sep=;`; hint: remove the line `sep=`"));
        // Empty cells beyond the header, short rows, and quotes within a cell are valid.
        let rows = parse_table("question,id\na,1,,\nb\na 5\" disk,2\n\"a \"\"b\"\"\" ,3\n", &["question"]);
        let questions = rows.expect("a table").into_iter().map(|(_, row)| row["question"].clone());
        assert_eq!(questions.collect::<Vec<_>>(), ["a", "b", "a 5\" disk", "a \"b\" "]);
    }
}
