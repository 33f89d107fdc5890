//! Description of a benchmark's split (`evals/*.yaml`): files, prompt, metrics, published results.
//!
//! Read as pipelines are: checked against the schema of [`BenchmarkSpec`], every error at once with its position. Paths
//! are relative to the data directory, which the description does not name.

use std::path::{Path, PathBuf};

use schemars::{JsonSchema, schema_for};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::measure::Measure;
use super::prompt::{BenchmarkPrompt, LETTER, OPTION_TEXT, OPTIONS, QUESTION, SUBTITLES};
use super::scores::{AnswerStatus, ScoredAnswer};
use crate::error::Result;
use crate::eval::dataset::{DatasetFormat, QuestionFiles};
use crate::spec::{Document, SchemaNode, SpecProblem};

/// Name in place of a judging model that a source does not name.
pub const UNNAMED_JUDGE: &str = "unnamed";

/// A split of a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkSpec {
    /// Name of the benchmark.
    pub name: String,
    /// Name of the split, as papers call it: test, val, subset.
    pub split: String,
    /// Number of questions of the whole split. Default: not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub questions: Option<usize>,
    /// Origin of the files.
    pub source: String,
    /// Format and files.
    pub format: DatasetFormat,
    /// Prompt.
    pub prompt: BenchmarkPrompt,
    /// Metrics; the first is that of the benchmark.
    #[schemars(length(min = 1))]
    pub metrics: Vec<Measure>,
    /// Average that papers report. Default: `questions`.
    #[serde(default)]
    pub average: AverageOver,
    /// Published results.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PublishedResult>,
}

/// Units over which a benchmark averages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AverageOver {
    /// Mean over questions (micro average).
    #[default]
    Questions,
    /// Mean over the means of tasks (macro average).
    Tasks,
}

/// A published result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedResult {
    /// Model or method.
    pub model: String,
    /// Split that it was measured on.
    pub split: String,
    /// Metric: the name of one of this program's, or judge_accuracy, judge_score.
    pub metric: PublishedMetric,
    /// Value, in percent; a judge's score in points.
    pub value: f64,
    /// Judging model with its version, or `unnamed` where the source does not name it. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<String>,
    /// Judge by whose prompt the answers were scored, a built-in one: `video-chatgpt-qa`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Paper and table.
    pub source: String,
}

/// Conditions of a published measurement.
#[derive(Debug, Clone, Copy)]
pub(in crate::eval) struct Measurement<'a> {
    /// Split.
    pub split: &'a str,
    /// Metric.
    pub metric: PublishedMetric,
    /// Judging model.
    pub judge: Option<&'a str>,
    /// Judge by whose prompt the answers were scored.
    pub prompt: Option<&'a str>,
}

impl Measurement<'_> {
    /// Checks that a judged metric has the judge's prompt, and no other has one, in a result by its number.
    pub(in crate::eval) fn problem_of_prompt(&self, number: usize) -> Option<SpecProblem> {
        let rule = "a judged metric has the judge's prompt, and no other";
        let problem = || SpecProblem::new(&format!("published.{number}.prompt"), rule).hint("prompt: video-chatgpt-qa");
        (self.metric.is_judged() != self.prompt.is_some()).then(problem)
    }
}

impl PublishedResult {
    pub(in crate::eval) fn measurement(&self) -> Measurement<'_> {
        let Self { split, metric, judge, prompt, .. } = self;
        Measurement { split, metric: *metric, judge: judge.as_deref(), prompt: prompt.as_deref() }
    }
}

/// Metric of a published result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr)]
pub enum PublishedMetric {
    /// Accuracy of multiple choice.
    #[serde(rename = "choice")]
    #[strum(serialize = "choice")]
    Choice,
    /// WUPS without a threshold.
    #[serde(rename = "wups_0")]
    #[strum(serialize = "wups_0")]
    Wups0,
    /// Share of answers that a judge accepts.
    #[serde(rename = "judge_accuracy")]
    #[strum(serialize = "judge_accuracy")]
    JudgeAccuracy,
    /// Mean score of a judge.
    #[serde(rename = "judge_score")]
    #[strum(serialize = "judge_score")]
    JudgeScore,
}

impl PublishedMetric {
    /// Returns whether a judge gives the metric.
    pub fn is_judged(self) -> bool {
        matches!(self, Self::JudgeAccuracy | Self::JudgeScore)
    }

    /// Returns the name in descriptions and records.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns whether a measure of this program is the metric.
    pub fn is(self, measure: Measure) -> bool {
        matches!((self, measure), (Self::Choice, Measure::Choice) | (Self::Wups0, Measure::Wups0))
    }
}

impl BenchmarkSpec {
    /// Describes a file of questions with reference answers, scored by exact match; the question alone is the prompt.
    pub fn of_questions(file: &Path) -> Self {
        let name = file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        let source = "a file of questions".to_owned();
        Self {
            name,
            split: "all".to_owned(),
            questions: None,
            source: source.clone(),
            format: DatasetFormat::Questions(QuestionFiles {
                questions: PathBuf::from(file.file_name().unwrap_or_default()),
            }),
            prompt: BenchmarkPrompt {
                system: None,
                text: QUESTION.to_owned(),
                option: String::new(),
                answer: String::new(),
                source,
            },
            metrics: vec![Measure::Exact],
            average: AverageOver::Questions,
            published: Vec::new(),
        }
    }

