//! Published results that compare with judged answers.
//!
//! Judges differ by more than models do, so a result stands beside a score only if everything is equal that is known:
//! the whole split, a reply to every request, the built-in judge as it is, and the judging model by its full name.

use std::collections::HashSet;

use super::judged::JudgedAnswer;
use super::spec::{BUILT_IN_JUDGES, open_judge};
use super::table::{JudgeCounts, JudgeTable};
use crate::eval::benchmark::{AnswerStatus, BenchmarkSpec, PublishedResult};

/// Published results that compare, or the cause that none does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ComparableResults<'b> {
    /// Results of the same split and metric by the same judging model.
    pub published: Vec<&'b PublishedResult>,
    /// Cause that no result compares.
    pub obstacle: Option<String>,
}

impl JudgeTable {
    /// Returns the published results of a split that compare with the answers of this table.
    pub fn comparable<'b>(&self, benchmark: &'b BenchmarkSpec, answers: &[JudgedAnswer]) -> ComparableResults<'b> {
        let obstacle = obstacle_of_answers(benchmark, answers).or_else(|| self.obstacle_of_judge(answers));
        let is_comparable = |row: &&PublishedResult| {
            row.split == benchmark.split
                && self.metrics.iter().any(|metric| row.metric.is_judged() && metric == row.metric.name())
                && row.judge.as_ref().is_some_and(|model| self.models.contains(model))
        };
        let rows = benchmark.published.iter().filter(|_| obstacle.is_none());
        ComparableResults { published: rows.filter(is_comparable).collect(), obstacle }
    }

    /// Returns why the replies are not those of a paper's judge.
    fn obstacle_of_judge(&self, answers: &[JudgedAnswer]) -> Option<String> {
        let JudgeCounts { missing, failed, duplicate, .. } = self.counts;
        let built_in = BUILT_IN_JUDGES.iter().find(|(name, _)| *name == self.judge);
        let hash = built_in.and_then(|(name, _)| open_judge(name).ok()).map(|judge| judge.hash());
        let is_built_in = |answer: &JudgedAnswer| Some(&answer.judge.judge_hash) == hash.as_ref();
        let n_without = missing + failed + duplicate;
        let models: Vec<&str> = self.models.iter().map(String::as_str).collect();
        let has_unnamed = answers.iter().any(|answer| answer.judge.model.is_none() && !answer.judge.replies.is_empty());
        if n_without > 0 {
            Some(format!("{n_without} questions were sent and have no single reply"))
        } else if models.is_empty() || has_unnamed {
            Some("the service does not name the judging model".to_owned())
        } else if models.len() > 1 {
            Some(format!("replies of several models: {}", models.join(", ")))
        } else if !answers.iter().all(is_built_in) {
            Some(format!("`{}` is not a built-in judge with the prompt, scores and sampling of a paper", self.judge))
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
