//! State of results: answered and failed questions and items, and which of several lines about one is valid.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{ANSWERS, FORMAT, Header, ResultRecord, SESSIONS, TIMINGS, Timed, for_each_line};
use crate::batch::error::not_results;
use crate::batch::item::Id;
use crate::batch::summary::BatchSession;
use crate::error::{Error, Kind};

/// Answered and failed questions and items by identity: about 40 bytes per line.
#[derive(Debug, Default)]
pub struct StoreState {
    answered: HashSet<Id>,
    /// Failed items and questions, with their last line.
    failed: HashMap<Id, FailedLine>,
    /// Numbers of unreadable lines.
    pub damaged: Vec<u64>,
    categories: HashSet<Arc<str>>,
}

#[derive(Debug, Clone)]
struct FailedLine {
    line: u64,
    category: Arc<str>,
}

/// The fields of a line that the state needs.
#[derive(Deserialize)]
struct Brief {
    item: Id,
    question: Option<String>,
    error: Option<BriefFailure>,
    #[serde(default)]
    resolved: bool,
    /// Read so that a line with two answers is damaged.
    #[serde(rename = "answer")]
    _answer: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct BriefFailure {
    stage: String,
    kind: String,
}

impl StoreState {
    /// Reads the lines of a file of answers after the first one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let mut state = Self::default();
        let read = for_each_line::<io::Error>(path, &mut |number, line| {
            if number > 1 {
                match serde_json::from_slice::<Brief>(line) {
                    Ok(Brief { item, resolved: true, .. }) => state.resolve(item),
                    Ok(Brief { item, question, error, .. }) => {
                        let category = error.map(|error| format!("{}/{}", error.stage, error.kind));
                        state.add(number, item, question.as_deref(), category.as_deref());
                    }
                    Err(_) => state.damaged.push(number),
                }
            }
            Ok(())
        });
        read.map_err(Error::io(path))?;
        Ok(state)
    }

    /// Adds a line, which replaces earlier lines about the same question or item.
    fn add(&mut self, line: u64, item: Id, question: Option<&str>, category: Option<&str>) {
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
            // An item with a question that was asked did not fail as a whole.
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

    /// Adds a record that was just written.
    pub(crate) fn update(&mut self, record: &ResultRecord) {
        if matches!(record.outcome, super::RecordOutcome::Resolved { .. }) {
            return self.resolve(record.item);
        }
        let category = record.failure().map(super::FailureRecord::category);
        self.add(0, record.item, record.question.as_deref(), category.as_deref());
    }

    /// Returns whether a question about an item is answered or failed.
    pub(crate) fn is_done(&self, item: Id, question: &str) -> bool {
        let key = item.with_question(question);
        self.answered.contains(&key) || self.failed.contains_key(&key)
    }

    /// Returns whether a question about an item is answered.
    pub(crate) fn is_answered(&self, item: Id, question: &str) -> bool {
        self.answered.contains(&item.with_question(question))
    }

    /// Returns whether an item failed as a whole.
    pub(crate) fn is_failed(&self, item: Id) -> bool {
        self.failed.contains_key(&item)
    }

    /// Returns whether an item failed for want of a question.
    pub(crate) fn has_no_question(&self, item: Id) -> bool {
        let category = format!("{}/{}", super::LIST, super::NO_QUESTION);
        self.failed.get(&item).is_some_and(|failed| *failed.category == *category)
    }

    /// Lists the entries that failed to be listed.
    pub(crate) fn not_listed(&self) -> impl Iterator<Item = Id> {
        let is_of_list = |failed: &FailedLine| failed.category.split('/').next() == Some(super::LIST);
        self.failed.iter().filter(move |(_, failed)| is_of_list(failed)).map(|(&id, _)| id)
    }

    /// Number of answered questions.
    pub fn n_answered(&self) -> u64 {
        self.answered.len() as u64
    }

    /// Number of failed items and questions.
    pub fn n_failed(&self) -> u64 {
        self.failed.len() as u64
    }

    /// Returns the number of failures by stage and kind.
    pub(crate) fn failed_by_category(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for failed in self.failed.values() {
            *sums.entry(failed.category.to_string()).or_insert(0) += 1;
        }
        sums
    }

    /// Returns whether a line is valid: not replaced by a later one.
    fn is_valid(&self, number: u64, record: &ResultRecord) -> bool {
        match &record.outcome {
            super::RecordOutcome::Answered(_) => true,
            super::RecordOutcome::Resolved { .. } => false,
            super::RecordOutcome::Failed { .. } => {
                self.failed.get(&record.key()).is_some_and(|failed| failed.line == number)
            }
        }
    }
}

/// A directory of results, open for reading.
#[derive(Debug)]
pub struct StoredResults {
    /// Directory.
    pub dir: PathBuf,
    /// Header: plan, model, version.
    pub header: Header,
    /// State.
    pub state: StoreState,
}

impl StoredResults {
    /// Opens a directory of results.
    ///
    /// # Errors
    /// When the directory has no results.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(ANSWERS);
        if !path.exists() {
            let error = Error::new(Kind::NotFound, "no such file");
            return Err(error.with_hint("a directory that `vidense batch` wrote").about(&path));
        }
        let header = Self::header_of(&path)?.ok_or_else(|| not_results(&path, "no first line"))?;
        Ok(Self { dir: dir.to_owned(), header, state: StoreState::read(&path)? })
    }

