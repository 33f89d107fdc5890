//! TempCompass: an object from video to temporal aspect to questions with answers, one file a task.
//!
//! Options stand in the question's text, a line each: `A. ...` in multiple choice, `Option 1: ...`, `Sentence A: ...`
//! or `Caption A: ...` in caption matching; the answer is such a line. Captioning is scored by a judge, and refused.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rows::{DatasetDirectory, DatasetRow, read_object};
use super::{BenchmarkQuestion, ChoiceOptions, DatasetQuestions, QuestionReference, VideoLookup};
use crate::error::{Error, Result};

/// Files of TempCompass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TempCompassFiles {
    /// Object of questions: `questions/multi-choice.json`.
    pub questions: PathBuf,
    /// Task of the file.
    pub task: TempCompassTask,
    /// Directory of the videos.
    pub videos: PathBuf,
}

/// Task of TempCompass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TempCompassTask {
    /// Choice among lines `A. ...`.
    MultiChoice,
    /// Answers yes and no.
    YesNo,
    /// Choice of the caption that fits.
    CaptionMatching,
}

impl TempCompassFiles {
    /// Returns whether the questions have options.
    pub(super) fn has_options(&self) -> bool {
        self.task != TempCompassTask::YesNo
    }

    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let path = data.file(&self.questions);
        let mut found = DatasetQuestions::default();
        for (video, aspects) in read_object(&path)? {
            let Value::Object(aspects) = aspects else {
                return Err(Error::invalid("not an object of aspects").about(video).about(&path));
            };
            for (aspect, questions) in aspects {
                let Value::Array(questions) = questions else {
                    return Err(Error::invalid("not a list of questions").about(aspect).about(video).about(&path));
                };
                for (number, value) in questions.into_iter().enumerate() {
                    let id = format!("{video}/{aspect}/{number}");
                    let row = DatasetRow::new(&path, format!("`{id}`"), value)?;
                    let lookup = VideoLookup::new(&self.videos, video.clone());
                    let question = self.question(&row, BenchmarkQuestion::open(id, lookup, "", ""))?;
                    found.questions.push(BenchmarkQuestion { kind: aspect.clone(), ..question });
                }
            }
        }
        Ok(found)
    }

    /// Fills in the question, the options and the reference of a row.
    fn question(&self, row: &DatasetRow, mut question: BenchmarkQuestion) -> Result<BenchmarkQuestion> {
        let (text, answer) = (row.text("question")?, row.text("answer")?);
        if self.task == TempCompassTask::YesNo {
            if !matches!(answer, "yes" | "no") {
                return Err(row.error(format!("the answer is `{answer}`; expected yes or no")));
            }
            question.question = text.to_owned();
            question.reference = QuestionReference::Texts(vec![answer.to_owned()]);
            return Ok(question);
        }
        let mut lines = text.lines();
        question.question = lines.next().unwrap_or_default().to_owned();
        let lines: Vec<&str> = lines.collect();
        let right = lines.iter().position(|line| *line == answer);
        let right = right.ok_or_else(|| row.error(format!("the answer `{answer}` is none of the options")))?;
        let mark = if self.task == TempCompassTask::MultiChoice { '.' } else { ':' };
        question.options = options(row, &lines, mark)?;
        question.reference = QuestionReference::Choice(right);
        Ok(question)
    }
}

/// Reads options `LABEL. text` (multiple choice) or `Name LABEL: text` (caption matching), the name being that of
/// every option. Some lines of the distribution lack the space after the mark, or begin with one.
fn options(row: &DatasetRow, lines: &[&str], mark: char) -> Result<ChoiceOptions> {
    let option = |line: &&str| {
        let (name, text) = line.trim().split_once(mark)?;
        let label = name.chars().next_back().filter(|label| label.is_ascii_uppercase() || label.is_ascii_digit())?;
        let prefix = name.strip_suffix(label).filter(|prefix| prefix.is_empty() || prefix.ends_with(' '))?;
        Some((label, (text.trim().to_owned(), prefix.to_owned())))
    };
    let options = lines.iter().map(option).collect::<Option<Vec<_>>>().filter(|options| options.len() >= 2);
    let options = options.ok_or_else(|| row.error("invalid options; expected lines `A. ...` or `Option 1: ...`"))?;
    let (labels, named): (Vec<char>, Vec<(String, String)>) = options.into_iter().unzip();
    let (texts, prefixes): (Vec<String>, Vec<String>) = named.into_iter().unzip();
    if prefixes.iter().any(|prefix| *prefix != prefixes[0]) {
        return Err(row.error("options of several names"));
    }
    if let Some(label) = labels.iter().enumerate().find_map(|(i, label)| labels[..i].contains(label).then_some(label)) {
        return Err(row.error(format!("the option `{label}` comes twice")));
    }
    Ok(ChoiceOptions::with_labels(labels, texts, &prefixes[0]))
}
