//! JSON whose numbers are read as strings.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::UniqueJson;
use crate::error::{Error, Result};

/// Parses JSON with every number as a string of the same digits: `7` is "7", and `007` is "007". No object may have a
/// key twice.
///
/// # Errors
/// The parser's message or the key that comes twice, with the line and column in `text`.
pub(crate) fn parse_json(text: &str) -> Result<Value> {
    parse_record::<UniqueJson>(text).map(|json| json.0)
}

/// Parses JSON as [`parse_json`] does into a struct, whose fields come once each; other keys are those of `T`.
///
/// # Errors
/// As [`parse_json`], and a value that is not that of `T`.
pub(crate) fn parse_record<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(&quote_numbers(text)).map_err(|error| {
        // Quotes shift columns: the position is taken from the text as written.
        let error = serde_json::from_str::<UniqueJson>(text).err().unwrap_or(error);
        Error::invalid(error.to_string())
    })
}

/// Parses a JSON array into its elements, each as [`parse_json`] reads it.
///
/// # Errors
/// Invalid JSON, a key that comes twice in an object, or a value other than an array.
pub(crate) fn parse_array(text: &str) -> Result<Vec<Value>> {
    let (rule, hint) = match parse_json(text)? {
        Value::Array(records) => return Ok(records),
        Value::Object(_) => {
            let hint = "an array of objects, `[{...}, {...}]`, or .jsonl with one a line";
            ("a single JSON object, not a list".to_owned(), hint)
        }
        other => (format!("JSON value {other}, not a list"), "an array of objects, `[{...}, {...}]`"),
    };
    Err(Error::invalid(rule).with_hint(hint))
}

/// Returns JSON with quotes around its numbers.
fn quote_numbers(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + text.len() / 8);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let n = match c {
            '"' => string_len(rest),
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

/// Returns the length in bytes of the JSON string at the beginning of `text`, with its quotes.
fn string_len(text: &str) -> usize {
    let mut is_escaped = false;
    for (i, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return i + 1,
            _ => {}
        }
    }
    text.len()
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
        assert_eq!(parse_json(text).ok(), Some(expected));
        for text in ["", "{", "{\"a\": \"x", "{\"a\": 1 2}", "{a: 1}", "\"\\"] {
            let message = serde_json::from_str::<Value>(text).expect_err("invalid JSON").to_string();
            let error = parse_json(text).expect_err("invalid JSON").to_string();
            assert_eq!(error, message, "the position is that in the text as written");
        }
        let error = parse_json("{\"a\": 1,\n \"b\": 22, \"a\": 3}").expect_err("a key twice").to_string();
        assert_eq!(error, "the key `a` comes twice at line 2 column 13");
    }

    #[test]
    fn a_list_is_an_array() {
        assert_eq!(parse_array("[{\"a\": 1}]").ok(), Some(vec![json!({ "a": "1" })]));
        let error = |text| parse_array(text).expect_err("not a list").to_string();
        assert!(error("{\"a\": 1}").starts_with("a single JSON object, not a list; hint: an array"));
        assert!(error("7").starts_with("JSON value \"7\", not a list; hint: "));
    }
}
