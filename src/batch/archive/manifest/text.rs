//! Lines of a manifest, with their numbers and a limit of their length.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

use crate::error::Error;

/// Maximum number of bytes of a line.
pub(super) const MAX_LINE: usize = 1 << 20;

/// A line without its line end, or its error.
pub(super) type ManifestLine = Result<Vec<u8>, Error>;

/// Reader of lines, to which lines can be returned.
pub(super) struct ManifestText<R> {
    reader: R,
    /// Returned lines, the next one first.
    returned: VecDeque<Vec<u8>>,
    /// Number of the last line read.
    pub(super) line: u64,
}

impl<R: BufRead> ManifestText<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, returned: VecDeque::new(), line: 0 }
    }

    /// Reads the next line; returns `None` at the end of the text.
    pub(super) fn next(&mut self) -> io::Result<Option<ManifestLine>> {
        if let Some(line) = self.returned.pop_front() {
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
            return Ok(Some(Err(Error::invalid(format!("a line of more than {MAX_LINE} bytes")))));
        }
        let end = line.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
        line.truncate(end);
        Ok(Some(Ok(line)))
    }

    /// Returns the last lines to the reader, to be read again.
    pub(super) fn unread(&mut self, lines: Vec<Vec<u8>>) {
        self.line -= lines.len() as u64;
        lines.into_iter().rev().for_each(|line| self.returned.push_front(line));
    }
}
