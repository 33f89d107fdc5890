//! MVBench: one list a task (`video`, `question`, `candidates`, `answer` as text, `start` and `end` in some tasks).
//!
//! Each task has a directory of videos of its own. A task reads the clips `start` to `end` of its rows, or whole videos
//! where the distribution has cut them already (the `video` revision of OpenGVLab/MVBench). Frames of a directory
//! (episodic reasoning, three a second) have no times, so their clips cannot be cut, and such a task is refused.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rows::{DatasetDirectory, DatasetRow, read_rows};
use super::{BenchmarkQuestion, DatasetQuestions, QuestionReference, VideoLookup};
use crate::error::{Error, Result};
use crate::video::Window;

/// Files of MVBench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MvBenchFiles {
    /// Directory of the lists.
    pub lists: PathBuf,
    /// Tasks.
    #[schemars(length(min = 1))]
    pub tasks: Vec<MvBenchTask>,
}

/// A task of MVBench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MvBenchTask {
    /// Name of the task, and of its list without `.json`.
    pub name: String,
    /// Directory of the task's videos.
    pub videos: PathBuf,
    /// Part of a video that a row is about. Default: `rows`.
    #[serde(default)]
    pub clips: ClipSource,
}

/// Source of the part of a video that a question is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClipSource {
    /// `start` and `end` of the row, where it has them.
    #[default]
    Rows,
    /// The whole video, which has been cut already.
    Whole,
}

impl MvBenchFiles {
    /// Reads the questions of all tasks.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let mut found = DatasetQuestions::default();
        for task in &self.tasks {
            let path = data.file(&self.lists.join(format!("{}.json", task.name)));
            for (number, row) in read_rows(&path)?.iter().enumerate() {
                let question = task.question(number, row)?;
                let is_frames = question.clip != Window::default()
                    && question.video.find(data.path()).is_some_and(|path| path.is_dir());
                if is_frames {
                    let error = Error::invalid("the clip of a directory of frames, which have no times");
                    return Err(row.locate(error.with_hint("clips: whole, with videos that have been cut")));
                }
                found.questions.push(question);
            }
        }
        Ok(found)
    }
}

impl MvBenchTask {
    fn question(&self, number: usize, row: &DatasetRow) -> Result<BenchmarkQuestion> {
        let options = row.options("candidates")?;
        let right = row.position("answer", &options)?;
        let video = VideoLookup::new(&self.videos, row.text("video")?);
        let id = format!("{}/{number}", self.name);
        let mut question = BenchmarkQuestion::choice(id, video, row.text("question")?, options);
        question.reference = QuestionReference::Choice(right);
        question.task.clone_from(&self.name);
        question.kind.clone_from(&self.name);
        if self.clips == ClipSource::Rows {
            question.clip = Window { start: row.seconds("start")?, end: row.seconds("end")? };
        }
        if let (Some(start), Some(end)) = (question.clip.start, question.clip.end)
            && start >= end
        {
            return Err(row.error(format!("the clip ends at {end}, and starts at {start}")));
        }
        Ok(question)
    }
}