    /// Reads the first line of a file of answers; `None` if there is no complete line.
    pub(super) fn header_of(path: &Path) -> Result<Option<Header>, Error> {
        let invalid = |cause: String| not_results(path, &cause);
        let mut found = Ok(None);
        let read = for_each_line::<Ended>(path, &mut |_, line| {
            found = serde_json::from_slice::<Header>(line).map(Some);
            Err(Ended::Enough)
        });
        if let Err(Ended::Io(error)) = read {
            return Err(Error::io(path)(error));
        }
        match found {
            Ok(Some(header)) if header.format != FORMAT => {
                Err(invalid(format!("format `{}`, not `{FORMAT}`", header.format)))
            }
            Ok(header) => Ok(header),
            Err(error) => Err(invalid(format!("first line: {error}"))),
        }
    }

    /// Calls `take` with every valid record, in the order of the file.
    ///
    /// # Errors
    /// When the file cannot be read, or `take` fails.
    pub fn for_each(&self, take: &mut dyn FnMut(ResultRecord) -> Result<(), Error>) -> Result<(), Error> {
        for_each_line(&self.dir.join(ANSWERS), &mut |number, line| match serde_json::from_slice::<ResultRecord>(line) {
            Ok(record) if number > 1 && self.state.is_valid(number, &record) => take(record),
            _ => Ok(()),
        })
    }

    /// Reads the times of each answer, by the key of its record.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn timings(&self) -> Result<HashMap<Id, super::StepTimes>, Error> {
        let mut found = HashMap::new();
        for_each_line::<Error>(&self.dir.join(TIMINGS), &mut |_, line| {
            if let Ok(Timed { key, timings_ms }) = serde_json::from_slice(line) {
                found.insert(key, timings_ms);
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// Reads the sessions of a directory.
///
/// # Errors
/// When the file cannot be read.
pub fn read_sessions(dir: &Path) -> Result<Vec<BatchSession>, Error> {
    let mut found = Vec::new();
    for_each_line::<Error>(&dir.join(SESSIONS), &mut |_, line| {
        found.extend(serde_json::from_slice(line).ok());
        Ok(())
    })?;
    Ok(found)
}

/// Reason of the early end of a walk over lines.
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
    fn the_last_attempt_replaces_earlier_ones() {
        let mut state = StoreState::default();
        let item = Id(1);
        state.add(2, item, None, Some("decode/crash"));
        assert!(state.is_failed(item) && state.n_failed() == 1);
        state.add(3, item, None, Some("decode/hang"));
        assert_eq!(state.failed_by_category(), BTreeMap::from([("decode/hang".to_owned(), 1)]));
        state.add(4, item, Some("a"), None);
        state.add(5, item, Some("b"), Some("generate/token_budget"));
        assert!(!state.is_failed(item) && state.is_done(item, "a") && state.is_done(item, "b"));
        assert!(state.is_answered(item, "a") && !state.is_answered(item, "b") && !state.is_done(item, "c"));
        assert_eq!((state.n_answered(), state.n_failed()), (1, 1));
        // A new question about a video that has been removed since: the old answer stays.
        state.add(6, item, None, Some("decode/not_found"));
        assert!(state.is_failed(item) && state.is_answered(item, "a"));
    }
}
