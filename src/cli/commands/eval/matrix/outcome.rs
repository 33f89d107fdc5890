//! Results of a cell in its directory: whether it is done, its answers and its cost.

use std::path::PathBuf;

use vidense::batch::store::{ANSWERS, StoredResults};
use vidense::error::Error;
use vidense::eval::benchmark::{AnswerStatus, RUN, ScoredAnswer};
use vidense::eval::judge::Judgements;
use vidense::eval::matrix::{CellCost, CellOutcome, CellState};

use super::super::benchmark::PreparedBenchmark;

/// Directory of a cell, with what its results are of.
pub(super) struct CellFiles<'a> {
    pub(super) dir: PathBuf,
    pub(super) benchmark: &'a PreparedBenchmark,
    /// Fingerprint of the cell's plan.
    pub(super) fingerprint: &'a str,
}

impl CellFiles<'_> {
    /// Directory of the results.
    pub(super) fn run_dir(&self) -> PathBuf {
        self.dir.join(RUN)
    }

    /// Opens the results, if the cell was begun.
    fn results(&self) -> Result<Option<StoredResults>, Error> {
        let dir = self.run_dir();
        if !dir.join(ANSWERS).is_file() {
            return Ok(None);
        }
        let results = StoredResults::open(&dir)?;
        if results.header.plan != self.fingerprint {
            let error = Error::invalid("results of another plan than that of the cell").about(dir);
            return Err(error.with_hint("another --out"));
        }
        Ok(Some(results))
    }

    /// Returns the arithmetic of the results, if there are some.
    pub(super) fn arithmetic(&self) -> Option<String> {
        self.results().ok().flatten().map(|results| results.header.arithmetic.clone())
    }

    /// Returns whether every question was asked; with `retry_failed`, whether every question was also answered.
    ///
    /// # Errors
    /// When the results cannot be read, or are of another plan.
    pub(super) fn is_done(&self, retry_failed: bool) -> Result<bool, Error> {
        let Some(results) = self.results()? else { return Ok(false) };
        let is_done = |answer: &Option<ScoredAnswer>| {
            answer.as_ref().is_some_and(|answer| !(retry_failed && answer.status == AnswerStatus::Failed))
        };
        Ok(self.benchmark.answers(&results)?.iter().all(is_done))
    }

    /// Writes the scored answers, the record and the report of a cell that is done, as those of a single run.
    ///
    /// # Errors
    /// When the results cannot be read, or a file cannot be written.
    pub(super) fn write_evaluation(&self) -> Result<(), Error> {
        let Some(results) = self.results()? else { return Ok(()) };
        let answers: Option<Vec<ScoredAnswer>> = self.benchmark.answers(&results)?.into_iter().collect();
        match answers {
            Some(answers) => self.benchmark.write_evaluation(&self.dir, &results, &answers),
            None => Ok(()),
        }
    }

    /// Returns the outcome of the cell, of which `error` is that of its run.
    ///
    /// # Errors
    /// When the results cannot be read.
    pub(super) fn outcome(&self, error: Option<&str>) -> Result<CellOutcome, Error> {
        let failed = |error: &str| CellOutcome {
            state: CellState::Failed,
            answers: Vec::new(),
            cost: None,
            error: Some(error.to_owned()),
            judgements: Judgements::default(),
        };
        if let Some(error) = error {
            return Ok(failed(error));
        }
        let incomplete = CellOutcome {
            state: CellState::Incomplete,
            answers: Vec::new(),
            cost: None,
            error: None,
            judgements: Judgements::default(),
        };
        let Some(results) = self.results()? else { return Ok(incomplete) };
        let answers = self.benchmark.answers(&results)?;
        let n = answers.len();
        let answers: Vec<ScoredAnswer> = answers.into_iter().flatten().collect();
        if answers.len() < n {
            return Ok(incomplete);
        }
        let cost = Some(CellCost::of(&results)?);
        // Other scores of the cell stand without its judges.
        let judgements = Judgements::read(&self.dir, &answers)
            .unwrap_or_else(|error| Judgements { all: Vec::new(), notes: vec![error.to_string()] });
        Ok(CellOutcome { state: CellState::Done, answers, cost, error: None, judgements })
    }
}
