//! What results hold: which questions are done, which items failed, and which of several lines counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::{ANSWERS, FORMAT, Header, ResultRecord, SESSIONS, TIMINGS, Timed, for_each_line};
use crate::batch::BatchError;
use crate::batch::item::Id;
use crate::batch::summary::BatchSession;

/// What is done and what failed, by identity: some 40 bytes a line.
#[derive(Debug, Default)]
pub struct StoreState {
    answered: HashSet<Id>,
    /// Of items and of questions about them: the line that counts.
    failed: HashMap<Id, FailedLine>,
    /// Lines that say nothing usable, by number.
    pub damaged: Vec<u64>,
    categories: HashSet<Arc<str>>,
}

#[derive(Debug, Clone)]
struct FailedLine {
    line: u64,
    category: Arc<str>,
}

/// As much of a line as is needed here.
#[derive(Deserialize)]
struct Brief {
    item: Id,
    question: Option<String>,
    error: Option<BriefFailure>,
    #[serde(default)]
    resolved: bool,
}

#[derive(Deserialize)]
struct BriefFailure {
    stage: String,
    kind: String,
}

impl StoreState {
    /// Reads the lines of a file of answers, its first one aside.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> Result<Self, BatchError> {
        let mut state = Self::default();
        let read = for_each_line::<io::Error>(path, &mut |number, line| {
            if number > 1 {
                match serde_json::from_slice::<Brief>(line) {
                    Ok(Brief { item, resolved: true, .. }) => state.resolve(item),
                    Ok(Brief { item, question, error, .. }) => {
                        let category = error.map(|error| format!("{}/{}", error.stage, error.kind));
                        state.add(number, (item, question.as_deref()), category.as_deref());
                    }
                    Err(_) => state.damaged.push(number),
                }
            }
            Ok(())
        });
        read.map_err(BatchError::io(path))?;
        Ok(state)
    }

    /// Takes a line, which counts from now on.
    fn add(&mut self, line: u64, (item, question): (Id, Option<&str>), category: Option<&str>) {
        let key = question.map_or(item, |question| item.with_question(question));
        match category {
            Some(category) => {
                let category = self.category(category);
                self.failed.insert(key, FailedLine { line, category });
            }
            None => {
                self.answered.insert(key);
                self.failed.remove(&key);
            }
        }
        if question.is_some() {
            // Of an item that a question was asked about something was seen.
            self.failed.remove(&item);
        }
    }

    fn resolve(&mut self, item: Id) {
        self.failed.remove(&item);
    }

    fn category(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.categories.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.categories.insert(new.clone());
        new
    }

    /// Takes a line that was just written.
    pub fn take(&mut self, record: &ResultRecord) {
        if matches!(record.outcome, super::RecordOutcome::Resolved { .. }) {
            return self.resolve(record.item);
        }
        let category = record.failure().map(super::FailureRecord::category);
        self.add(0, (record.item, record.question.as_deref()), category.as_deref());
    }

    /// Whether a question about an item has its answer, or has failed.
    pub fn is_done(&self, item: Id, question: &str) -> bool {
        let key = item.with_question(question);
        self.answered.contains(&key) || self.failed.contains_key(&key)
    }

    /// Whether a question about an item has its answer.
    pub fn is_answered(&self, item: Id, question: &str) -> bool {
        self.answered.contains(&item.with_question(question))
    }

    /// Whether nothing could be seen of an item.
    pub fn is_failed(&self, item: Id) -> bool {
        self.failed.contains_key(&item)
    }

    /// Whether nothing was asked about an item so far.
    pub fn is_unasked(&self, item: Id) -> bool {
        let category = format!("{}/{}", super::LIST, super::NO_QUESTION);
        self.failed.get(&item).is_some_and(|failed| *failed.category == *category)
    }

    /// What could not be listed.
    pub fn unlisted(&self) -> impl Iterator<Item = Id> {
        let is_unlisted = |failed: &FailedLine| failed.category.split('/').next() == Some(super::LIST);
        self.failed.iter().filter(move |(_, failed)| is_unlisted(failed)).map(|(&id, _)| id)
    }

    /// Questions that have an answer.
    pub fn n_answered(&self) -> u64 {
        self.answered.len() as u64
    }

    /// Items and questions that failed.
    pub fn n_failed(&self) -> u64 {
        self.failed.len() as u64
    }

    /// How many failed, by stage and kind.
    pub fn failed_by_category(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for failed in self.failed.values() {
            *sums.entry(failed.category.to_string()).or_insert(0) += 1;
        }
        sums
    }

    /// Whether a line is the one that counts.
    fn counts(&self, number: u64, record: &ResultRecord) -> bool {
        match &record.outcome {
            super::RecordOutcome::Answered(_) => true,
            super::RecordOutcome::Resolved { .. } => false,
            super::RecordOutcome::Failed { .. } => {
                self.failed.get(&record.key()).is_some_and(|failed| failed.line == number)
            }
        }
    }
}

