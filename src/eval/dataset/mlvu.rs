//! MLVU, multiple choice: one list a task (`video`, `question`, `candidates`, `answer` as text, `question_type`).
//!
//! The lists of the test set have `question_id` and no answer; their answers are written as a submission. The
//! generation tasks (`8_sub_scene.json`, `9_summary.json`) have no candidates, and are read by `mlvu_generation`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rows::{DatasetDirectory, DatasetRow, read_rows};
use super::{BenchmarkQuestion, DatasetQuestions, QuestionReference, VideoLookup};
use crate::error::{Error, Result};

/// Files of MLVU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MlvuFiles {
    /// Tasks.
    #[schemars(length(min = 1))]
    pub tasks: Vec<MlvuTask>,
}

/// A task of MLVU, or the test set's list of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MlvuTask {
    /// List of questions: `json/1_plotQA.json`.
    pub questions: PathBuf,
    /// Directory of the videos: `video/1_plotQA`.
    pub videos: PathBuf,
}

impl MlvuFiles {
    /// Reads the questions of all tasks.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let mut found = DatasetQuestions::default();
        for task in &self.tasks {
            for (number, row) in read_rows(&data.file(&task.questions))?.iter().enumerate() {
                found.questions.push(task.question(number, row)?);
            }
        }
        let is_lost = |question: &&BenchmarkQuestion| matches!(question.reference, QuestionReference::Texts(_));
        let n_lost = found.questions.iter().filter(is_lost).count();
        if n_lost > 0 {
            found
                .notes
                .push(format!("{n_lost} answers are none of the candidates: no option of these questions is right"));
        }
        Ok(found)
    }
}

impl MlvuTask {
    fn question(&self, number: usize, row: &DatasetRow) -> Result<BenchmarkQuestion> {
        if row.value("candidates").is_none() {
            let error = Error::invalid("no candidates: a generation task, which needs a judge");
            return Err(row.locate(error.with_hint("the format `mlvu_generation`")));
        }
        let options = row.options("candidates")?;
        let reference = match row.optional("answer")? {
            None => QuestionReference::Hidden,
            // Two answers of the distribution are none of their candidates; its script counts every option as wrong.
            Some(answer) => match options.position_of(answer) {
                Some(right) => QuestionReference::Choice(right),
                None => QuestionReference::Texts(vec![answer.to_owned()]),
            },
        };
        let kind = row.text("question_type")?.to_owned();
        let id = match row.optional("question_id")? {
            Some(id) => id.to_owned(),
            None => format!("{kind}/{number}"),
        };
        let video = VideoLookup::new(&self.videos, row.text("video")?);
        let mut question = BenchmarkQuestion::choice(id, video, row.text("question")?, options);
        question.reference = reference;
        question.task.clone_from(&kind);
        question.extra = Map::from_iter([("question_type".to_owned(), Value::from(kind.clone()))]);
        question.kind = kind;
        Ok(question)
    }
}
