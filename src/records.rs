//! Lists that people write: JSON, JSON lines, and tables delimited by a comma, a semicolon or a tab.
//!
//! Numbers in JSON are kept as they are written, so an identity of many digits stays what it is. Who reads a list knows
//! its columns; this file knows none.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordFormat {
    /// A table whose first line names the columns.
    Table,
    /// An array of objects.
    Json,
    /// An object a line.
    Jsonl,
}

impl RecordFormat {
    /// The format that a file's name says.
    pub fn of_name(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "csv" | "tsv" | "tab" => Some(Self::Table),
            "json" => Some(Self::Json),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

/// The text of a list without a byte order mark.
///
/// # Errors
/// In words, when the bytes are not UTF-8.
pub fn decode(bytes: &[u8]) -> Result<&str, String> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("it is UTF-16; hint: save it as UTF-8".to_owned());
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| format!("not valid UTF-8 from byte {} on", error.valid_up_to()))
}

/// Parses JSON whose numbers become texts, as they are written: `7` is "7", and `007` is "007".
///
/// # Errors
/// The parser's words.
pub fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(&quote_numbers(text)).map_err(|error| {
        // Of the text as it was written, the place is right too.
        serde_json::from_str::<IgnoredAny>(text).err().unwrap_or(error).to_string()
    })
}

/// The objects of a JSON array, each as [`parse_json`] reads it.
///
/// # Errors
/// In words, when it is none, with what is taken instead.
pub fn parse_array(text: &str) -> Result<Vec<Value>, String> {
    match parse_json::<Value>(text)? {
        Value::Array(records) => Ok(records),
        Value::Object(_) => {
            Err("one JSON object; hint: an array of objects, `[{...}, {...}]`, or .jsonl with one a line".to_owned())
        }
        other => Err(format!("JSON, but {other} instead of a list; hint: an array of objects, `[{{...}}, {{...}}]`")),
    }
}

/// JSON with quotes around its numbers.
fn quote_numbers(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + text.len() / 8);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let n = match c {
            '"' => end_of_string(rest),
            '-' | '0'..='9' => {
                let n =
                    rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
                quoted.push('"');
                quoted.push_str(&rest[..n]);
                quoted.push('"');
                rest = &rest[n..];
                continue;
            }
            c => c.len_utf8(),
        };
        quoted.push_str(&rest[..n]);
        rest = &rest[n..];
    }
    quoted
}

/// Bytes of the string that a text begins with, its quotes included.
fn end_of_string(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Characters that may stand between the cells of a row.
const DELIMITERS: [u8; 3] = *b",;\t";

/// Detects the delimiter of a table from its first line: of the delimiters under which a column has one of the
/// `names`, the one that makes the most columns. None where no column has.
pub fn delimiter(header: &[u8], names: &[&str]) -> Option<u8> {
    let columns = |delimiter: u8| -> Option<usize> {
        let cells = cells(header, delimiter).ok()?;
        let is_wanted = |cell: &[u8]| {
            let cell = String::from_utf8_lossy(cell);
            names.iter().any(|name| cell.trim().eq_ignore_ascii_case(name))
        };
        cells.iter().any(is_wanted).then_some(cells.len())
    };
    let found = DELIMITERS.iter().filter_map(|&delimiter| Some((columns(delimiter)?, delimiter)));
    // Of one column any delimiter makes one: the first, a comma, stands.
    found.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, delimiter)| delimiter)
}

/// The cells of one row.
///
/// # Errors
/// The parser's words.
pub fn cells(row: &[u8], delimiter: u8) -> Result<csv::ByteRecord, String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(row);
    let mut record = csv::ByteRecord::new();
    reader.read_byte_record(&mut record).map_err(|error| error.to_string())?;
    Ok(record)
}

/// A fault in the writing of a table, which the parser would read over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFault {
    /// A quoted cell that never ends.
    OpenQuote,
    /// Text between the end of a quoted cell and the next delimiter.
    TextAfterQuote,
    /// A carriage return without a line feed, outside quotes.
    LoneCarriageReturn,
}