/// A directory of results, to be read.
#[derive(Debug)]
pub struct StoredResults {
    /// The directory.
    pub dir: PathBuf,
    /// What made them.
    pub header: Header,
    /// What they hold.
    pub state: StoreState,
}

impl StoredResults {
    /// Reads what a directory holds.
    ///
    /// # Errors
    /// When it holds no results.
    pub fn open(dir: &Path) -> Result<Self, BatchError> {
        let path = dir.join(ANSWERS);
        if !path.exists() {
            let missing =
                io::Error::new(io::ErrorKind::NotFound, "no such file; hint: a directory that `vidense batch` wrote");
            return Err(BatchError::io(&path)(missing));
        }
        let header = Self::header_of(&path)?
            .ok_or_else(|| BatchError::NotResults { path: path.clone(), cause: "it has no first line".to_owned() })?;
        Ok(Self { dir: dir.to_owned(), header, state: StoreState::read(&path)? })
    }

    /// The first line of a file of answers; none if there is no whole one.
    pub(super) fn header_of(path: &Path) -> Result<Option<Header>, BatchError> {
        let not_ours = |cause: String| BatchError::NotResults { path: path.to_owned(), cause };
        let mut found = Ok(None);
        let read = for_each_line::<Ended>(path, &mut |_, line| {
            found = serde_json::from_slice::<Header>(line).map(Some);
            Err(Ended::Enough)
        });
        if let Err(Ended::Io(error)) = read {
            return Err(BatchError::io(path)(error));
        }
        match found {
            Ok(Some(header)) if header.format != FORMAT => {
                Err(not_ours(format!("the form `{}`, this program writes `{FORMAT}`", header.format)))
            }
            Ok(header) => Ok(header),
            Err(error) => Err(not_ours(format!("its first line: {error}"))),
        }
    }

    /// Hands out every line that counts, in the file's order.
    ///
    /// # Errors
    /// When the file cannot be read, or `take` fails.
    pub fn for_each(&self, take: &mut dyn FnMut(ResultRecord) -> Result<(), BatchError>) -> Result<(), BatchError> {
        for_each_line(&self.dir.join(ANSWERS), &mut |number, line| match serde_json::from_slice::<ResultRecord>(line) {
            Ok(record) if number > 1 && self.state.counts(number, &record) => take(record),
            _ => Ok(()),
        })
    }

    /// Where the time of each answer went.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn timings(&self) -> Result<HashMap<Id, super::StepTimes>, BatchError> {
        let mut found = HashMap::new();
        for_each_line::<BatchError>(&self.dir.join(TIMINGS), &mut |_, line| {
            if let Ok(Timed { key, timings_ms }) = serde_json::from_slice(line) {
                found.insert(key, timings_ms);
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// What was noted of the processes that wrote into a directory.
///
/// # Errors
/// When the file cannot be read.
pub fn read_sessions(dir: &Path) -> Result<Vec<BatchSession>, BatchError> {
    let mut found = Vec::new();
    for_each_line::<BatchError>(&dir.join(SESSIONS), &mut |_, line| {
        found.extend(serde_json::from_slice(line).ok());
        Ok(())
    })?;
    Ok(found)
}

/// Why a walk over lines ended early.
enum Ended {
    Enough,
    Io(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_attempt_counts() {
        let mut state = StoreState::default();
        let item = Id(1);
        state.add(2, (item, None), Some("decode/crash"));
        assert!(state.is_failed(item) && state.n_failed() == 1);
        state.add(3, (item, None), Some("decode/hang"));
        assert_eq!(state.failed_by_category(), BTreeMap::from([("decode/hang".to_owned(), 1)]));
        state.add(4, (item, Some("a")), None);
        state.add(5, (item, Some("b")), Some("generate/token_budget"));
        assert!(!state.is_failed(item) && state.is_done(item, "a") && state.is_done(item, "b"));
        assert!(state.is_answered(item, "a") && !state.is_answered(item, "b") && !state.is_done(item, "c"));
        assert_eq!((state.n_answered(), state.n_failed()), (1, 1));
        // A new question about a video that has gone since: the old answer stays.
        state.add(6, (item, None), Some("decode/not_found"));
        assert!(state.is_failed(item) && state.is_answered(item, "a"));
    }
}
