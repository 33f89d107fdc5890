//! Video-MME: 900 videos of three lengths with three questions each.
//!
//! Parquet or a list with `videoID`, `question_id`, `task_type`, `question`, `options` (as `A. ...`), `answer` (a
//! letter), `duration`, `domain`, `sub_category`, `video_id`. Subtitles are `<videoID>.srt` of a directory; 156 videos
//! have none. The benchmark wants the subtitles of the sampled frames, which are not known before a video is read: a
//! prompt with subtitles has all of them, and a note says so.

use std::collections::BTreeSet;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rows::{DatasetDirectory, DatasetRow, read_rows};
use super::{BenchmarkQuestion, ChoiceOptions, DatasetQuestions, QuestionReference, VideoLookup};
use crate::error::{Error, Kind, Result};

/// Files of Video-MME.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VideoMmeFiles {
    /// Questions: `test-00000-of-00001.parquet`.
    pub questions: PathBuf,
    /// Directory of the videos, named by `videoID`.
    pub videos: PathBuf,
    /// Directory of the subtitles. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtitles: Option<PathBuf>,
    /// Number of videos for which the distribution has no subtitles. Default: 0; with more missing files the data are
    /// refused.
    #[serde(default)]
    pub without_subtitles: usize,
}

/// Fields of a row that the results file repeats.
const REPEATED: [&str; 6] = ["video_id", "duration", "domain", "sub_category", "task_type", "videoID"];

/// Maximum number of videos that a message names.
const MAX_NAMED: usize = 10;

impl VideoMmeFiles {
    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let rows = read_rows(&data.file(&self.questions))?;
        let questions = rows.iter().map(|row| self.question(data, row)).collect::<Result<Vec<_>>>()?;
        let mut found = DatasetQuestions { questions, ..DatasetQuestions::default() };
        if self.subtitles.is_some() {
            self.check_subtitles(&mut found)?;
        }
        Ok(found)
    }

    /// Refuses more missing files of subtitles than the distribution lacks, and notes their number.
    fn check_subtitles(&self, found: &mut DatasetQuestions) -> Result<()> {
        let without = found.questions.iter().filter(|question| question.subtitles.is_none());
        let videos: BTreeSet<&str> = without.clone().map(|question| question.video.name.as_str()).collect();
        let (n, n_videos, expected) = (without.count(), videos.len(), self.without_subtitles);
        if n_videos > expected {
            let named: Vec<&str> = videos.into_iter().take(MAX_NAMED).collect();
            let named = named.join(", ");
            let rule = format!("{n_videos} videos have no subtitles, expected at most {expected}; the first: {named}");
            return Err(Error::new(Kind::NotFound, rule).about(self.subtitles.as_deref().unwrap_or(&self.questions)));
        }
        found.notes.push(format!(
            "prompts have all subtitles of a video, not those of the sampled frames alone; {n} questions about \
             {n_videos} videos have none"
        ));
        Ok(())
    }

    fn question(&self, data: &DatasetDirectory<'_>, row: &DatasetRow) -> Result<BenchmarkQuestion> {
        let options = ChoiceOptions::from_labelled(&row.texts("options")?).map_err(|error| row.locate(error))?;
        let reference = letter(row, "answer", &options)?;
        let id = row.text("videoID")?;
        let video = VideoLookup::new(&self.videos, id);
        let mut question = BenchmarkQuestion::choice(row.text("question_id")?, video, row.text("question")?, options);
        question.reference = reference;
        question.kind = row.text("task_type")?.to_owned();
        question.task = row.text("duration")?.to_owned();
        let subtitles = self.subtitles.as_ref().map(|dir| dir.join(format!("{id}.srt")));
        // A name with a separator would leave the directory.
        let is_there = |path: &PathBuf| !id.contains(['/', '\\']) && data.path().join(path).exists();
        question.subtitles = subtitles.filter(is_there).inspect(|path| drop(data.file(path)));
        let field = |key: &&str| Some(((*key).to_owned(), row.value(key)?.clone()));
        question.extra = REPEATED.iter().filter_map(field).collect::<Map<String, Value>>();
        Ok(question)
    }
}

/// Returns the option that a letter names.
pub(super) fn letter(row: &DatasetRow, key: &str, options: &ChoiceOptions) -> Result<QuestionReference> {
    let text = row.text(key)?;
    let index = options.iter().position(|(label, _)| text.trim().chars().eq([label]));
    index
        .map(QuestionReference::Choice)
        .ok_or_else(|| row.error(format!("`{key}` is `{text}`; expected the letter of an option")))
}
