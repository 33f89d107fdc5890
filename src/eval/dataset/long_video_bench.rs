//! LongVideoBench: a list (`id`, `video_path`, `question`, `candidates`, `correct_choice` as index, `duration_group`,
//! `question_category`), or its Parquet with `option0` to `option4`, of which `N/A` are none.
//!
//! The test set has no `correct_choice`: its answers are written as a submission. The benchmark interleaves subtitles
//! with frames for models of images; a video model is asked without, as lmms-eval's `longvideobench_val_v` does.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rows::{DatasetDirectory, DatasetRow, read_rows};
use super::{BenchmarkQuestion, ChoiceOptions, DatasetQuestions, QuestionReference, VideoLookup};
use crate::error::Result;

/// Files of LongVideoBench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LongVideoBenchFiles {
    /// List of questions: `lvb_val.json`, `lvb_test_wo_gt.json`.
    pub questions: PathBuf,
    /// Directory of the videos.
    pub videos: PathBuf,
}

impl LongVideoBenchFiles {
    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let rows = read_rows(&data.file(&self.questions))?;
        let questions = rows.iter().map(|row| self.question(row)).collect::<Result<Vec<_>>>()?;
        Ok(DatasetQuestions { questions, ..DatasetQuestions::default() })
    }

    fn question(&self, row: &DatasetRow) -> Result<BenchmarkQuestion> {
        let texts = match row.value("candidates").is_some() {
            true => row.texts("candidates")?,
            false => row.numbered("option")?.into_iter().take_while(|text| text != "N/A").collect(),
        };
        let options = ChoiceOptions::lettered(texts).map_err(|error| row.locate(error))?;
        let reference = match row.value("correct_choice") {
            // The test set's Parquet has -1.
            None => QuestionReference::Hidden,
            Some(value) if value == "-1" => QuestionReference::Hidden,
            Some(_) => QuestionReference::Choice(row.index("correct_choice", options.len())?),
        };
        let video = VideoLookup::new(&self.videos, row.text("video_path")?);
        let question = BenchmarkQuestion::choice(row.text("id")?, video, row.text("question")?, options);
        let kind = row.optional("question_category")?.unwrap_or_default().to_owned();
        let task = row.text("duration_group")?.to_owned();
        Ok(BenchmarkQuestion { reference, kind, task, ..question })
    }
}
