//! Perception Test, multiple choice: the official object (video to `mc_question`: `id`, `question`, `options`,
//! `answer_id`, `area`, `reasoning`, `tag`), or lmms-eval's rows (`video_name`, `question_id`, `question`, `options`,
//! `answer_id`, `area`).
//!
//! Rows without `answer_id` (the test set) are not scored. Videos that the challenge cuts before the answer is seen
//! (`cut_frame_mapping_*.json`) are read whole, as lmms-eval does; a note says so.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rows::{DatasetDirectory, DatasetRow, read_object, read_rows};
use super::{BenchmarkQuestion, DatasetQuestions, QuestionReference, VideoLookup};
use crate::error::Result;

/// Files of Perception Test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PerceptionTestFiles {
    /// Questions: `mc_question_valid.json`, or Parquet.
    pub questions: PathBuf,
    /// Directory of the videos.
    pub videos: PathBuf,
}

impl PerceptionTestFiles {
    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let path = data.file(&self.questions);
        let mut found = DatasetQuestions::default();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            for (video, value) in read_object(&path)? {
                let row = DatasetRow::new(&path, format!("`{video}`"), value)?;
                for question in row.rows("mc_question")? {
                    let id = format!("{video}/{}", question.text("id")?);
                    found.questions.push(self.question(&question, &video, id)?);
                }
            }
        } else {
            for row in read_rows(&path)? {
                let video = row.text("video_name")?.to_owned();
                let id = format!("{video}/{}", row.text("question_id")?);
                found.questions.push(self.question(&row, &video, id)?);
            }
        }
        found.notes.push("videos are read whole, also those that the challenge cuts (cut_frame_mapping)".to_owned());
        Ok(found)
    }

    fn question(&self, row: &DatasetRow, video: &str, id: String) -> Result<BenchmarkQuestion> {
        let options = row.options("options")?;
        let reference = match row.value("answer_id") {
            Some(_) => QuestionReference::Choice(row.index("answer_id", options.len())?),
            None => QuestionReference::Hidden,
        };
        let lookup = VideoLookup::new(&self.videos, video);
        let question = BenchmarkQuestion::choice(id, lookup, row.text("question")?, options);
        let kind = row.optional("reasoning")?.unwrap_or_default().to_owned();
        let task = row.optional("area")?.unwrap_or_default().to_owned();
        Ok(BenchmarkQuestion { reference, kind, task, ..question })
    }
}
