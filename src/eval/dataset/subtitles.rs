//! Subtitles in SubRip's format (.srt): the texts in their order, without numbers, times and markup.

use std::path::Path;

use super::rows::read_text;
use crate::error::{Error, Result};

/// Reads the lines of a subtitle file. Lines that repeat the one before are left out.
///
/// # Errors
/// An unreadable file, or one without a time line.
pub fn read_subtitles(path: &Path) -> Result<Vec<String>> {
    let text = read_text(path)?;
    let mut lines: Vec<String> = Vec::new();
    let mut has_times = false;
    for block in text.replace("\r\n", "\n").split("\n\n") {
        let mut block = block.trim().lines().skip_while(|line| !line.contains("-->"));
        if block.next().is_none() {
            continue;
        }
        has_times = true;
        let shown = without_markup(&block.collect::<Vec<_>>().join(" "));
        if !shown.is_empty() && lines.last() != Some(&shown) {
            lines.push(shown);
        }
    }
    if has_times { Ok(lines) } else { Err(Error::invalid("not subtitles: no line `... --> ...`").about(path)) }
}

/// Removes `<...>` from a line.
fn without_markup(line: &str) -> String {
    let mut shown = String::new();
    let mut depth = 0usize;
    for c in line.chars() {
        match c {
            '<' => depth += 1,
            '>' if depth > 0 => depth -= 1,
            c if depth == 0 => shown.push(c),
            _ => {}
        }
    }
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
        std::fs::write(&path, "no times").expect("ours");
        assert!(read_subtitles(&path).expect_err("no times").to_string().contains("not subtitles"));
    }
}
