//! MVBench: one list a task (`video`, `question`, `candidates`, `answer` as text, `start` and `end` in some tasks).
//!
//! Each task has a directory of videos of its own. A task reads the clips `start` to `end` of its rows, or whole videos
//! where the distribution has cut them already (the `video` revision of OpenGVLab/MVBench). Videos of episodic
//! reasoning are directories of images, three a second, `00001.jpg` and so on.
//!
//! # Clips of directories
//! The original code (VideoChat2, `mvbench.ipynb`, `read_frame`) reads from a directory of `n` images, counted from 1,
//! those from `max(1, round(rate start))` to `min(n, round(rate end))`, both included, where `round` is half to even.
//! Image `k` is shown from `(k - 1) / rate` seconds on here, so a clip of a directory begins with its first image, and
//! ends with the last one's end.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rows::{DatasetDirectory, DatasetRow, read_rows};
use super::{BenchmarkQuestion, DatasetQuestions, QuestionReference, VideoLookup};
use crate::error::{Error, Result};
use crate::units::Seconds;
use crate::video::{ImageRate, Window};

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
    /// Images per second of those videos that are directories of images. Default: none; their images have no times, and
    /// their clips are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_rate: Option<ImageRate>,
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
                let mut question = task.question(number, row)?;
                let may_be_images = task.image_rate.is_some() || question.clip != Window::default();
                if may_be_images && question.video.find(data.path()).is_some_and(|path| path.is_dir()) {
                    question.clip = task.clip_of_images(question.clip).map_err(|error| row.locate(error))?;
                    question.image_rate = task.image_rate;
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

    /// Returns a clip of a directory with the bounds of its images.
    ///
    /// # Errors
    /// A clip of images without a rate.
    fn clip_of_images(&self, clip: Window) -> Result<Window> {
        let Some(rate) = self.image_rate else {
            if clip == Window::default() {
                return Ok(clip);
            }
            let error = Error::invalid("the clip of a directory of images, which have no times");
            return Err(error.with_hint("image_rate: 3, or clips: whole with videos that have been cut"));
        };
        let nearest = |Seconds(time)| (time * rate.per_second()).round_ties_even() as usize;
        let first = |time| rate.time_of(nearest(time).saturating_sub(1));
        let end = |time| rate.time_of(nearest(time));
        Ok(Window { start: clip.start.map(first), end: clip.end.map(end) })
    }
}
