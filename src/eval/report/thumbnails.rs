//! Thumbnails of the run, for the answers that a report shows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::batch::Id;
use crate::batch::store::{ANSWERS, StoredResults, thumbnail_path};
use crate::error::Result;
use crate::eval::benchmark::{RUN, ScoredAnswer};
use crate::files::read_bounded;

/// Maximum number of bytes of a thumbnail.
const MAX_BYTES: u64 = 4 << 20;

/// Thumbnail of a video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Thumbnail {
    /// JPEG image, and its path relative to the directory of the evaluation.
    Image { path: PathBuf, jpeg: Vec<u8> },
    /// Cause why the image cannot be read.
    Unreadable(String),
}

/// Reads the thumbnails of some answers, by the id of the question. A run without thumbnails has none.
///
/// # Errors
/// Results of the run that cannot be read.
pub(super) fn read_thumbnails(
    dir: &Path,
    answers: &[ScoredAnswer],
    shown: &BTreeSet<&str>,
) -> Result<BTreeMap<String, Thumbnail>> {
    if shown.is_empty() || !dir.join(RUN).join(ANSWERS).exists() {
        return Ok(BTreeMap::new());
    }
    let items = items(dir, answers)?;
    let of_answer = |answer: &ScoredAnswer| {
        let path = thumbnail_path(Path::new(RUN), items.get(answer)?);
        let thumbnail = match read_file(&dir.join(&path)) {
            Ok(jpeg) => Thumbnail::Image { path, jpeg },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => Thumbnail::Unreadable(format!("{}: {error}", path.display())),
        };
        Some((answer.question_id.clone(), thumbnail))
    };
    let shown = answers.iter().filter(|answer| shown.contains(answer.question_id.as_str()));
    Ok(shown.filter_map(of_answer).collect())
}

/// Reads an image, which is no link: a report that is passed on shows nothing from elsewhere.
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    read_bounded(path, MAX_BYTES)
}

/// Items of questions and of videos.
#[derive(Default)]
struct QuestionItems<'a> {
    by_question: BTreeMap<&'a str, Id>,
    /// Items of each video; a video of several clips has several.
    by_video: BTreeMap<&'a str, BTreeSet<Id>>,
}

impl QuestionItems<'_> {
    /// Returns the item of a question. A question with the same prompt as an earlier one about its video has no record
    /// of its own: it is of the video's item, if the video has a single one.
    fn get(&self, answer: &ScoredAnswer) -> Option<Id> {
        let only = || self.by_video.get(answer.video.as_str()).filter(|items| items.len() == 1)?.first();
        self.by_question.get(answer.question_id.as_str()).or_else(only).copied()
    }
}

/// Finds the items of questions in the records of the run.
fn items<'a>(dir: &Path, answers: &'a [ScoredAnswer]) -> Result<QuestionItems<'a>> {
    let asked: BTreeMap<&str, &ScoredAnswer> =
        answers.iter().map(|answer| (answer.question_id.as_str(), answer)).collect();
    let mut items = QuestionItems::default();
    StoredResults::open(&dir.join(RUN))?.for_each(&mut |record| {
        if let Some(answer) = record.question_id.and_then(|id| asked.get(id.as_str()).copied()) {
            items.by_question.insert(&answer.question_id, record.item);
            items.by_video.entry(&answer.video).or_default().insert(record.item);
        }
        Ok(())
    })?;
    Ok(items)
}
