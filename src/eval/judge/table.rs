//! Table of judged answers: means with clustered intervals, counts of verdicts, tokens and their price.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::judged::{JudgeStatus, JudgedAnswer, SHOWN_DIGITS};
use super::replies::TokenUsage;
use super::spec::{JUDGE_ACCURACY, JUDGE_PREFIX, JUDGE_SCORE, JudgeSpec, built_in};
use crate::eval::benchmark::{BenchmarkRow, ScoreGroup, ScoredAnswer, named_score_table};
use crate::eval::metrics::ClusteredMean;

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

/// Judge, as far as scores depend on it. Scores of different judges do not compare.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeIdentity {
    /// Name of the judge.
    pub judge: String,
    /// Models that replied, as their services name them.
    pub models: BTreeSet<String>,
    /// Temperature of the requests.
    pub temperature: f64,
    /// Hash of the prompt.
    pub prompt_hash: String,
    /// Hash of the judge's description.
    pub judge_hash: String,
}

/// Scores of judged answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeTable {
    /// Judge.
    #[serde(flatten)]
    pub identity: JudgeIdentity,
    /// Highest points by metric, of those in points: a mean is a share of them. The others are shares of the answers.
    pub max_points: BTreeMap<String, f64>,
    /// Number of requests that were sent: one for each answered question, or for each pair.
    pub requests: usize,
    /// Numbers of questions by outcome.
    pub counts: JudgeCounts,
    /// Tokens of the replies.
    #[serde(skip)]
    pub tokens: TokenUsage,
    /// Price of the tokens, if prices were given.
    #[serde(skip)]
    pub price: Option<f64>,
    /// Names of the scores: the judge's first, then those that were computed before.
    pub metrics: Vec<String>,
    /// Rows.
    pub rows: Vec<JudgeRow>,
}

impl JudgeTable {
    /// Makes the table of answers of one judge.
    pub fn new(answers: &[JudgedAnswer]) -> Self {
        let scored: Vec<ScoredAnswer> = answers.iter().map(|answer| answer.answer.clone()).collect();
        let metrics = metrics(&scored);
        let names: Vec<&str> = metrics.iter().map(String::as_str).collect();
        // The questions of a pair share their request.
        let sent = answers.iter().map(|answer| &answer.judge).filter(|judge| judge.status != JudgeStatus::Unanswered);
        let requests: BTreeMap<&str, _> = sent.map(|judge| (judge.custom_id.as_str(), judge)).collect();
        let mut tokens = TokenUsage::default();
        requests.values().for_each(|judge| tokens += judge.usage);
        Self {
            identity: JudgeIdentity::of(answers),
            max_points: max_points(answers, &metrics),
            requests: requests.len(),
            counts: JudgeCounts::of(answers),
            tokens,
            price: requests.values().map(|judge| judge.price).sum::<Option<f64>>().filter(|_| !requests.is_empty()),
            rows: named_score_table(&scored, &names).into_iter().map(|row| JudgeRow::new(row, answers)).collect(),
            metrics,
        }
    }

    /// Number of questions.
    pub fn n_questions(&self) -> usize {
        self.counts.questions()
    }

    /// Returns the names of the judge's scores.
    pub fn judged_metrics(&self) -> impl Iterator<Item = &str> {
        self.metrics.iter().map(String::as_str).filter(|name| name.starts_with(JUDGE_PREFIX))
    }

    /// Returns the title of a metric: the abbreviation of papers for the score of their judge.
    pub fn title(&self, metric: &str) -> String {
        let abbreviation = self.identity.built_in().and_then(|judge| judge.abbreviation);
        abbreviation.filter(|_| metric == JUDGE_SCORE).unwrap_or_else(|| metric.to_owned())
    }

    /// Formats the mean of a metric and its interval, in points or in percent.
    pub fn shown(&self, metric: &str, mean: &ClusteredMean) -> [String; 2] {
        mean.shown(self.max_points.get(metric).copied())
    }
}

impl JudgeIdentity {
    fn of(answers: &[JudgedAnswer]) -> Self {
        let first = answers.first().map(|answer| &answer.judge);
        Self {
            judge: first.map(|judge| judge.name.clone()).unwrap_or_default(),
            models: answers.iter().filter_map(|answer| answer.judge.model.clone()).collect(),
            temperature: first.map_or(0.0, |judge| judge.temperature),
            prompt_hash: first.map(|judge| judge.prompt_hash.clone()).unwrap_or_default(),
            judge_hash: first.map(|judge| judge.judge_hash.clone()).unwrap_or_default(),
        }
    }

    /// Returns the built-in judge with this name, if the description is its own.
    pub(super) fn built_in(&self) -> Option<JudgeSpec> {
        built_in(&self.judge).filter(|judge| judge.hash() == self.judge_hash)
    }

    /// Names the models that replied.
    pub fn shown_models(&self) -> String {
        let models: Vec<&str> = self.models.iter().map(String::as_str).collect();
        if models.is_empty() { "no model".to_owned() } else { models.join(", ") }
    }

    /// Returns the first digits of the hashes: the prompt's, and that of the judge's description.
    pub fn short_hashes(&self) -> [&str; 2] {
        [&self.prompt_hash, &self.judge_hash].map(|hash| hash.get(..SHOWN_DIGITS).unwrap_or(hash))
    }
}

impl std::fmt::Display for JudgeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { judge, temperature, .. } = self;
        let (models, [prompt, description]) = (self.shown_models(), self.short_hashes());
        write!(f, "{judge} by {models}, temperature {temperature}, prompt {prompt}, description {description}")
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
    /// Number of questions.
    pub fn questions(&self) -> usize {
        self.judged + self.unanswered + self.without_verdict()
    }

    /// Number of questions that were sent and have no verdict: they score 0.
    pub fn without_verdict(&self) -> usize {
        let Self { missing, failed, unparsed, duplicate, .. } = self;
        missing + failed + unparsed + duplicate
    }

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

/// Returns the names of the scores that every answer has: the judge's, of which accuracy and score are first, and the
/// others.
fn metrics(answers: &[ScoredAnswer]) -> Vec<String> {
    let first = answers.first().into_iter().flat_map(|answer| answer.scores.keys());
    let is_common = |name: &&String| answers.iter().all(|answer| answer.scores.contains_key(*name));
    let rank = |name: &String| match name.as_str() {
        JUDGE_ACCURACY => 0,
        JUDGE_SCORE => 1,
        name if name.starts_with(JUDGE_PREFIX) => 2,
        _ => 3,
    };
    let mut names: Vec<String> = first.filter(is_common).cloned().collect();
    names.sort_by_key(rank);
    names
}

/// Returns the highest points of the metrics in points.
fn max_points(answers: &[JudgedAnswer], metrics: &[String]) -> BTreeMap<String, f64> {
    let highest = answers.first().map_or(1.0, |answer| answer.judge.max_score);
    let in_points = metrics.iter().filter(|name| name.starts_with(JUDGE_PREFIX) && *name != JUDGE_ACCURACY);
    let mut points: BTreeMap<String, f64> = in_points.map(|name| (name.clone(), highest)).collect();
    let n_parts = points.keys().filter(|name| *name != JUDGE_SCORE).count();
    points.entry(JUDGE_SCORE.to_owned()).and_modify(|points| *points *= n_parts.max(1) as f64);
    points.retain(|name, _| metrics.contains(name));
    points
}
