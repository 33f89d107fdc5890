//! NExT-GQA: NExT-QA's questions with the spans of the video that ground their answers.
//!
//! A table (`video_id`, `question`, `answer`, `qid`, `type`, `a0` to `a4`) and the object of spans `gsub_test.json`:
//! video, `location`, qid, list of `[start, end]` in seconds. Answers are scored; spans are kept with the questions.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::next_qa::{AnswerColumn, VideoNames, row_id, row_options};
use super::rows::{DatasetDirectory, DatasetRow, read_object, read_rows};
use super::{BenchmarkQuestion, DatasetQuestions};
use crate::error::{Error, Result};
use crate::units::Seconds;
use crate::video::Window;

/// Files of NExT-GQA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NextGqaFiles {
    /// Table of questions: `test.csv`.
    pub questions: PathBuf,
    /// Object of spans: `gsub_test.json`.
    pub spans: PathBuf,
    /// Directory of the videos.
    pub videos: PathBuf,
    /// Object from a video's id to its path without extension: `map_vid_vidorID.json`. Default: the id is the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<PathBuf>,
}

impl NextGqaFiles {
    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let names = VideoNames::read(data, &self.videos, self.map.as_ref())?;
        let spans = read_object(&data.file(&self.spans))?;
        let rows = read_rows(&data.file(&self.questions))?;
        let column = AnswerColumn::of(&rows);
        let mut found = DatasetQuestions::default();
        let mut n_ungrounded = 0;
        for row in &rows {
            let video = row.any_text(&["video_id", "video"])?;
            let options = row_options(row)?;
            let reference = column.choice(row, &options)?;
            let lookup = names.lookup(row, video)?;
            let mut question = BenchmarkQuestion::choice(row_id(row, video)?, lookup, row.text("question")?, options);
            question.reference = reference;
            question.kind = row.text("type")?.to_owned();
            let listed = spans.get(video).and_then(|of_video| of_video.get("location")?.get(row.text("qid").ok()?));
            question.spans = listed.map(|listed| windows(row, listed)).transpose()?.unwrap_or_default();
            n_ungrounded += usize::from(question.spans.is_empty());
            found.questions.push(question);
        }
        if n_ungrounded > 0 {
            found.notes.push(format!("{n_ungrounded} of {} questions have no span", rows.len()));
        }
        Ok(found)
    }
}

/// Reads a list of `[start, end]`.
pub(super) fn windows(row: &DatasetRow, list: &Value) -> Result<Vec<Window>> {
    let number = |value: &Value| value.as_str()?.parse::<f64>().ok().filter(|number| number.is_finite());
    let window = |pair: &Value| {
        let [start, end] = pair.as_array()?.as_slice() else { return None };
        Some(Window { start: Some(Seconds(number(start)?)), end: Some(Seconds(number(end)?)) })
    };
    let windows = list.as_array().and_then(|list| list.iter().map(window).collect::<Option<Vec<_>>>());
    windows.ok_or_else(|| row.locate(Error::invalid("invalid spans; expected a list of [start, end]")))
}
