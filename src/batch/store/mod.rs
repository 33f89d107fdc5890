//! Results of a batch: a directory with one line per answer, written when the answer is completed.
//!
//! | file | contents |
//! |---|---|
//! | `answers.jsonl` | line 1: the plan, the model's files, the version; then one line per answer or failure, with reproducible fields only |
//! | `timings.jsonl` | one line per answer: its time by stage |
//! | `sessions.jsonl` | begin, end and summary of each process |
//! | `thumbnails/` | one JPEG per video |
//! | `lock`, `status.json`, `summary.json`, `report.html` | the writing process; its progress; the last summary; the report |
//!
//! Lines are only appended. A retried item gets another line, which replaces the earlier one. Written by
//! `run` and [`merge`](super::merge).

mod header;
mod lines;
mod lock;
mod record;
mod state;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use header::{FORMAT, Header};
use lines::{FirstLine, first_line};
use lines::{LineFile, for_each_line};
pub(super) use lock::now;
pub use lock::{Lock, LockHolder, holder};
pub use record::{AnswerRecord, FailureRecord, PacketLoss, RecordOutcome, ResultRecord, StepTimes};
pub(crate) use record::{LIST, NO_QUESTION, Timed};
pub use state::{StoreState, StoredResults, read_sessions};

use super::error::{not_results, other_plan};
use super::item::Id;
use crate::error::{Error, Kind};
use crate::files::{Durability, output};

/// File name of the answers.
pub const ANSWERS: &str = "answers.jsonl";
/// File name of the timings.
pub const TIMINGS: &str = "timings.jsonl";
/// File name of the sessions.
pub const SESSIONS: &str = "sessions.jsonl";
const THUMBNAILS: &str = "thumbnails";

/// Results that are open for writing, by one process at a time.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    answers: LineFile,
    timings: LineFile,
    sessions: LineFile,
    lock: Lock,
    /// Version of the program that began the results.
    begun_by: String,
}

impl Store {
    /// Opens or begins the results of a plan, and repairs lines that a killed process left incomplete. Returns the
    /// state of the results as well.
    ///
    /// # Errors
    /// [`Error`] when another process writes there, the results are of another plan, or the files cannot be
    /// written.
    pub fn open(dir: &Path, header: &Header) -> Result<(Self, StoreState), Error> {
        output::create_directory(dir).map_err(Error::io(dir))?;
        let lock = Lock::take(dir)?;
        let path = dir.join(ANSWERS);
        // A file of another program is left as it is.
        let found = header_to_resume(&path, header)?;
        if let Some(found) = found.as_ref().filter(|found| found.revision != header.revision) {
            let rule = format!(
                "begun by another version of vidense ({}, revision {}; here {}), whose frames or answers may differ",
                found.version, found.revision, header.revision
            );
            return Err(Error::invalid(rule).with_hint("another directory").about(dir));
        }
        let differences = found.as_ref().map_or(Vec::new(), |found| found.differences_in_place(header));
        if !differences.is_empty() {
            return Err(other_plan(dir, &differences));
        }
        let begun_by = found.as_ref().unwrap_or(header).version.clone();
        let open = |name: &str| LineFile::open(&dir.join(name)).map_err(Error::io(&dir.join(name)));
        let mut answers = open(ANSWERS)?;
        if answers.is_empty() {
            answers.append(header).and_then(|()| answers.sync()).map_err(Error::io(&path))?;
        }
        let state = StoreState::read(&path)?;
        let store =
            Self { dir: dir.to_owned(), answers, timings: open(TIMINGS)?, sessions: open(SESSIONS)?, lock, begun_by };
        Ok((store, state))
    }

    /// Directory of the results.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Version of the program that began the results.
    pub fn begun_by(&self) -> &str {
        &self.begun_by
    }

    /// Process that died while it held the lock, if there was one.
    pub fn stale_holder(&self) -> Option<&LockHolder> {
        self.lock.stale.as_ref()
    }

    /// Appends a record, after its timings: every answer in the file has timings.
    ///
    /// # Errors
    /// [`Error`] when the files cannot be written.
    pub(crate) fn add(&mut self, record: &ResultRecord, times: Option<StepTimes>) -> Result<(), Error> {
        let not_kept = |path: &Path, source: std::io::Error| {
            let rule = format!("{source}, so the answer about {} could not be kept", record.video);
            let hint = "make room and run the same command again, nothing else is lost";
            Error::new(Kind::Unreadable, rule).with_hint(hint).with_cause(source).about(path)
        };
        if let Some(timings_ms) = times {
            let timed = Timed { key: record.key(), timings_ms };
            self.timings.append(&timed).map_err(|source| not_kept(self.timings.path(), source))?;
        }
        self.answers.append(record).map_err(|source| not_kept(self.answers.path(), source))
    }

    /// Appends a line to the sessions.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note(&mut self, session: &impl Serialize) -> Result<(), Error> {
        self.sessions.append(session).map_err(Error::io(self.sessions.path()))
    }

    /// Writes the thumbnail of an item.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn add_thumbnail(&self, item: Id, jpeg: &[u8]) -> std::io::Result<()> {
        let path = thumbnail_path(&self.dir, item);
        output::create_directory(path.parent().unwrap_or(&self.dir))?;
        output::replace(&path, jpeg, Durability::Renamed)
    }

    /// Syncs the lines that were written a while ago to the disk.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(crate) fn sync_if_due(&mut self) -> Result<(), Error> {
        for file in [&mut self.timings, &mut self.answers] {
            file.sync_if_due().map_err(Error::io(file.path()))?;
        }
        Ok(())
    }

    /// Syncs all lines to the disk.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        for file in [&mut self.timings, &mut self.answers, &mut self.sessions] {
            file.sync().map_err(Error::io(file.path()))?;
        }
        Ok(())
    }
}

/// Returns the first line of a file to resume; `None` if it is missing, or an incomplete copy of `header`.
fn header_to_resume(path: &Path, header: &Header) -> Result<Option<Header>, Error> {
    let torn = match first_line(path).map_err(Error::io(path))? {
        FirstLine::Missing => return Ok(None),
        FirstLine::Whole => return StoredResults::header_of(path),
        FirstLine::Torn(line) => line,
    };
    // A killed process may have left a prefix of the line, or all but the line feed.
    let expected = serde_json::to_vec(header).map_err(std::io::Error::from).map_err(Error::io(path))?;
    match serde_json::from_slice::<Header>(&torn) {
        Ok(found) => Ok(Some(found)),
        Err(_) if expected.starts_with(&torn) || torn.iter().all(|&byte| byte == 0) => Ok(None),
        Err(error) => Err(not_results(path, &format!("first line: {error}"))),
    }
}

/// Returns the path of an item's thumbnail.
pub(crate) fn thumbnail_path(dir: &Path, item: Id) -> PathBuf {
    let digits = item.to_string();
    dir.join(THUMBNAILS).join(&digits[..2]).join(digits).with_extension("jpg")
}
