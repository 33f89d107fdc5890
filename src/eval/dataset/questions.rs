//! Files of questions with reference answers, as `vidense eval` and `vidense world` know them: JSON objects or a table
//! with `video`, `question`, `answer`, and optionally `type`, `question_id` and `image_rate`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rows::DatasetDirectory;
use super::{BenchmarkQuestion, DatasetQuestions, VideoLookup};
use crate::error::{Error, Result};
use crate::eval::questions::{EvalQuestion, read_questions};

/// Files of questions with reference answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuestionFiles {
    /// File of questions, beside which the videos are: `questions.jsonl`.
    pub questions: PathBuf,
}

impl QuestionFiles {
    /// Reads the questions below a data directory. A question without an id has its number as one.
    ///
    /// # Errors
    /// A line that is not understood, or a video that is not below the directory of the file.
    pub(super) fn read(&self, directory: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let path = directory.file(&self.questions);
        let (beside, dir) = (path.parent().unwrap_or(Path::new("")), self.questions.parent().unwrap_or(Path::new("")));
        let questions = (1..).zip(read_questions(&path)?).map(|(number, asked)| {
            let EvalQuestion { video, image_rate, id, question, answer, kind } = asked;
            let id = id.unwrap_or_else(|| number.to_string());
            let outside = || {
                let rule = format!("the video {} is not below the directory of the questions", video.display());
                Error::invalid(rule).about(format!("question `{id}`")).about(path.clone())
            };
            let name = video.strip_prefix(beside).ok().and_then(Path::to_str).ok_or_else(outside)?;
            let video = VideoLookup::new(dir, name);
            Ok(BenchmarkQuestion { kind, image_rate, ..BenchmarkQuestion::open(id, video, &question, &answer) })
        });
        Ok(DatasetQuestions { questions: questions.collect::<Result<_>>()?, ..DatasetQuestions::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_without_ids_are_numbered_and_videos_stay_below_the_directory() {
        let data = tempfile::tempdir().expect("a directory");
        let dir = data.path().join("clips");
        std::fs::create_dir(&dir).expect("ours");
        let files = QuestionFiles { questions: PathBuf::from("clips/q.jsonl") };
        let line = |video: &str| {
            format!("{{\"video\": \"{video}\", \"question\": \"q\", \"answer\": \"a\", \"type\": \"t\"}}\n")
        };
        std::fs::write(dir.join("q.jsonl"), line("x.mp4") + &line("sub/y.mp4")).expect("ours");
        let found = files.read(&DatasetDirectory::new(data.path())).expect("two questions").questions;
        let shown: Vec<_> = found.iter().map(|q| (q.id.as_str(), q.video.shown(), q.kind.as_str())).collect();
        assert_eq!(shown, [("1", "clips/x.mp4".to_owned(), "t"), ("2", "clips/sub/y.mp4".to_owned(), "t")]);
        std::fs::write(dir.join("q.jsonl"), line("/etc/x.mp4")).expect("ours");
        let error = files.read(&DatasetDirectory::new(data.path())).expect_err("an absolute path").to_string();
        assert!(error.contains("question `1`: the video /etc/x.mp4 is not below"), "{error}");
    }
}
