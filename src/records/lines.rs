//! Files of JSON Lines, read a line at a time: memory holds one line, whatever the length of the file.

use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use super::decode;
use crate::error::{About as _, Error, Result};
use crate::files::{open_regular, placeholder};

/// Maximum number of bytes of a line: far over an answer or a reply, and far below the memory of a machine.
const LINE_LIMIT: usize = 16 << 20;

/// Reads the lines of a file, each with its number from 1 on; blank lines are left out.
///
/// # Errors
/// An unreadable file; with its number, a line over [`LINE_LIMIT`] or not in UTF-8, and the error of `add`.
pub(crate) fn read_lines(path: &Path, add: &mut dyn FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let (file, _) = open_regular(path).map_err(Error::io(path))?;
    for_each_line(&mut BufReader::new(file), add).about(path)
}

fn for_each_line(input: &mut impl BufRead, add: &mut dyn FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let limit = LINE_LIMIT as u64 + 1;
        if input.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = text_of(&line, number)?;
        if !text.is_empty() {
            add(number, text).about(format!("line {number}"))?;
        }
    }
    Ok(())
}

/// Returns the text of a line without the white space around it.
fn text_of(line: &[u8], number: usize) -> Result<&str> {
    let at = |error: Error| error.about(format!("line {number}"));
    if let Some(error) = placeholder(line).filter(|_| number == 1) {
        return Err(error);
    }
    if line.strip_suffix(b"\n").unwrap_or(line).len() > LINE_LIMIT {
        return Err(at(Error::invalid(format!("over {LINE_LIMIT} bytes")).with_hint("one JSON object a line")));
    }
    decode(line).map(str::trim).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Result<Vec<(usize, String)>> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lines");
        std::fs::write(&path, bytes).expect("room");
        let mut found = Vec::new();
        read_lines(&path, &mut |number, line| {
            found.push((number, line.to_owned()));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn lines_have_their_number_and_blank_ones_are_left_out() {
        let found = lines(b"\xef\xbb\xbfa\r\n\n  \nb").expect("UTF-8");
        assert_eq!(found, [(1, "a".to_owned()), (4, "b".to_owned())]);
        assert_eq!(lines(b"").expect("empty"), []);
    }

    #[test]
    fn a_line_that_is_too_long_or_not_utf_8_is_an_error_with_its_number() {
        let error = |bytes: &[u8]| lines(bytes).expect_err("refused").to_string();
        assert!(error(b"a\n\xff\n").ends_with("line 2: invalid UTF-8 from byte 0 on"), "{}", error(b"a\n\xff\n"));
        assert!(error(b"\xff\xfea\0").contains("line 1: UTF-16, not UTF-8"));
        let long = [b"a\n".to_vec(), vec![b'b'; LINE_LIMIT + 1]].concat();
        assert!(error(&long).contains("line 2: over 16777216 bytes; hint: one JSON object a line"), "{}", error(&long));
        assert_eq!(lines(&[&long[..LINE_LIMIT + 2], b"\nc"].concat()).expect("within the limit").len(), 3);
    }
}
