//! Subtitles in SubRip's format (.srt): the texts in their order, without numbers, times and markup.
//!
//! A cue is a line of times (`00:00:01,000 --> 00:00:02,500`), under its number, and the lines of text up to the number
//! and times of the next cue; blank lines within a text belong to it.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::rows::read_text;
use crate::error::{Error, Result};

/// A line of times; positions on the screen may follow.
static TIMES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^\s*\d+:\d{1,2}:\d{1,2}(?:[,.]\d+)?\s*-->\s*\d+:\d{1,2}:\d{1,2}(?:[,.]\d+)?(?:\s.*)?$").ok()
});

/// Tags of HTML (`<i>`, `</font>`) and of SubStation Alpha (`{\an8}`).
static MARKUP: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"</?[A-Za-z][^<>]*>|\{\\[^{}]*\}").ok());

/// Reads the texts of a subtitle file, a line each. Texts that repeat the one before are left out.
///
/// # Errors
/// An unreadable file, bytes that are not UTF-8, a malformed line of times, or text before the first times.
pub fn read_subtitles(path: &Path) -> Result<Vec<String>> {
    let text = read_text(path)?.replace("\r\n", "\n").replace('\r', "\n");
    let mut cues: Vec<Vec<&str>> = Vec::new();
    let mut number = None;
    for (position, line) in (1..).zip(text.lines()) {
        let at = |rule: &str| Error::invalid(format!("{rule}: `{}`", line.trim())).about(format!("line {position}"));
        let trimmed = line.trim();
        if TIMES.as_ref().is_some_and(|times| times.is_match(line)) {
            // The number above the times is no text.
            number = None;
            cues.push(Vec::new());
        } else if trimmed.contains("-->") && trimmed.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(at("invalid times of a subtitle").about(path));
        } else if !trimmed.is_empty() {
            let is_number = trimmed.chars().all(|c| c.is_ascii_digit());
            match cues.last_mut() {
                Some(cue) => cue.extend(number.take()),
                None if !is_number => return Err(at("not subtitles: text before the first times").about(path)),
                None => {}
            }
            if is_number {
                number = Some(trimmed);
            } else if let Some(cue) = cues.last_mut() {
                cue.push(trimmed);
            }
        }
    }
    if cues.is_empty() {
        return Err(Error::invalid("not subtitles: no line `... --> ...`").about(path));
    }
    if let Some(cue) = cues.last_mut() {
        cue.extend(number);
    }
    let mut lines: Vec<String> = cues.iter().map(|cue| without_markup(&cue.join(" "))).collect();
    lines.retain(|line| !line.is_empty());
    lines.dedup();
    Ok(lines)
}

/// Removes tags from a text, and collapses its white space.
fn without_markup(text: &str) -> String {
    let shown = MARKUP.as_ref().map_or(text.into(), |markup| markup.replace_all(text, ""));
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_without_numbers_times_and_markup() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.srt");
        let text = "1\r\n00:00:01,000 --> 00:00:02,500\r\n<font color=\"white\" size=\".72c\">Hi guys,</font>\r\n\r\n\
                    2\r\n00:00:02,500 --> 00:00:03,000\r\nHi guys,\r\n\r\n3\r\n00:00:03,000 --> 00:00:04,000\r\nlook\r\nhere\r\n";
        std::fs::write(&path, text).expect("ours");
        assert_eq!(read_subtitles(&path).expect("subtitles"), ["Hi guys,", "look here"]);
    }

    #[test]
    fn blank_lines_numbers_and_signs_of_a_text_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.srt");
        let text = "\u{feff}1\n00:00:01,000 --> 00:00:02,000 X1:0\n{\\an8}3 < 4\n\n7\nthen -->\n \n2\n00:00:02.5 --> 00:00:03\n\n42\n";
        std::fs::write(&path, text).expect("ours");
        assert_eq!(read_subtitles(&path).expect("subtitles"), ["3 < 4 7 then -->", "42"]);
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("ours");
            read_subtitles(&path).expect_err("refused").to_string()
        };
        assert!(refused(b"no times").contains("line 1: not subtitles: text before the first times: `no times`"));
        assert!(refused(b"").contains("not subtitles"));
        assert!(refused(b"1\n00:00:01,000 --> oops\nx").contains("line 2: invalid times of a subtitle"));
        assert!(refused(b"1\n00:00:01,000 --> 00:00:02,000\n\xff").contains("invalid UTF-8"));
    }
}
