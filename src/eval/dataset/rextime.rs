//! ReXTime: questions that relate two moments of a video, four options each.
//!
//! Questions (`qid`, `vid`, `question`, `options`, `source`) are those of the Hugging Face data set; answers (`qid`,
//! `ans` as a letter, `relevant_windows` in seconds) are `rextime_val.jsonl` of the repository. Answers are scored;
//! spans are kept with the questions. The videos of ActivityNet and of QVHighlights are in directories of their own.

use std::collections::HashMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::next_gqa::windows;
use super::rows::{DatasetDirectory, DatasetRow, read_rows};
use super::video_mme::letter;
use super::{BenchmarkQuestion, DatasetQuestions, VideoLookup};
use crate::error::Result;

/// Files of ReXTime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RexTimeFiles {
    /// Questions of the Hugging Face data set.
    pub questions: PathBuf,
    /// Answers: `rextime_val.jsonl`. Default: none; the questions are not scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<PathBuf>,
    /// Directory of ActivityNet's videos.
    pub activitynet: PathBuf,
    /// Directory of QVHighlights' videos.
    pub qvhighlights: PathBuf,
}

impl RexTimeFiles {
    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let answers = match &self.answers {
            Some(path) => read_rows(&data.file(path))?,
            None => Vec::new(),
        };
        let mut by_id = HashMap::new();
        for row in &answers {
            let id = row.text("qid")?;
            if by_id.insert(id, row).is_some() {
                return Err(row.error(format!("the id `{id}` comes twice")));
            }
        }
        let mut found = DatasetQuestions::default();
        for row in read_rows(&data.file(&self.questions))? {
            let id = row.text("qid")?;
            let mut question = self.question(&row, id)?;
            if self.answers.is_some() {
                let answer = by_id.get(id).ok_or_else(|| row.error(format!("no answer with the id `{id}`")))?;
                question.reference = letter(answer, "ans", &question.options)?;
                if let Some(spans) = answer.value("relevant_windows") {
                    question.spans = windows(answer, spans)?;
                }
            }
            found.questions.push(question);
        }
        Ok(found)
    }

    fn question(&self, row: &DatasetRow, id: &str) -> Result<BenchmarkQuestion> {
        let options = row.options("options")?;
        let source = row.text("source")?;
        let is_of = |names: &[&str]| names.iter().any(|name| source.to_ascii_lowercase().starts_with(name));
        let dir = match source {
            _ if is_of(&["qvh"]) => &self.qvhighlights,
            _ if is_of(&["anet", "activitynet"]) => &self.activitynet,
            _ => return Err(row.error(format!("unknown source `{source}`; expected qvhighlights or Anet"))),
        };
        let video = VideoLookup::new(dir, row.text("vid")?);
        let question = BenchmarkQuestion::choice(id, video, row.text("question")?, options);
        let kind = row.optional("category")?.unwrap_or_default().to_owned();
        Ok(BenchmarkQuestion { kind, ..question })
    }
}