impl fmt::Display for TableFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenQuote => "a quote is not closed",
            Self::TextAfterQuote => "text after a closing quote; hint: a quote within a quoted cell is written twice",
            Self::LoneCarriageReturn => {
                "a carriage return without a line feed; hint: save the table with line feeds (LF or CRLF)"
            }
        })
    }
}

/// Finds the first fault of a table, or of one of its rows, with the offset of its byte; of an open quote that of the
/// quote. A quote within an unquoted cell is text.
pub fn find_fault(table: &[u8], delimiter: u8) -> Option<(usize, TableFault)> {
    #[derive(PartialEq)]
    enum At {
        Start,
        Unquoted,
        /// In a quoted cell that began at this offset.
        Quoted(usize),
        /// After a quote in a quoted cell: its end, or the first of two.
        Closed(usize),
    }
    let mut at = At::Start;
    for (i, &byte) in table.iter().enumerate() {
        if let At::Quoted(begin) = at {
            if byte == b'"' {
                at = At::Closed(begin);
            }
            continue;
        }
        at = match (at, byte) {
            (_, b'\r') if table.get(i + 1).is_some_and(|&next| next != b'\n') => {
                return Some((i, TableFault::LoneCarriageReturn));
            }
            (_, b'\r' | b'\n') => At::Start,
            (_, byte) if byte == delimiter => At::Start,
            (At::Start, b'"') => At::Quoted(i),
            (At::Closed(begin), b'"') => At::Quoted(begin),
            (At::Closed(begin), b' ' | b'\t') => At::Closed(begin),
            (At::Closed(_), _) => return Some((i, TableFault::TextAfterQuote)),
            _ => At::Unquoted,
        };
    }
    match at {
        At::Quoted(begin) => Some((begin, TableFault::OpenQuote)),
        _ => None,
    }
}

/// Refuses a row with text in a cell that no column names.
///
/// # Errors
/// In words, with both counts.
pub fn check_width<'a>(cells: impl IntoIterator<Item = &'a [u8]>, n_columns: usize) -> Result<(), String> {
    let filled = cells.into_iter().enumerate().filter(|(_, cell)| !cell.trim_ascii().is_empty());
    match filled.last().map_or(0, |(last, _)| last + 1) {
        n_cells if n_cells > n_columns => {
            Err(format!("{n_cells} cells, {n_columns} columns; hint: quote a cell that holds the delimiter"))
        }
        _ => Ok(()),
    }
}

/// Hint about a first line in which no wanted column is found.
pub fn hint_of_header(first: &str) -> &'static str {
    match first.trim_start_matches(['"', ' ']).to_ascii_lowercase().starts_with("sep=") {
        true => "remove the line `sep=`, which only spreadsheets read",
        false => "the first line names the columns, between commas, semicolons or tabs",
    }
}

