//! Published results that compare with judged answers.
//!
//! Judges differ by more than models do (versions of one by up to 11 points on the same answers, FreeVA, arXiv
//! 2405.07798), so a result stands beside a score only if everything is equal that is known: the whole split, a reply
//! to every request, the built-in judge as it is, and the judging model by its full name. Others are counted by cause.

use std::collections::{BTreeMap, HashSet};

use super::judged::JudgedAnswer;
use super::table::{JudgeCounts, JudgeTable};
use crate::eval::benchmark::{AnswerStatus, BenchmarkSpec, Measurement, PublishedResult, UNNAMED_JUDGE};

/// Published results that compare, and the causes that others do not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ComparableResults {
    /// Results of the same split and metric by the same prompt and judging model.
    pub published: Vec<PublishedResult>,
    /// Cause that no result compares.
    pub obstacle: Option<String>,
    /// Results by this judge's prompt that do not compare, by cause.
    pub left_out: BTreeMap<String, usize>,
}

impl ComparableResults {
    /// Describes the results that are left out.
    pub fn shown_left_out(&self) -> Option<String> {
        let n: usize = self.left_out.values().sum();
        let causes: Vec<String> = self.left_out.iter().map(|(cause, n)| format!("{n} {cause}")).collect();
        (n > 0).then(|| format!("{n} published results are left out: {}", causes.join("; ")))
    }
}

impl JudgeTable {
    /// Chooses the published results of a split that compare with the answers of this table.
    pub fn comparable(&self, benchmark: &BenchmarkSpec, answers: &[JudgedAnswer]) -> ComparableResults {
        let obstacle = self.obstacle(benchmark, answers);
        let mut compared = ComparableResults { obstacle, ..ComparableResults::default() };
        let of_prompt = |row: &&PublishedResult| self.is_of_prompt(row.measurement());
        for row in benchmark.published.iter().filter(of_prompt) {
            let obstacle = compared.obstacle.as_ref().map(|obstacle| format!("because of these answers ({obstacle})"));
            match self.difference(row.measurement(), benchmark).or(obstacle) {
                Some(cause) => *compared.left_out.entry(cause).or_default() += 1,
                None => compared.published.push(row.clone()),
            }
        }
        compared
    }

    /// Returns why no published result compares with the answers of this table.
    pub(in crate::eval) fn obstacle(&self, benchmark: &BenchmarkSpec, answers: &[JudgedAnswer]) -> Option<String> {
        obstacle_of_answers(benchmark, answers).or_else(|| self.obstacle_of_judge(answers))
    }

    /// Returns whether a result is of this split, and of this judge's prompt, metrics and model.
    pub(in crate::eval) fn is_same(&self, result: Measurement<'_>, benchmark: &BenchmarkSpec) -> bool {
        self.is_of_prompt(result) && self.difference(result, benchmark).is_none()
    }

    fn is_of_prompt(&self, result: Measurement<'_>) -> bool {
        result.prompt == Some(self.identity.judge.as_str())
    }

    /// Returns how a result differs from one of this split, these metrics and this judging model.
    fn difference(&self, row: Measurement<'_>, benchmark: &BenchmarkSpec) -> Option<String> {
        let judge = row.judge.unwrap_or(UNNAMED_JUDGE);
        if row.split != benchmark.split {
            Some(format!("of the split {}", row.split))
        } else if !self.metrics.iter().any(|metric| metric == row.metric.name()) {
            Some(format!("of the metric {}", row.metric.name()))
        } else if judge == UNNAMED_JUDGE {
            Some("judged by a model that the source does not name".to_owned())
        } else if !self.identity.models.contains(judge) {
            Some(format!("judged by {judge}"))
        } else {
            None
        }
    }

    /// Returns why the replies are not those of a paper's judge.
    fn obstacle_of_judge(&self, answers: &[JudgedAnswer]) -> Option<String> {
        let JudgeCounts { missing, failed, duplicate, .. } = self.counts;
        let hash = self.identity.built_in().map(|judge| judge.hash());
        let is_built_in = |answer: &JudgedAnswer| Some(&answer.judge.judge_hash) == hash.as_ref();
        let n_without = missing + failed + duplicate;
        let models: Vec<&str> = self.identity.models.iter().map(String::as_str).collect();
        let has_unnamed = answers.iter().any(|answer| answer.judge.model.is_none() && !answer.judge.replies.is_empty());
        if n_without > 0 {
            Some(format!("{n_without} questions were sent and have no single reply"))
        } else if models.is_empty() || has_unnamed {
            Some("the service does not name the judging model".to_owned())
        } else if models.len() > 1 {
            Some(format!("replies of several models: {}", models.join(", ")))
        } else if !answers.iter().all(is_built_in) {
            Some(format!(
                "`{}` is not a built-in judge with the prompt, scores and sampling of a paper",
                self.identity.judge
            ))
        } else {
            None
        }
    }
}

/// Returns why answers are not those to a whole split.
fn obstacle_of_answers(benchmark: &BenchmarkSpec, answers: &[JudgedAnswer]) -> Option<String> {
    let ids: HashSet<&str> = answers.iter().map(|answer| answer.answer.question_id.as_str()).collect();
    let is_missing = |answer: &&JudgedAnswer| answer.answer.status == AnswerStatus::Missing;
    let n_missing = answers.iter().filter(is_missing).count();
    match benchmark.questions {
        None => Some("the description does not say how many questions the split has".to_owned()),
        Some(n) if n != ids.len() => Some(format!("{} questions, the split has {n}", ids.len())),
        Some(_) if ids.len() < answers.len() => Some("questions come twice".to_owned()),
        Some(_) if n_missing > 0 => Some(format!("{n_missing} questions have a missing video")),
        Some(_) => None,
    }
}
