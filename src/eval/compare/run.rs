//! Files of answers that are compared: their questions by id, and how many failed.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::eval::benchmark::AnswerStatus;
use crate::eval::judge::{JudgeRecord, JudgeStatus, RecordedJudge};
use crate::eval::metrics::is_exact_match;
use crate::records::{UniqueMap, read_lines};

/// Line of a file of answers, of a benchmark or of a file of questions.
#[derive(Debug, Deserialize)]
struct ComparedLine {
    question_id: Option<Value>,
    video: String,
    question: String,
    #[serde(default)]
    options: Vec<Value>,
    answer: Value,
    given: Option<String>,
    #[serde(default)]
    status: Option<AnswerStatus>,
    #[serde(default)]
    scores: Option<UniqueMap<f64>>,
    #[serde(default)]
    weight: Option<f64>,
    #[serde(default)]
    judge: Option<JudgeRecord>,
}

/// Answers of a run, by question.
#[derive(Debug, Default)]
pub(super) struct ComparedRun {
    /// Questions in the order of the file.
    pub(super) order: Vec<String>,
    pub(super) by_id: HashMap<String, ComparedAnswer>,
    pub(super) counts: RunCounts,
}

#[derive(Debug)]
pub(super) struct ComparedAnswer {
    pub(super) video: String,
    pub(super) question: String,
    pub(super) options: Vec<Value>,
    /// Reference, as the line has it.
    pub(super) reference: Value,
    pub(super) scores: BTreeMap<String, f64>,
    pub(super) weight: f64,
    pub(super) judge: Option<RecordedJudge>,
}

impl ComparedAnswer {
    /// Returns whether another run was asked the same with the same reference.
    pub(super) fn is_same_question(&self, other: &Self) -> bool {
        let is_same_weight = self.weight.total_cmp(&other.weight).is_eq();
        self.video == other.video
            && self.question == other.question
            && self.options == other.options
            && self.reference == other.reference
            && is_same_weight
            && self.scores.is_empty() == other.scores.is_empty()
    }
}

/// Numbers of questions of a run's file. All but the unparsed and the answered ones count as wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RunCounts {
    /// Questions.
    pub questions: usize,
    /// Questions that failed.
    pub failed: usize,
    /// Questions whose video is missing.
    pub missing: usize,
    /// Answers that were not parsed.
    pub unparsed: usize,
    /// Answers that were sent to a judge, and have no verdict.
    pub without_verdict: usize,
}

impl ComparedRun {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let mut run = Self::default();
        read_lines(path, &mut |_, line| {
            let line: ComparedLine = serde_json::from_str(line).map_err(|error| {
                let is_cut = error.is_eof();
                let error = Error::caused_by(Kind::Invalid, error);
                if is_cut { error.with_hint("the run that wrote it ended within this line") } else { error }
            })?;
            run.counts.add(&line);
            let (id, answer) = line.answer();
            if answer.scores.values().chain([&answer.weight]).any(|value| !(0.0..=1.0).contains(value)) {
                return Err(Error::invalid("a score or a weight that is not between 0 and 1"));
            }
            if run.by_id.insert(id.clone(), answer).is_some() {
                return Err(Error::invalid(format!("the question `{id}` comes twice")));
            }
            run.order.push(id);
            Ok(())
        })?;
        Ok(run)
    }
}

impl RunCounts {
    fn add(&mut self, line: &ComparedLine) {
        let is_failed = line.status == Some(AnswerStatus::Failed) || (line.status.is_none() && line.given.is_none());
        self.questions += 1;
        self.failed += usize::from(is_failed);
        self.missing += usize::from(line.status == Some(AnswerStatus::Missing));
        self.unparsed += usize::from(line.status == Some(AnswerStatus::Unparsed));
        let has_verdict = [JudgeStatus::Judged, JudgeStatus::Unanswered];
        self.without_verdict +=
            usize::from(line.judge.as_ref().is_some_and(|judge| !has_verdict.contains(&judge.status)));
    }
}

impl ComparedLine {
    /// Returns the id and the scores; a line of a file of questions is scored by exact match.
    fn answer(self) -> (String, ComparedAnswer) {
        let id = match &self.question_id {
            Some(Value::String(id)) => id.clone(),
            Some(id) if !id.is_null() => id.to_string(),
            _ => format!("{}: {}", self.video, self.question),
        };
        let scores = self.scores.map(|scores| scores.0).unwrap_or_else(|| {
            let reference = self.answer.as_str().map_or_else(|| self.answer.to_string(), str::to_owned);
            let is_right = self.given.is_some_and(|given| is_exact_match(&given, &reference));
            BTreeMap::from([("exact".to_owned(), f64::from(u8::from(is_right)))])
        });
        let answer = ComparedAnswer {
            video: self.video,
            question: self.question,
            options: self.options,
            reference: self.answer,
            scores,
            weight: self.weight.unwrap_or(1.0),
            judge: self.judge.as_ref().map(JudgeRecord::made_by),
        };
        (id, answer)
    }
}
