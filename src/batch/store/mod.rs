//! The results of a batch: a directory with one line an answer, written as it is earned.
//!
//! | file | what it holds |
//! |---|---|
//! | `answers.jsonl` | line 1: the plan, the model's files, the version; then one line an answer or failure, which says nothing that would differ if it were made again |
//! | `timings.jsonl` | one line an answer: where its time went |
//! | `sessions.jsonl` | when a process began and ended here, and what it did |
//! | `thumbnails/` | a small picture a video |
//! | `lock`, `status.json`, `summary.json`, `report.html` | who writes; how far it is; what came of it |
//!
//! Lines are only ever added. A failed item that is tried again gets another line, which is the one that counts.

mod header;
mod lines;
mod lock;
mod record;
mod state;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use header::{FORMAT, Header};
use lines::{FirstLine, first_line};
pub use lines::{LineFile, for_each_line};
pub(super) use lock::now;
pub use lock::{Lock, LockHolder, holder};
pub use record::{AnswerRecord, FailureRecord, LIST, Lost, NO_QUESTION, RecordOutcome, ResultRecord, StepTimes, Timed};
pub use state::{StoreState, StoredResults, read_sessions};

use super::BatchError;
use super::item::Id;
use crate::files::{Flush, output};

/// The answers' file.
pub const ANSWERS: &str = "answers.jsonl";
/// The timings' file.
pub const TIMINGS: &str = "timings.jsonl";
/// The file of who worked here.
pub const SESSIONS: &str = "sessions.jsonl";
const THUMBNAILS: &str = "thumbnails";

/// Results that are open for their one writer.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    answers: LineFile,
    timings: LineFile,
    sessions: LineFile,
    lock: Lock,
    /// Of the program that began them.
    begun_by: String,
}

impl Store {
    /// Opens the results of a plan, or begins them; what a kill left torn is mended. Says as well what they hold.
    ///
    /// # Errors
    /// [`BatchError`] when another process writes there, they are another plan's, or the disk refuses.
    pub fn open(dir: &Path, header: &Header) -> Result<(Self, StoreState), BatchError> {
        output::create_directory(dir).map_err(BatchError::io(dir))?;
        let lock = Lock::take(dir)?;
        let path = dir.join(ANSWERS);
        // Whoever has another file of this name there keeps it as it is.
        let found = header_to_go_on(&path, header)?;
        if let Some(found) = found.as_ref().filter(|found| found.revision != header.revision) {
            let (dir, begun_by) = (dir.to_owned(), found.version.clone());
            return Err(BatchError::OtherRevision { dir, begun_by, there: found.revision, here: header.revision });
        }
        let differences = found.as_ref().map_or(Vec::new(), |found| found.differences_in_place(header));
        if !differences.is_empty() {
            return Err(BatchError::OtherPlan { dir: dir.to_owned(), differences });
        }
        let begun_by = found.as_ref().unwrap_or(header).version.clone();
        let open = |name: &str| LineFile::open(&dir.join(name)).map_err(BatchError::io(&dir.join(name)));
        let mut answers = open(ANSWERS)?;
        if answers.is_empty() {
            answers.append(header).and_then(|()| answers.sync()).map_err(BatchError::io(&path))?;
        }
        let state = StoreState::read(&path)?;
        let store =
            Self { dir: dir.to_owned(), answers, timings: open(TIMINGS)?, sessions: open(SESSIONS)?, lock, begun_by };
        Ok((store, state))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version of the program that began them.
    pub fn begun_by(&self) -> &str {
        &self.begun_by
    }

    /// Who died writing there, if the lock was found so.
    pub fn stale_holder(&self) -> Option<&LockHolder> {
        self.lock.stale.as_ref()
    }

    /// Keeps a line, with its timings before it: of an answer that is there they are there too.
    ///
    /// # Errors
    /// [`BatchError::NotKept`] when the disk refuses.
    pub fn add(&mut self, record: &ResultRecord, times: Option<StepTimes>) -> Result<(), BatchError> {
        let not_kept =
            |path: &Path, source| BatchError::NotKept { path: path.to_owned(), video: record.video.clone(), source };
        if let Some(timings_ms) = times {
            let timed = Timed { key: record.key(), timings_ms };
            self.timings.append(&timed).map_err(|source| not_kept(self.timings.path(), source))?;
        }
        self.answers.append(record).map_err(|source| not_kept(self.answers.path(), source))
    }

    /// Notes something of the process that writes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn note(&mut self, session: &impl Serialize) -> Result<(), BatchError> {
        self.sessions.append(session).map_err(BatchError::io(self.sessions.path()))
    }

    /// Keeps the small picture of an item.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn add_thumbnail(&self, item: Id, picture: &[u8]) -> std::io::Result<()> {
        let path = thumbnail_path(&self.dir, item);
        output::create_directory(path.parent().unwrap_or(&self.dir))?;
        output::write(&path, picture, Flush::Rename)
    }

    /// Waits until every line is on the disk that has not been for long.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync_if_due(&mut self) -> Result<(), BatchError> {
        for file in [&mut self.timings, &mut self.answers] {
            file.sync_if_due().map_err(BatchError::io(file.path()))?;
        }
        Ok(())
    }

    /// Waits until every line is on the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&mut self) -> Result<(), BatchError> {
        for file in [&mut self.timings, &mut self.answers, &mut self.sessions] {
            file.sync().map_err(BatchError::io(file.path()))?;
        }
        Ok(())
    }
}

/// The first line of a file that is to be gone on with; none if there is nothing of it, or a part of the one that is to be
/// written.
fn header_to_go_on(path: &Path, header: &Header) -> Result<Option<Header>, BatchError> {
    let torn = match first_line(path).map_err(BatchError::io(path))? {
        FirstLine::Missing => return Ok(None),
        FirstLine::Whole => return StoredResults::header_of(path),
        FirstLine::Torn(line) => line,
    };
    // A kill may have left a part of it, or all but its end.
    let ours = serde_json::to_vec(header).map_err(std::io::Error::from).map_err(BatchError::io(path))?;
    match serde_json::from_slice::<Header>(&torn) {
        Ok(found) => Ok(Some(found)),
        Err(_) if ours.starts_with(&torn) || torn.iter().all(|&byte| byte == 0) => Ok(None),
        Err(error) => Err(BatchError::NotResults { path: path.to_owned(), cause: format!("its first line: {error}") }),
    }
}

/// Where the small picture of an item is.
pub fn thumbnail_path(dir: &Path, item: Id) -> PathBuf {
    let digits = item.to_string();
    dir.join(THUMBNAILS).join(&digits[..2]).join(digits).with_extension("jpg")
}
