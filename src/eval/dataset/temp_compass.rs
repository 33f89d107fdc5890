//! TempCompass: an object from video to temporal aspect to questions with answers, one file a task.
//!
//! Options stand in the question's text, a line each: `A. ...` in multiple choice, `Option 1: ...`, `Sentence A: ...`
//! or `Caption A: ...` in caption matching; the answer is such a line. A caption is scored by a judge, which is given
//! the first multiple-choice question about the same video and aspect: it is the rubric, its answer the reference.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
    /// Multiple-choice questions by which a judge scores captions: `questions/multi-choice.json`. Of captioning alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<PathBuf>,
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
    /// Captions, scored by a judge.
    Captioning,
}

impl TempCompassFiles {
    /// Returns whether the questions have options.
    pub(super) fn has_options(&self) -> bool {
        matches!(self.task, TempCompassTask::MultiChoice | TempCompassTask::CaptionMatching)
    }

    /// Returns the rule that the keys break, if they do.
    pub(super) fn broken_rule(&self) -> Option<&'static str> {
        match (self.task == TempCompassTask::Captioning, self.choices.is_some()) {
            (true, false) => Some("captioning needs `choices`, the multiple-choice questions of its judge"),
            (false, true) => Some("`choices` is of captioning alone"),
            _ => None,
        }
    }

    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let choices = self.choices.as_ref().map(|file| ChoiceFile::read(&data.file(file))).transpose()?;
        let path = data.file(&self.questions);
        let mut found = DatasetQuestions::default();
        for (video, aspects) in read_object(&path)? {
            for (aspect, rows) in aspects_of(&path, &video, aspects)? {
                for (number, row) in rows.iter().enumerate() {
                    let lookup = VideoLookup::new(&self.videos, video.clone());
                    let question = BenchmarkQuestion::open(format!("{video}/{aspect}/{number}"), lookup, "", "");
                    let question = match &choices {
                        Some(choices) => {
                            choices.caption(row, BenchmarkQuestion { kind: aspect.clone(), ..question })?
                        }
                        None => self.question(row, BenchmarkQuestion { kind: aspect.clone(), ..question })?,
                    };
                    found.questions.push(question);
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

/// Reads the rows of each aspect of a video.
fn aspects_of(path: &Path, video: &str, aspects: Value) -> Result<Vec<(String, Vec<DatasetRow>)>> {
    let Value::Object(aspects) = aspects else {
        return Err(Error::invalid("not an object of aspects").about(video.to_owned()).about(path));
    };
    let mut read = Vec::new();
    for (aspect, questions) in aspects {
        let Value::Array(questions) = questions else {
            return Err(Error::invalid("not a list of questions").about(aspect).about(video.to_owned()).about(path));
        };
        let row = |(number, value)| DatasetRow::new(path, format!("`{video}/{aspect}/{number}`"), value);
        let rows = (0..).zip(questions).map(row).collect::<Result<_>>()?;
        read.push((aspect, rows));
    }
    Ok(read)
}

/// Multiple-choice questions by which captions are judged.
struct ChoiceFile {
    path: PathBuf,
    videos: Map<String, Value>,
}

impl ChoiceFile {
    fn read(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), videos: read_object(path)? })
    }

    /// Fills in the question of a caption, and the first multiple-choice question about its video and aspect, whose
    /// options are lines `A. ...`, of which one is the answer.
    fn caption(&self, row: &DatasetRow, mut question: BenchmarkQuestion) -> Result<BenchmarkQuestion> {
        question.question = row.text("question")?.to_owned();
        let video = question.id.split('/').next().unwrap_or_default();
        let first = self.videos.get(video).and_then(|aspects| aspects.get(&question.kind)?.get(0));
        let first = first.ok_or_else(|| row.error(format!("no question about it in {}", self.path.display())))?;
        let choice = DatasetRow::new(&self.path, format!("`{video}/{}/0`", question.kind), first.clone())?;
        let (text, answer) = (choice.text("question")?, choice.text("answer")?);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        options(&choice, &lines, '.')?;
        if !lines.contains(&answer) {
            return Err(choice.error(format!("the answer `{answer}` is none of the options")));
        }
        question.rubric = Some(text.to_owned());
        question.reference = QuestionReference::Texts(vec![answer.to_owned()]);
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
