//! Append-only files of JSON lines: each line is one write, and an incomplete last line is repaired when the file is
//! opened.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::files::output::open_to_append;

/// Interval of syncs: a written line survives a kill at once, and a loss of power after this time.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Bytes per read in the search for the last line feed.
const BLOCK: u64 = 64 << 10;

/// A file of lines, open for appending.
#[derive(Debug)]
pub(super) struct LineFile {
    path: PathBuf,
    file: File,
    /// Bytes of complete lines.
    length: u64,
    synced: Instant,
    is_dirty: bool,
}

impl LineFile {
    /// Opens or creates a file, and repairs its last line: a line that lacks only its line feed gets one, any other
    /// incomplete line is cut off.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = open_to_append(path)?;
        let mut length = whole_lines(&mut file)?;
        if length < file.metadata()?.len() {
            file.seek(SeekFrom::Start(length))?;
            let mut torn = Vec::new();
            file.read_to_end(&mut torn)?;
            if serde_json::from_slice::<Value>(&torn).is_ok_and(|value| value.is_object()) {
                file.write_all(b"\n")?;
                length += torn.len() as u64 + 1;
            } else {
                file.set_len(length)?;
            }
        }
        Ok(Self { path: path.to_owned(), file, length, synced: Instant::now(), is_dirty: false })
    }

    /// Returns whether the file has no line.
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line. After an error nothing of the line remains.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn append(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        if let Err(error) = self.file.write_all(&bytes) {
            // If this fails as well, the next opening repairs the line.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.is_dirty = true;
        Ok(())
    }

    /// Syncs the file if lines have waited for the sync interval.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn sync_if_due(&mut self) -> io::Result<()> {
        if self.is_dirty && self.synced.elapsed() >= SYNC_EVERY { self.sync() } else { Ok(()) }
    }

    /// Syncs the file to the disk.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        (self.synced, self.is_dirty) = (Instant::now(), false);
        match self.file.sync_data() {
            // Not a file on a disk: nothing to sync.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }
}

/// First line of a file.
pub(super) enum FirstLine {
    /// No line.
    Missing,
    /// A line with its line feed.
    Whole,
    /// A line without its line feed.
    Torn(Vec<u8>),
}

/// Maximum number of bytes of a first line.
const MAX_FIRST: u64 = 64 << 20;

/// Reads the first line of a file.
pub(super) fn first_line(path: &Path) -> io::Result<FirstLine> {
    let Some(file) = open_if_there(path)? else { return Ok(FirstLine::Missing) };
    let mut line = Vec::new();
    BufReader::new(file.take(MAX_FIRST)).read_until(b'\n', &mut line)?;
    Ok(match line.last() {
        None => FirstLine::Missing,
        Some(b'\n') => FirstLine::Whole,
        Some(_) => FirstLine::Torn(line),
    })
}

/// Opens a file for reading, if it exists. A pipe is refused: opening it would block.
fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => File::open(path).map(Some),
        Ok(_) => Err(io::Error::other("not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the number of bytes up to the last line feed.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        block.clear();
        file.seek(SeekFrom::Start(start))?;
        file.take(end - start).read_to_end(&mut block)?;
        if let Some(newline) = block.iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Callback for a line and its number.
pub(super) type TakeLine<'a, E> = dyn FnMut(u64, &[u8]) -> Result<(), E> + 'a;

/// Calls `take` with each complete line of a file and its number from 1. A missing file has no lines.
///
/// # Errors
/// When the file cannot be read, or `take` fails.
pub(super) fn for_each_line<E: From<io::Error>>(path: &Path, take: &mut TakeLine<'_, E>) -> Result<(), E> {
    let Some(file) = open_if_there(path)? else { return Ok(()) };
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        // A line without its line feed is still being written.
        if reader.read_until(b'\n', &mut line)? == 0 || line.pop() != Some(b'\n') {
            break;
        }
        take(number, &line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(path: &Path) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        for_each_line(path, &mut |number, line| {
            found.push((number, String::from_utf8_lossy(line).into_owned()));
            io::Result::Ok(())
        })
        .expect("readable");
        found
    }

    #[test]
    fn a_cut_file_keeps_its_complete_lines() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.jsonl");
        let (first, second) = (json!({ "a": 1 }), json!({ "b": "x".repeat(10) }));
        let mut file = LineFile::open(&path).expect("ours");
        assert!(file.is_empty());
        file.append(&first).expect("room");
        file.append(&second).expect("room");
        let whole = std::fs::read(&path).expect("ours");
        let (end_1, end_2) = (first.to_string().len(), whole.len() - 1);
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("ours");
            let mut file = LineFile::open(&path).expect("ours");
            // A line that lacks only its end is not lost.
            let kept = usize::from(cut >= end_1) + usize::from(cut >= end_2);
            assert_eq!(lines(&path).len(), kept, "cut at {cut}");
            file.append(&json!({ "c": 3 })).expect("room");
            let found = lines(&path);
            assert_eq!(found.last().map(|(n, text)| (*n as usize, text.as_str())), Some((kept + 1, r#"{"c":3}"#)));
        }
    }

    #[test]
    fn a_lost_block_of_zeros_is_cut_off() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, [b"{}\n".to_vec(), vec![0; 200_000]].concat()).expect("ours");
        LineFile::open(&path).expect("ours");
        assert_eq!(std::fs::read(&path).expect("ours"), b"{}\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error() {
        let path = Path::new("/dev/full");
        assert!(LineFile::open(path).is_err(), "a device holds no lines");
        let full = File::options().write(true).open(path).expect("it opens");
        let mut file =
            LineFile { path: path.to_owned(), file: full, length: 0, synced: Instant::now(), is_dirty: false };
        assert_eq!(file.append(&1).expect_err("no room").kind(), io::ErrorKind::StorageFull);
    }
}
