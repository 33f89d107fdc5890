//! Video-ChatGPT's zero-shot question answering (`GPT_Zero_Shot_QA`): MSVD, MSRVTT, TGIF, ActivityNet.
//!
//! Two lists, of questions (`video_name`, `question`, `question_id`) and of answers (`answer`, `type`, `question_id`).
//! The original scripts join them by position; here they are joined by `question_id`, and positions that disagree are
//! reported. SlowFast-LLaVA calls the validation lists `val_q.json` and `val_a.json`.

use std::collections::HashMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rows::{DatasetDirectory, DatasetRow, read_rows};
use super::{BenchmarkQuestion, DatasetQuestions, VideoLookup};
use crate::error::{Error, Result};

/// Files of a zero-shot evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ZeroShotQaFiles {
    /// List of questions: `test_q.json`, `val_q.json`.
    pub questions: PathBuf,
    /// List of answers: `test_a.json`, `val_a.json`.
    pub answers: PathBuf,
    /// Directory of the videos.
    pub videos: PathBuf,
}

impl ZeroShotQaFiles {
    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let (questions, answers) = (read_rows(&data.file(&self.questions))?, read_rows(&data.file(&self.answers))?);
        let mut by_id: HashMap<&str, (usize, &DatasetRow)> = HashMap::new();
        for (index, row) in answers.iter().enumerate() {
            if by_id.insert(row.text("question_id")?, (index, row)).is_some() {
                return Err(row.error(format!("the id `{}` comes twice", row.text("question_id")?)));
            }
        }
        let mut found = DatasetQuestions::default();
        let mut n_displaced = 0;
        for (index, row) in questions.iter().enumerate() {
            let id = row.text("question_id")?;
            let (at, answer) = by_id.get(id).ok_or_else(|| row.error(format!("no answer with the id `{id}`")))?;
            n_displaced += usize::from(*at != index);
            let video = VideoLookup::new(&self.videos, row.text("video_name")?);
            let mut question = BenchmarkQuestion::open(id, video, row.text("question")?, answer.text("answer")?);
            question.kind = answer.optional("type")?.unwrap_or_default().to_owned();
            found.questions.push(question);
        }
        if answers.len() != questions.len() {
            let rule = format!("{} answers for {} questions", answers.len(), questions.len());
            return Err(Error::invalid(rule).about(data.file(&self.answers)));
        }
        if n_displaced > 0 {
            found.notes.push(format!(
                "{n_displaced} answers stand at another position than their question; scripts that join by position \
                 score these against another answer"
            ));
        }
        Ok(found)
    }
}
