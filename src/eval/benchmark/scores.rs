//! Scores of a benchmark: one scored answer, and the table by type, by task, over tasks and over questions.
//!
//! Every question of the split with a published reference is in the denominator: answers that failed or were not
//! parsed, and questions whose video is missing, are wrong, and counted beside the score.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::measure::{Measure, choice};
use crate::eval::dataset::{BenchmarkQuestion, ChoiceOptions, QuestionReference};
use crate::eval::metrics::{ClusteredMean, ClusteredScores, WordNet};
use crate::records::unique_map;

/// Outcome of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerStatus {
    /// Answered and, where the metric parses it, parsed.
    Answered,
    /// Answered in words that the parser does not understand.
    Unparsed,
    /// Not answered: the video or the question failed.
    Failed,
    /// Not asked: the video is missing.
    Missing,
}

/// A question with its answer and scores; a line of the file of answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredAnswer {
    /// Identifier of the question.
    pub question_id: String,
    /// Video, as the data set names it.
    pub video: String,
    /// Text of the question.
    pub question: String,
    /// Options, if the question has some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// References in words; none for a question without a published answer.
    pub answer: Vec<String>,
    /// Text that a judge scores by, beside the reference: scoring points, or a question with options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rubric: Option<String>,
    /// Type.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Task.
    #[serde(default)]
    pub task: String,
    /// Weight in averages.
    pub weight: f64,
    /// Answer of the model.
    pub given: Option<String>,
    /// Parsed answer, where the metric parses it.
    pub parsed: Option<String>,
    /// Outcome.
    pub status: AnswerStatus,
    /// Failure, if the question failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Score by measure; none for a question without a published answer.
    #[serde(deserialize_with = "unique_map")]
    pub scores: BTreeMap<String, f64>,
}

/// Scorer of answers by the measures of a benchmark.
#[derive(Debug, Clone, Copy)]
pub struct AnswerScorer<'a> {
    /// Measures, the first being that of the benchmark.
    pub measures: &'a [Measure],
    /// WordNet, for the measures that need it.
    pub wordnet: Option<&'a WordNet>,
}

impl AnswerScorer<'_> {
    /// Scores an answer.
    pub fn answered(&self, question: &BenchmarkQuestion, given: &str) -> ScoredAnswer {
        let mut scored = self.wrong(question, AnswerStatus::Answered);
        scored.given = Some(given.to_owned());
        let parsed = match &question.reference {
            QuestionReference::Hidden if !question.options.is_empty() => Some(choice(question, given, None)),
            _ => None,
        };
        let measured =
            self.measures.iter().filter_map(|measure| Some((measure, measure.score(question, given, self.wordnet)?)));
        for (measure, found) in measured {
            scored.scores.insert(measure.name().to_owned(), found.score);
            scored.note(&found);
        }
        parsed.iter().for_each(|found| scored.note(found));
        scored
    }

    /// Makes the record of a failed question.
    pub fn failed(&self, question: &BenchmarkQuestion, error: String) -> ScoredAnswer {
        ScoredAnswer { error: Some(error), ..self.wrong(question, AnswerStatus::Failed) }
    }

    /// Makes the record of a question whose video is missing.
    pub fn missing(&self, question: &BenchmarkQuestion) -> ScoredAnswer {
        self.wrong(question, AnswerStatus::Missing)
    }

    /// Makes a record whose scores are 0.
    fn wrong(&self, question: &BenchmarkQuestion, status: AnswerStatus) -> ScoredAnswer {
        let (answer, is_scored) = match &question.reference {
            QuestionReference::Texts(texts) => (texts.clone(), true),
            QuestionReference::Choice(right) => (labelled(&question.options, *right).into_iter().collect(), true),
            QuestionReference::Hidden => (Vec::new(), false),
        };
        let measures = self.measures.iter().filter(|_| is_scored);
        ScoredAnswer {
            question_id: question.id.clone(),
            video: question.video.shown(),
            question: question.question.clone(),
            options: question.options.texts().to_vec(),
            answer,
            rubric: question.rubric.clone(),
            kind: question.kind.clone(),
            task: question.task.clone(),
            weight: question.weight,
            given: None,
            parsed: None,
            status,
            error: None,
            scores: measures.map(|measure| (measure.name().to_owned(), 0.0)).collect(),
        }
    }
}

impl ScoredAnswer {
    /// Notes what a parser found.
    fn note(&mut self, found: &super::measure::MeasuredAnswer) {
        if found.is_unparsed {
            self.status = AnswerStatus::Unparsed;
        }
        if found.parsed.is_some() {
            self.parsed.clone_from(&found.parsed);
        }
    }
}

