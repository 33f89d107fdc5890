//! A file of JSON lines that only grows: each line is written at once, and what a kill left torn is mended when it is opened.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::files::output::open_to_append;

/// A line is safe from a kill at once, and from a loss of power after so long.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Bytes that are looked at together for the last line's beginning.
const BLOCK: u64 = 64 << 10;

/// A file of lines, open for its one writer.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    length: u64,
    synced: Instant,
    is_dirty: bool,
}

impl LineFile {
    /// Opens a file, or begins it, and mends its last line: whole but for its end it is ended, else it is cut off.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path) -> io::Result<Self> {
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

    /// Whether it has no line.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line. When that fails, nothing of the line is left.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn append(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        if let Err(error) = self.file.write_all(&bytes) {
            // Should this fail as well, the next one who opens it mends it.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.is_dirty = true;
        Ok(())
    }

    /// Waits until everything is on the disk, if something has not been for long.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync_if_due(&mut self) -> io::Result<()> {
        if self.is_dirty && self.synced.elapsed() >= SYNC_EVERY { self.sync() } else { Ok(()) }
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&mut self) -> io::Result<()> {
        (self.synced, self.is_dirty) = (Instant::now(), false);
        match self.file.sync_data() {
            // What is no file on a disk has nothing to wait for.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }
}

/// What a file begins with.
pub(super) enum FirstLine {
    /// Nothing.
    Missing,
    /// A line with its end.
    Whole,
    /// A line without its end: these bytes.
    Torn(Vec<u8>),
}

/// Bytes of a first line: no real one comes near.
const MAX_FIRST: u64 = 64 << 20;

/// Looks at what a file begins with.
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

/// Opens a file for reading, if there is one. A pipe is not opened: it would be waited for.
fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => File::open(path).map(Some),
        Ok(_) => Err(io::Error::other("not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes up to the end of the last whole line.
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

/// Takes a line and its number.
pub type TakeLine<'a, E> = dyn FnMut(u64, &[u8]) -> Result<(), E> + 'a;

/// Hands out each whole line of a file with its number, from 1. A file that is not there has none.
///
/// # Errors
/// When the file cannot be read, or `take` fails.
pub fn for_each_line<E: From<io::Error>>(path: &Path, take: &mut TakeLine<'_, E>) -> Result<(), E> {
    let Some(file) = open_if_there(path)? else { return Ok(()) };
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        // A line without its end is still being written.
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
    fn wherever_a_file_is_cut_whole_lines_stay_and_torn_ones_go() {
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
