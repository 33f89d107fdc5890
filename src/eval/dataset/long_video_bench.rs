//! LongVideoBench: a list (`id`, `video_path`, `question`, `candidates`, `correct_choice` as index, `duration_group`,
//! `question_category`), or its Parquet with `option0` to `option4`, of which the last may be `N/A`: no option.
//!
//! The test set has no `correct_choice`: its answers are written as a submission. Without `subtitles` a model is asked
//! as lmms-eval's `longvideobench_val_v` asks video models; with them, as the benchmark's own loader and
//! `longvideobench_val_i` ask models of images: subtitles stand between the frames by their times. A row has their file
//! (`subtitle_path`), and the beginning of its video on their clock (`starting_timestamp_for_subtitles`).

use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rows::{DatasetDirectory, DatasetRow, read_rows};
use super::{BenchmarkQuestion, ChoiceOptions, DatasetQuestions, QuestionReference, TimedSubtitles, VideoLookup};
use crate::error::Result;
use crate::units::Seconds;

/// Files of LongVideoBench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LongVideoBenchFiles {
    /// List of questions: `lvb_val.json`, `lvb_test_wo_gt.json`.
    pub questions: PathBuf,
    /// Directory of the videos.
    pub videos: PathBuf,
    /// Directory of the subtitles, which stand between the frames. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtitles: Option<PathBuf>,
}

/// Text of a column that has no option.
const ABSENT: &str = "N/A";

impl LongVideoBenchFiles {
    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let rows = read_rows(&data.file(&self.questions))?;
        let questions = rows.iter().map(|row| self.question(data, row)).collect::<Result<Vec<_>>>()?;
        Ok(DatasetQuestions { questions, ..DatasetQuestions::default() })
    }

    fn question(&self, data: &DatasetDirectory<'_>, row: &DatasetRow) -> Result<BenchmarkQuestion> {
        let texts = match row.value("candidates").is_some() {
            true => row.texts("candidates")?,
            false => numbered_options(row)?,
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
        let timed_subtitles = self.subtitles.as_deref().map(|dir| timed_subtitles(dir, row)).transpose()?;
        if let Some(subtitles) = &timed_subtitles {
            data.note(&subtitles.file);
        }
        Ok(BenchmarkQuestion { reference, kind, task, timed_subtitles, ..question })
    }
}

/// Returns the subtitles of a row's video, in a directory.
fn timed_subtitles(dir: &Path, row: &DatasetRow) -> Result<TimedSubtitles> {
    let name = row.text("subtitle_path")?;
    let mut parts = Path::new(name).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        return Err(row.error(format!("the name `{name}` of the subtitles is not that of a file of their directory")));
    }
    let seconds =
        |key: &str| -> Result<Seconds> { row.seconds(key)?.ok_or_else(|| row.error(format!("missing field `{key}`"))) };
    let (starts_at, duration) = (seconds("starting_timestamp_for_subtitles")?, seconds("duration")?);
    Ok(TimedSubtitles { file: dir.join(name), starts_at, duration })
}

/// Returns the texts of `option0`, ... without those at the end that are `N/A`.
///
/// # Errors
/// An `N/A` before another option, with the column.
fn numbered_options(row: &DatasetRow) -> Result<Vec<String>> {
    let mut texts = row.numbered("option")?;
    let n = texts.iter().rposition(|text| text != ABSENT).map_or(0, |last| last + 1);
    texts.truncate(n);
    match texts.iter().position(|text| text == ABSENT) {
        Some(index) => Err(row.error(format!("`option{index}` is {ABSENT}, and `option{}` is not", n - 1))),
        None => Ok(texts),
    }
}
