//! Lists that people write: JSON, JSON Lines, and tables delimited by a comma, a semicolon or a tab.
//!
//! Numbers in JSON become strings of the same digits, so an id of many digits is not rounded. A key that comes twice in
//! an object is refused. The columns of a list are
//! the caller's: questions of `batch` and `eval`, and manifests.

mod json;
mod lines;
mod table;
mod unique;

use std::path::Path;

use crate::error::{Error, Result};

pub(crate) use json::{parse_array, parse_json, parse_record};
pub(crate) use lines::read_lines;
pub(crate) use table::{TableFault, cells, check_width, delimiter, find_fault, header_hint, parse_table};
pub(crate) use unique::{UniqueJson, UniqueMap, unique_map};

/// Format of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordFormat {
    /// A table whose first line names the columns.
    Table,
    /// An array of objects.
    Json,
    /// One object a line.
    Jsonl,
}

impl RecordFormat {
    /// Returns the format that the ending of a file's name stands for.
    pub(crate) fn from_path(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "csv" | "tsv" | "tab" => Some(Self::Table),
            "json" => Some(Self::Json),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

/// Returns whether bytes begin with a byte order mark of UTF-16.
pub(crate) fn is_utf_16(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")
}

/// Returns the error for a list in UTF-16.
pub(crate) fn utf_16_error() -> Error {
    Error::invalid("UTF-16, not UTF-8").with_hint("save it as UTF-8")
}

/// Returns the text of a list, without its byte order mark.
///
/// # Errors
/// Bytes that are not UTF-8.
pub(crate) fn decode(bytes: &[u8]) -> Result<&str> {
    if is_utf_16(bytes) {
        return Err(utf_16_error());
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes)
        .map_err(|error| Error::invalid(format!("invalid UTF-8 from byte {} on", error.valid_up_to())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_utf_8_with_or_without_a_byte_order_mark() {
        let error = decode(b"\xff\xfea\0").expect_err("UTF-16").to_string();
        assert_eq!(error, "UTF-16, not UTF-8; hint: save it as UTF-8");
        assert_eq!(decode(b"\xef\xbb\xbfa").ok(), Some("a"));
        assert_eq!(decode(b"ab\xff").expect_err("Latin-1").to_string(), "invalid UTF-8 from byte 2 on");
    }
}