    /// Returns whether these are the answers to the whole split: to all its questions, each with a published reference,
    /// about videos that are there.
    pub fn is_whole(&self, answers: &[ScoredAnswer]) -> bool {
        let is_counted = |answer: &ScoredAnswer| answer.status != AnswerStatus::Missing && !answer.scores.is_empty();
        self.questions == Some(answers.len()) && answers.iter().all(is_counted)
    }

    /// Returns the published results that compare with the scores of some answers: those of the same split and metric,
    /// if the answers are of the whole split.
    pub fn comparable(&self, answers: &[ScoredAnswer]) -> Vec<&PublishedResult> {
        let of =
            |row: &&PublishedResult| row.split == self.split && self.metrics.first().is_some_and(|m| row.metric.is(*m));
        if self.is_whole(answers) { self.published.iter().filter(of).collect() } else { Vec::new() }
    }
}

/// Reads the description of a benchmark.
///
/// # Errors
/// Every error of the file, each with its position.
pub fn read_benchmark(path: &Path) -> Result<BenchmarkSpec> {
    let schema = schema_for!(BenchmarkSpec).to_value();
    let root = SchemaNode::root(&schema);
    let document = Document::read(path, root)?;
    let mut problems = Vec::new();
    root.check(&document.value, &mut Vec::new(), &mut problems);
    problems.extend(rules(&document.value));
    if !problems.is_empty() {
        return Err(document.error(&problems));
    }
    serde_json::from_value(document.value.clone())
        .map_err(|error| document.error(&[SpecProblem::new("", error.to_string())]))
}

/// Reads a key whose value is valid.
fn part<T: DeserializeOwned>(value: &Value, key: &str) -> Option<T> {
    serde_json::from_value(value.get(key)?.clone()).ok()
}

/// Checks the rules between fields, as far as these are valid.
fn rules(value: &Value) -> Vec<SpecProblem> {
    let mut problems = Vec::new();
    let format: Option<DatasetFormat> = part(value, "format");
    problems.extend(format.iter().filter_map(DatasetFormat::broken_rule).map(|rule| SpecProblem::new("format", rule)));
    if let Some(prompt) = part::<BenchmarkPrompt>(value, "prompt") {
        prompt_rules(&prompt, format.as_ref(), &mut problems);
    }
    let metrics: Vec<Measure> = part(value, "metrics").unwrap_or_default();
    for (number, measure) in metrics.iter().enumerate() {
        let Some(format) = &format else { continue };
        if measure.is_of_options() != format.has_options() {
            let kind = if format.has_options() { "have options" } else { "are open" };
            let rule = format!("`{}` does not fit: the questions of this format {kind}", measure.name());
            let hint = if format.has_options() { "choice" } else { "exact, normalized, token_f1, yes_no, wups_0" };
            problems.push(SpecProblem::new(&format!("metrics.{number}"), rule).hint(hint));
        }
    }
    let published: Vec<Value> = part(value, "published").unwrap_or_default();
    for (number, row) in published.into_iter().enumerate() {
        let Ok(row) = serde_json::from_value::<PublishedResult>(row) else { continue };
        if row.metric.is_judged() != row.judge.is_some() {
            let rule = if row.judge.is_some() {
                "a judge, of a metric without one"
            } else {
                "a judged metric without its judge"
            };
            problems.push(SpecProblem::new(&format!("published.{number}.judge"), rule));
        }
        problems.extend(row.measurement().problem_of_prompt(number));
    }
    problems
}

fn prompt_rules(prompt: &BenchmarkPrompt, format: Option<&DatasetFormat>, problems: &mut Vec<SpecProblem>) {
    let mut wants = |key: &str, text: &str, mark: &str, n: usize| {
        let found = text.matches(mark).count();
        if found != n {
            problems.push(SpecProblem::new(key, format!("wants {mark} {n} times, found it {found} times")));
        }
    };
    wants("prompt.text", &prompt.text, QUESTION, 1);
    if let Some(format) = format {
        wants("prompt.text", &prompt.text, OPTIONS, usize::from(format.has_options()));
        let has_subtitles = matches!(format, DatasetFormat::VideoMme(files) if files.subtitles.is_some());
        wants("prompt.text", &prompt.text, SUBTITLES, usize::from(has_subtitles));
    }
    wants("prompt.option", &prompt.option, LETTER, 1);
    wants("prompt.option", &prompt.option, OPTION_TEXT, 1);
    let mut knows = |key: &str, text: &str, known: &[&str]| {
        for name in placeholders(text).into_iter().filter(|name| !known.contains(name)) {
            let problem = SpecProblem::new(key, format!("unknown placeholder {name}"));
            let hint = if known.is_empty() { "this text has no placeholders".to_owned() } else { known.join(", ") };
            problems.push(problem.hint(hint));
        }
    };
    knows("prompt.text", &prompt.text, &[QUESTION, OPTIONS, SUBTITLES]);
    knows("prompt.option", &prompt.option, &[LETTER, OPTION_TEXT]);
    knows("prompt.system", prompt.system.as_deref().unwrap_or_default(), &[]);
    knows("prompt.answer", &prompt.answer, &[]);
}

/// Returns the names in braces of a text, such as `{question}`; other braces are text.
fn placeholders(text: &str) -> Vec<&str> {
    let is_name =
        |name: &str| name.len() > 2 && name[1..name.len() - 1].chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let begins = text.match_indices('{').filter_map(|(at, _)| Some(&text[at..=at + text[at..].find('}')?]));
    begins.filter(|name| is_name(name)).collect()
}
