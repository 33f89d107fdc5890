//! IntentQA: multiple choice about intentions; a table (`video_name` or `video_id`, `question`, `question_id`, `answer`
//! as text or index, `question_type`, `a0` to `a4`) as IG-VLM distributes it, or SlowFast-LLaVA's list.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rows::DatasetDirectory;
use super::{DatasetQuestions, NextQaFiles};
use crate::error::Result;

/// Files of IntentQA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntentQaFiles {
    /// Table or list of questions: `IntentQA.csv`.
    pub questions: PathBuf,
    /// Directory of the videos, which are NExT-QA's.
    pub videos: PathBuf,
    /// Object from a video's id to its path without extension: `map_vid_vidorID.json`. Default: the id is the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<PathBuf>,
}

impl IntentQaFiles {
    /// Reads the questions, whose fields are NExT-QA's.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let Self { questions, videos, map } = self.clone();
        NextQaFiles { questions, videos, map }.read(data)
    }
}
