//! Table of judged answers: means with clustered intervals, and counts of verdicts of each row.

use std::collections::BTreeSet;

use serde::Serialize;

use super::judged::{JUDGE_ACCURACY, JUDGE_SCORE, JudgeStatus, JudgedAnswer};
use super::spec::{JudgeSpec, VerdictKind};
use crate::eval::benchmark::{BenchmarkRow, ScoreGroup, ScoredAnswer, named_score_table};

/// Numbers of questions by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct JudgeCounts {
    /// With a verdict.
    pub judged: usize,
    /// Not sent, because the model gave no answer.
    pub unanswered: usize,
    /// Without a reply.
    pub missing: usize,
    /// Whose request failed.
    pub failed: usize,
    /// Whose reply is not understood.
    pub unparsed: usize,
    /// With several replies of different texts.
    pub duplicate: usize,
    /// With a score that is not an integer, which the scripts of Video-ChatGPT truncate and this program does not.
    pub fractional: usize,
}

/// Row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeRow {
    /// Means, and numbers of the questions that the model failed on.
    #[serde(flatten)]
    pub scores: BenchmarkRow,
    /// Numbers of questions by the outcome of judging.
    pub verdicts: JudgeCounts,
}

/// Scores of judged answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeTable {
    /// Name of the judge.
    pub judge: String,
    /// Models that replied, as their services name them.
    pub models: BTreeSet<String>,
    /// Temperature of the requests.
    pub temperature: f64,
    /// Hash of the prompt.
    pub prompt_hash: String,
    /// Highest score: `judge_score` is a share of it.
    pub max_score: f64,
    /// Numbers of questions by outcome.
    pub counts: JudgeCounts,
    /// Names of the scores: the judge's first, then those that were computed before.
    pub metrics: Vec<String>,
    /// Rows.
    pub rows: Vec<JudgeRow>,
}

impl JudgeTable {
    /// Makes the table.
    pub fn new(judge: &JudgeSpec, answers: &[JudgedAnswer]) -> Self {
        let scored: Vec<ScoredAnswer> = answers.iter().map(|answer| answer.answer.clone()).collect();
        let metrics = metrics(judge, &scored);
        let names: Vec<&str> = metrics.iter().map(String::as_str).collect();
        Self {
            judge: judge.name.clone(),
            models: answers.iter().filter_map(|answer| answer.judge.model.clone()).collect(),
            temperature: judge.temperature,
            prompt_hash: judge.prompt_hash(),
            max_score: judge.max_score,
            counts: JudgeCounts::of(answers),
            rows: named_score_table(&scored, &names).into_iter().map(|row| JudgeRow::new(row, answers)).collect(),
            metrics,
        }
    }

    /// Number of questions.
    pub fn n_questions(&self) -> usize {
        let JudgeCounts { judged, unanswered, missing, failed, unparsed, duplicate, .. } = self.counts;
        judged + unanswered + missing + failed + unparsed + duplicate
    }
}

impl JudgeRow {
    fn new(scores: BenchmarkRow, answers: &[JudgedAnswer]) -> Self {
        let is_in_row = |answer: &&JudgedAnswer| match scores.group {
            ScoreGroup::Type => answer.answer.kind == scores.name,
            ScoreGroup::Task => answer.answer.task == scores.name,
            ScoreGroup::Macro | ScoreGroup::All => true,
        };
        let verdicts = JudgeCounts::of(answers.iter().filter(is_in_row));
        Self { scores, verdicts }
    }
}

impl JudgeCounts {
    fn of<'a>(answers: impl IntoIterator<Item = &'a JudgedAnswer>) -> Self {
        let mut counts = Self::default();
        answers.into_iter().for_each(|answer| counts.add(answer));
        counts
    }

    fn add(&mut self, answer: &JudgedAnswer) {
        *match answer.judge.status {
            JudgeStatus::Judged => &mut self.judged,
            JudgeStatus::Unanswered => &mut self.unanswered,
            JudgeStatus::Missing => &mut self.missing,
            JudgeStatus::Failed => &mut self.failed,
            JudgeStatus::Unparsed => &mut self.unparsed,
            JudgeStatus::Duplicate => &mut self.duplicate,
        } += 1;
        self.fractional += usize::from(answer.judge.score.is_some_and(|score| score.fract() != 0.0));
    }
}

/// Returns the names of the judge's scores, and of those that every answer has.
fn metrics(judge: &JudgeSpec, answers: &[ScoredAnswer]) -> Vec<String> {
    let of_judge: &[&str] = match judge.verdict {
        VerdictKind::YesNoAndScore => &[JUDGE_ACCURACY, JUDGE_SCORE],
        VerdictKind::Score => &[JUDGE_SCORE],
    };
    let first = answers.first().into_iter().flat_map(|answer| answer.scores.keys());
    let is_common = |name: &&String| answers.iter().all(|answer| answer.scores.contains_key(*name));
    let others = first.filter(is_common).filter(|name| ![JUDGE_ACCURACY, JUDGE_SCORE].contains(&name.as_str()));
    of_judge.iter().map(|name| (*name).to_owned()).chain(others.cloned()).collect()
}
