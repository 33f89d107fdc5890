//! NExT-QA: multiple choice and open answers.
//!
//! Multiple choice: the official table (`video` or `video_id`, `question`, `answer`, `qid`, `type`, `a0` to `a4`),
//! IG-VLM's (`video_name`, `answer_number`, `question_id`, `question_type`), SlowFast-LLaVA's list (`candidates`,
//! `answer_number`), lmms-eval's Parquet (`video`, `answer`, `a0` to `a4`). The official answer is an index, in some
//! releases the option's text: a file is read as what more of its answers are, and the others are refused.
//!
//! IntentQA has the same layouts: its own tables (`val.csv`, `test.csv`) are NExT-QA's official one with further
//! columns, and IG-VLM's has the answers as texts.
//!
//! Open answers: `video`, `question`, `answer`, `qid`, `type`; a second reference from `additional_ref_answer`, or from
//! the object of video and qid in `add_reference_answer_test.json`. The type `TP` is scored with `TN`, as the script
//! does.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rows::{DatasetDirectory, DatasetRow, read_object, read_rows};
use super::{BenchmarkQuestion, ChoiceOptions, DatasetQuestions, QuestionReference, VideoLookup};
use crate::error::{Error, Result};

/// Files of NExT-QA, multiple choice, or of IntentQA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NextQaFiles {
    /// Table or list of questions: `NExT_QA.csv`, `IntentQA.csv`.
    pub questions: PathBuf,
    /// Directory of the videos.
    pub videos: PathBuf,
    /// Object from a video's id to its path without extension: `map_vid_vidorID.json`. Default: the id is the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<PathBuf>,
}

/// Files of NExT-QA, open answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NextQaOpenFiles {
    /// Table of questions.
    pub questions: PathBuf,
    /// Directory of the videos.
    pub videos: PathBuf,
    /// Object of second references: `add_reference_answer_test.json`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_references: Option<PathBuf>,
    /// Object from a video's id to its path without extension: `map_vid_vidorID.json`. Default: the id is the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<PathBuf>,
}

/// Names of videos, from their ids.
pub(super) struct VideoNames<'a> {
    dir: &'a Path,
    map: Option<Map<String, Value>>,
}

impl<'a> VideoNames<'a> {
    /// Reads the map of names, if there is one.
    pub(super) fn read(data: &DatasetDirectory<'_>, dir: &'a Path, map: Option<&PathBuf>) -> Result<Self> {
        Ok(Self { dir, map: map.map(|map| read_object(&data.file(map))).transpose()? })
    }

    /// Returns the look-up key of the video of a row.
    pub(super) fn lookup(&self, row: &DatasetRow, id: &str) -> Result<VideoLookup> {
        let Some(map) = &self.map else { return Ok(VideoLookup::new(self.dir, id)) };
        let name = map.get(id).and_then(Value::as_str);
        let name = name.ok_or_else(|| row.error(format!("the map of videos has no `{id}`")))?;
        Ok(VideoLookup::new(self.dir, name))
    }
}

/// Returns the options `a0`, `a1`, ... of a row, or its `candidates`.
pub(super) fn row_options(row: &DatasetRow) -> Result<ChoiceOptions> {
    if row.value("candidates").is_some() {
        return row.options("candidates");
    }
    ChoiceOptions::lettered(row.numbered("a")?).map_err(|error| row.locate(error))
}

/// Answer column of a table of multiple choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerColumn {
    /// Index of the option.
    Index,
    /// Text of the option.
    Text,
}

impl AnswerColumn {
    /// Returns the kind of the column `answer`: texts if more answers are texts of options than indices of options.
    pub(super) fn of(rows: &[DatasetRow]) -> Self {
        let (mut n_indices, mut n_texts) = (0, 0);
        for row in rows {
            let (Ok(Some(answer)), Ok(options)) = (row.optional("answer"), row_options(row)) else { continue };
            n_indices += usize::from(answer.trim().parse::<usize>().is_ok_and(|index| index < options.len()));
            n_texts += usize::from(options.position_of(answer).is_some());
        }
        if n_texts > n_indices { Self::Text } else { Self::Index }
    }

    /// Returns the right option of a row.
    pub(super) fn choice(self, row: &DatasetRow, options: &ChoiceOptions) -> Result<QuestionReference> {
        if row.value("answer_number").is_some() {
            return Ok(QuestionReference::Choice(row.index("answer_number", options.len())?));
        }
        let index = match self {
            Self::Index => row.index("answer", options.len())?,
            Self::Text => row.position("answer", options)?,
        };
        Ok(QuestionReference::Choice(index))
    }
}

/// Returns the id of a row: its own, or one made of the video and the number of the question.
pub(super) fn row_id(row: &DatasetRow, video: &str) -> Result<String> {
    Ok(match row.optional("question_id")? {
        Some(id) => id.to_owned(),
        None => format!("{video}_{}", row.text("qid")?),
    })
}

impl NextQaFiles {
    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let names = VideoNames::read(data, &self.videos, self.map.as_ref())?;
        let rows = read_rows(&data.file(&self.questions))?;
        let column = AnswerColumn::of(&rows);
        let mut found = DatasetQuestions::default();
        for row in &rows {
            let video = row.any_text(&["video_name", "video", "video_id"])?;
            let options = row_options(row)?;
            let reference = column.choice(row, &options)?;
            let lookup = names.lookup(row, video)?;
            let question = BenchmarkQuestion::choice(row_id(row, video)?, lookup, row.text("question")?, options);
            let kind = row.any_text(&["question_type", "type", "task_name"])?.to_owned();
            found.questions.push(BenchmarkQuestion { reference, kind, ..question });
        }
        Ok(found)
    }
}

impl NextQaOpenFiles {
    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let names = VideoNames::read(data, &self.videos, self.map.as_ref())?;
        let second = self.second_references.as_ref().map(|path| read_object(&data.file(path))).transpose()?;
        let mut found = DatasetQuestions::default();
        for row in read_rows(&data.file(&self.questions))? {
            let video = row.any_text(&["video", "video_id"])?;
            let lookup = names.lookup(&row, video)?;
            let mut question =
                BenchmarkQuestion::open(row_id(&row, video)?, lookup, row.text("question")?, row.text("answer")?);
            question.kind = match row.text("type")? {
                "TP" => "TN".to_owned(),
                kind => kind.to_owned(),
            };
            let own = row.optional("additional_ref_answer")?;
            let listed = second.as_ref().map(|second| second_reference(second, &row, video)).transpose()?.flatten();
            if let (QuestionReference::Texts(texts), Some(more)) = (&mut question.reference, own.or(listed)) {
                texts.push(more.to_owned());
            }
            found.questions.push(question);
        }
        Ok(found)
    }
}

/// Returns the second reference of a row; a video without one has none for all of its questions.
fn second_reference<'a>(second: &'a Map<String, Value>, row: &DatasetRow, video: &str) -> Result<Option<&'a str>> {
    let Some(of_video) = second.get(video) else { return Ok(None) };
    let qid = row.text("qid")?;
    match of_video.get(qid).and_then(Value::as_str) {
        Some(text) => Ok(Some(text)),
        None => Err(row.locate(Error::invalid(format!("no second reference for the question {qid} of `{video}`")))),
    }
}