/// A whole table as objects of texts, by the names in its first line, in lower case; empty cells are left out. Each
/// with the number of its line.
///
/// # Errors
/// In words, with the line, when it has no column of one of the `names`, or a row is malformed.
pub fn parse_table(text: &str, names: &[&str]) -> Result<Vec<(u64, Value)>, String> {
    let first = text.lines().next().unwrap_or_default();
    let delimiter = delimiter(first.as_bytes(), names).ok_or_else(|| {
        let wanted = names.join("` or `");
        format!("no column `{wanted}` in `{first}`; hint: {}", hint_of_header(first))
    })?;
    if let Some((at, fault)) = find_fault(text.as_bytes(), delimiter) {
        let line = 1 + text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count();
        return Err(format!("line {line}: {fault}"));
    }
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .delimiter(delimiter)
        .trim(csv::Trim::Headers)
        .from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| error.to_string())?.clone();
    let (mut rows, mut at, mut line) = (Vec::new(), 0, 1);
    for record in reader.records() {
        let record = record.map_err(|error| error.to_string())?;
        let start = record.position().map_or(at, |place| usize::try_from(place.byte()).unwrap_or(at));
        // The rest of the last line's end, and empty lines, are before the row.
        let n_ends = text.as_bytes()[start..].iter().take_while(|byte| b"\r\n".contains(byte)).count();
        line += text.as_bytes()[at..start + n_ends].iter().filter(|&&byte| byte == b'\n').count() as u64;
        at = start + n_ends;
        check_width(record.iter().map(str::as_bytes), header.len()).map_err(|cause| format!("line {line}: {cause}"))?;
        let filled = header.iter().zip(&record).filter(|(_, cell)| !cell.trim().is_empty());
        let object: serde_json::Map<String, Value> =
            filled.map(|(name, cell)| (name.to_ascii_lowercase(), Value::from(cell))).collect();
        if !object.is_empty() {
            rows.push((line, Value::Object(object)));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_kept_as_they_are_written() {
        let text = r#"{"a": 7, "b": 340282366920938463463374607431768211456, "c": 007, "d": 1.10, "e": [-2e3, true, null], "f\"3": "4\\", "g": 5}"#;
        let expected = json!({
            "a": "7", "b": "340282366920938463463374607431768211456", "c": "007", "d": "1.10",
            "e": ["-2e3", true, null], "f\"3": "4\\", "g": "5",
        });
        assert_eq!(parse_json::<Value>(text), Ok(expected));
        for text in ["", "{", "{\"a\": \"x", "{\"a\": 1 2}", "{a: 1}", "\"\\"] {
            let words = serde_json::from_str::<Value>(text).expect_err("no JSON").to_string();
            assert_eq!(parse_json::<Value>(text), Err(words), "the place is that of the text as it was written");
        }
    }

    #[test]
    fn the_first_line_tells_the_delimiter() {
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
    fn tables_are_objects_of_texts() {
        let text = "id;Question;note\r\n007;\"What; why?\";\r\n\r\n8;\"two\nlines\";x\r\n";
        let rows = parse_table(text, &["question"]).expect("a table");
        assert_eq!(rows[0], (2, json!({ "id": "007", "question": "What; why?" })));
        assert_eq!(rows[1], (4, json!({ "id": "8", "question": "two\nlines", "note": "x" })));
        let error = parse_table("a,b\n1,2\n", &["question"]).expect_err("no such column");
        assert!(error.starts_with("no column `question` in `a,b`; hint: "), "{error}");
    }

    #[test]
    fn a_row_that_would_be_read_as_another_is_refused_by_its_line() {
        let error = |text: &str| parse_table(text, &["question"]).expect_err(text);
        let wide = "id,question\n1,a\n2,Is it red, or blue?\n";
        assert_eq!(error(wide), "line 3: 3 cells, 2 columns; hint: quote a cell that holds the delimiter");
        assert_eq!(error("id,question\n1,\"a\nb\"\n2,\"c\n3,d\n"), "line 4: a quote is not closed");
        assert!(error("id,question\n1,\"a\" b\"\n").starts_with("line 2: text after a closing quote; hint: "));
        assert!(error("id,question\r1,a\r2,b\r").starts_with("line 1: a carriage return without a line feed"));
        assert!(error("sep=;\nid;question\n1;a\n").contains("`sep=;`; hint: remove the line `sep=`"));
        // Empty cells beyond the header, short rows, and quotes within a cell say what they say.
        let rows = parse_table("question,id\na,1,,\nb\na 5\" disk,2\n\"a \"\"b\"\"\" ,3\n", &["question"]);
        let questions = rows.expect("a table").into_iter().map(|(_, row)| row["question"].clone());
        assert_eq!(questions.collect::<Vec<_>>(), ["a", "b", "a 5\" disk", "a \"b\" "]);
    }

    #[test]
    fn a_list_is_an_array() {
        assert_eq!(parse_array("[{\"a\": 1}]"), Ok(vec![json!({ "a": "1" })]));
        assert!(parse_array("{\"a\": 1}").expect_err("one").starts_with("one JSON object; hint: an array"));
        assert!(parse_array("7").expect_err("a number").contains("instead of a list"));
        assert!(decode(b"\xff\xfea\0").expect_err("UTF-16").starts_with("it is UTF-16"));
        assert_eq!(decode(b"\xef\xbb\xbfa"), Ok("a"));
    }
}
