//! Wrong answers and failures that a report shows.

use std::collections::BTreeMap;

use crate::eval::benchmark::{AnswerStatus, ScoredAnswer};

/// Number of wrong answers of a type.
const MAX_EXAMPLES: usize = 3;

/// Wrong answers to questions of one type.
#[derive(Debug)]
pub(super) struct ExampleGroup {
    /// Type, or the task where questions have no type.
    pub(super) name: String,
    /// Number of wrong answers.
    pub(super) n_wrong: usize,
    /// Some of them, the lowest scores first.
    pub(super) examples: Vec<ScoredAnswer>,
}

/// Questions about one video that failed for one cause.
#[derive(Debug, PartialEq)]
pub(super) struct FailedVideo {
    pub(super) video: String,
    pub(super) n_questions: usize,
    pub(super) cause: String,
}

/// Chooses wrong answers by type: given answers that score less than 1 by a metric, the lowest scores first. Among
/// equal scores the hash of the id decides, so that neither the order of the files nor the first videos do.
pub(super) fn wrong_answers(answers: &[ScoredAnswer], metric: &str) -> Vec<ExampleGroup> {
    let mut groups: BTreeMap<&str, Vec<(f64, &ScoredAnswer)>> = BTreeMap::new();
    for answer in answers {
        let is_given = matches!(answer.status, AnswerStatus::Answered | AnswerStatus::Unparsed);
        if let Some(&score) = answer.scores.get(metric).filter(|score| is_given && **score < 1.0) {
            let name = if answer.kind.is_empty() { &answer.task } else { &answer.kind };
            groups.entry(name).or_default().push((score, answer));
        }
    }
    let group = |(name, mut wrong): (&str, Vec<(f64, &ScoredAnswer)>)| {
        let hash = |answer: &ScoredAnswer| *blake3::hash(answer.question_id.as_bytes()).as_bytes();
        wrong.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| hash(a.1).cmp(&hash(b.1))));
        ExampleGroup {
            name: name.to_owned(),
            n_wrong: wrong.len(),
            examples: wrong.into_iter().take(MAX_EXAMPLES).map(|(_, answer)| answer.clone()).collect(),
        }
    };
    groups.into_iter().map(group).collect()
}

/// Lists the failures by video and cause, in the order of the split.
pub(super) fn failed_videos(answers: &[ScoredAnswer]) -> Vec<FailedVideo> {
    let mut found: Vec<FailedVideo> = Vec::new();
    let mut at: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.status == AnswerStatus::Failed) {
        let cause = answer.error.as_deref().unwrap_or_default();
        let index = *at.entry((&answer.video, cause)).or_insert_with(|| {
            found.push(FailedVideo { video: answer.video.clone(), n_questions: 0, cause: cause.to_owned() });
            found.len() - 1
        });
        found[index].n_questions += 1;
    }
    found
}
