//! EgoSchema: 5,031 questions about clips of three minutes; the answers of 500 are published.
//!
//! The official list (`q_uid`, `question`, `option 0` to `option 4`) with the object of answers `subset_answers.json`
//! (`q_uid` to index), IG-VLM's table of the subset (`video_name`, `question_id`, `answer` as text, `a0` to `a4`), and
//! lmms-eval's list (`video_idx`, `option` as `A. ...`, `answer` as index). Without answers the questions of the full
//! set are answered and written as a submission.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::next_qa::{AnswerColumn, row_options};
use super::rows::{DatasetDirectory, DatasetRow, read_object, read_rows};
use super::{BenchmarkQuestion, ChoiceOptions, DatasetQuestions, QuestionReference, VideoLookup};
use crate::error::Result;

/// Files of EgoSchema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EgoSchemaFiles {
    /// List or table of questions: `questions.json`, `EgoSchema.csv`.
    pub questions: PathBuf,
    /// Object of answers: `subset_answers.json`; questions without one are left out. Default: the answers of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<PathBuf>,
    /// Directory of the videos.
    pub videos: PathBuf,
}

impl EgoSchemaFiles {
    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let answers = self.answers.as_ref().map(|path| read_object(&data.file(path))).transpose()?;
        let rows = read_rows(&data.file(&self.questions))?;
        let column = AnswerColumn::of(&rows);
        let mut found = DatasetQuestions::default();
        for row in &rows {
            let video = row.any_text(&["q_uid", "video_idx", "video_name"])?;
            let options = options(row)?;
            let reference = match &answers {
                Some(answers) if !answers.contains_key(video) => continue,
                Some(answers) => published(row, answers, video, options.len())?,
                None if row.value("answer").is_none() => QuestionReference::Hidden,
                None if row.value("option").is_some() => QuestionReference::Choice(row.index("answer", options.len())?),
                None => column.choice(row, &options)?,
            };
            let lookup = VideoLookup::new(&self.videos, video);
            let question = BenchmarkQuestion::choice(video, lookup, row.text("question")?, options);
            found.questions.push(BenchmarkQuestion { reference, ..question });
        }
        Ok(found)
    }
}

fn options(row: &DatasetRow) -> Result<ChoiceOptions> {
    if row.value("option").is_some() {
        return ChoiceOptions::from_labelled(&row.texts("option")?).map_err(|error| row.locate(error));
    }
    if row.value("option 0").is_some() {
        return ChoiceOptions::lettered(row.numbered("option ")?).map_err(|error| row.locate(error));
    }
    row_options(row)
}

/// Returns the published answer of a video.
fn published(row: &DatasetRow, answers: &Map<String, Value>, video: &str, n: usize) -> Result<QuestionReference> {
    let index = answers.get(video).and_then(Value::as_str).and_then(|index| index.parse().ok());
    let index = index.filter(|&index: &usize| index < n);
    index
        .map(QuestionReference::Choice)
        .ok_or_else(|| row.error(format!("invalid answer; expected an index below {n}")))
}
