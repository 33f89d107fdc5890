//! Answers to the questions of a benchmark, read from results of a batch over its items.

use std::collections::HashMap;
use std::path::Path;

use super::BenchmarkSpec;
use super::scores::{AnswerScorer, ScoredAnswer};
use super::tasks::BenchmarkTasks;
use crate::batch::Id;
use crate::batch::store::{FailureRecord, RecordOutcome, StoredResults};
use crate::error::Result;
use crate::eval::dataset::DatasetQuestions;

/// Questions that one record answers, or whose video it is about.
type QuestionIndex = HashMap<Id, Vec<usize>>;

/// Reads the answers to the questions of `tasks` below the data directory, and scores them: one a question, in the
/// order of the data set; `None` for a question without a record. Questions with a missing video are scored as such.
///
/// A record is of a question if it is about the same item and prompt. A failed item counts for each of its questions
/// without a record of its own. Records of other questions are not used.
///
/// # Errors
/// When the results cannot be read.
pub fn read_answers(
    dataset: &DatasetQuestions,
    tasks: &BenchmarkTasks,
    data: &Path,
    scoring: &ScoredResults<'_>,
) -> Result<Vec<Option<ScoredAnswer>>> {
    let (questions, scorer) = (&dataset.questions, scoring.scorer);
    let (mut by_prompt, mut by_item) = (QuestionIndex::new(), QuestionIndex::new());
    for (video, item) in tasks.videos.iter().zip(tasks.items(questions, data)) {
        for (question, prompt) in video.asked() {
            by_prompt.entry(item.id.with_question(prompt)).or_default().push(question);
            by_item.entry(item.id).or_default().push(question);
        }
    }
    let mut answers: Vec<Option<ScoredAnswer>> = vec![None; questions.len()];
    for &index in &tasks.missing {
        answers[index] = Some(scorer.missing(&questions[index]));
    }
    let mut of_items: Vec<(usize, FailureRecord)> = Vec::new();
    scoring.results.for_each(&mut |record| {
        let asked = by_prompt.get(&record.key()).map(Vec::as_slice).unwrap_or_default();
        match (&record.question, &record.outcome) {
            (None, RecordOutcome::Failed { error }) => {
                let of_item = by_item.get(&record.item).map(Vec::as_slice).unwrap_or_default();
                of_items.extend(of_item.iter().map(|&question| (question, error.clone())));
            }
            (Some(_), RecordOutcome::Failed { error }) => {
                asked.iter().for_each(|&index| answers[index] = Some(scorer.failed(&questions[index], shown(error))));
            }
            (_, RecordOutcome::Answered(given)) => {
                asked.iter().for_each(|&index| answers[index] = Some(scorer.answered(&questions[index], &given.answer)))
            }
            (_, RecordOutcome::Resolved { .. }) => {}
        }
        Ok(())
    })?;
    for (index, error) in of_items {
        answers[index].get_or_insert_with(|| scorer.failed(&questions[index], shown(&error)));
    }
    Ok(answers)
}

/// Results of a batch, and the scorer of their answers.
#[derive(Debug, Clone, Copy)]
pub struct ScoredResults<'a> {
    /// Results.
    pub results: &'a StoredResults,
    /// Scorer.
    pub scorer: AnswerScorer<'a>,
}

/// Describes how the prompts of results differ from those of a benchmark: the system text and the beginning of the
/// answer are of the plan, not of the questions.
pub fn check_results_prompt(results: &StoredResults, spec: &BenchmarkSpec) -> Vec<String> {
    let of_plan = |key: &str| results.header.choices["prompt"][key].as_str().unwrap_or_default();
    let system = spec.prompt.system.as_deref().unwrap_or_default();
    let parts = [("system", system), ("answer", spec.prompt.answer.as_str())];
    let differing = parts.into_iter().filter(|(key, text)| of_plan(key) != *text);
    let describe = |(key, here): (&str, &str)| {
        let there = of_plan(key);
        format!("the results were asked with prompt.{key} {there:?}, the benchmark with {here:?}")
    };
    differing.map(describe).collect()
}

fn shown(error: &FailureRecord) -> String {
    format!("{} (in the stage {})", error.cause, error.stage)
}