fn labelled(options: &ChoiceOptions, index: usize) -> Option<String> {
    Some(format!("{}. {}", options.label(index)?, options.texts().get(index)?))
}

/// Group of a row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreGroup {
    /// Questions of one type.
    Type,
    /// Questions of one task.
    Task,
    /// Mean over the means of the tasks, or of the types where there are no tasks (macro average).
    Macro,
    /// All questions (micro average).
    All,
}

/// Row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchmarkRow {
    /// Group.
    pub group: ScoreGroup,
    /// Name of the type or task.
    pub name: String,
    /// Number of questions, all of them in the denominator.
    pub questions: usize,
    /// Number of questions that failed.
    pub failed: usize,
    /// Number of answers that were not parsed.
    pub unparsed: usize,
    /// Number of questions whose video is missing.
    pub missing: usize,
    /// Means by measure; none over no questions.
    pub scores: BTreeMap<String, ClusteredMean>,
}

/// Returns the table: types, tasks, macro and micro averages. Questions without a published answer are not in it.
pub fn score_table(answers: &[ScoredAnswer], measures: &[Measure]) -> Vec<BenchmarkRow> {
    let names: Vec<&str> = measures.iter().map(|measure| measure.name()).collect();
    named_score_table(answers, &names)
}

/// Returns the table of scores by their names in the records, such as those of a judge.
pub fn named_score_table(answers: &[ScoredAnswer], measures: &[&str]) -> Vec<BenchmarkRow> {
    let scored: Vec<&ScoredAnswer> = answers.iter().filter(|answer| !answer.scores.is_empty()).collect();
    let names = |of: fn(&ScoredAnswer) -> &str| -> BTreeSet<&str> { scored.iter().map(|answer| of(answer)).collect() };
    let (kinds, tasks) = (names(|answer| &answer.kind), names(|answer| &answer.task));
    let mut rows = Vec::new();
    let mut add = |group: ScoreGroup, name: &str, chosen: &[&ScoredAnswer]| {
        rows.push(row(group, name, chosen, measures));
    };
    let with = |of: fn(&ScoredAnswer) -> &str, name: &str| -> Vec<&ScoredAnswer> {
        scored.iter().copied().filter(|answer| of(answer) == name).collect()
    };
    if kinds.len() > 1 {
        kinds.iter().for_each(|kind| add(ScoreGroup::Type, kind, &with(|answer| &answer.kind, kind)));
    }
    if tasks.len() > 1 && tasks != kinds {
        tasks.iter().for_each(|task| add(ScoreGroup::Task, task, &with(|answer| &answer.task, task)));
    }
    let (over, of): (_, fn(&ScoredAnswer) -> &str) = match tasks.len() > 1 {
        true => (tasks, |answer| &answer.task),
        false => (kinds, |answer| &answer.kind),
    };
    if over.len() > 1 {
        let strata: Vec<Vec<&ScoredAnswer>> = over.iter().map(|name| with(of, name)).collect();
        let name = format!("mean of {}", over.len());
        let mut mean = row(ScoreGroup::Macro, &name, &scored, measures);
        for measure in measures {
            let by_stratum: Vec<ClusteredScores> = strata.iter().map(|chosen| clustered(chosen, measure)).collect();
            mean.scores.insert((*measure).to_owned(), ClusteredScores::macro_mean(&by_stratum));
        }
        rows.push(mean);
    }
    rows.push(row(ScoreGroup::All, "all", &scored, measures));
    rows
}

fn row(group: ScoreGroup, name: &str, chosen: &[&ScoredAnswer], measures: &[&str]) -> BenchmarkRow {
    let n = |status: AnswerStatus| chosen.iter().filter(|answer| answer.status == status).count();
    let mean = |measure: &&str| ((*measure).to_owned(), clustered(chosen, measure).mean());
    BenchmarkRow {
        group,
        name: name.to_owned(),
        questions: chosen.len(),
        failed: n(AnswerStatus::Failed),
        unparsed: n(AnswerStatus::Unparsed),
        missing: n(AnswerStatus::Missing),
        scores: measures.iter().filter(|_| !chosen.is_empty()).map(mean).collect(),
    }
}

/// Collects the scores of answers by video.
fn clustered(answers: &[&ScoredAnswer], measure: &str) -> ClusteredScores {
    let mut scores = ClusteredScores::default();
    for answer in answers {
        if let Some(score) = answer.scores.get(measure) {
            scores.add(&answer.video, *score, answer.weight);
        }
    }
    scores
}
