//! Questions in a file: one JSON object a line, with `video`, `question`, `answer` and, if there are types, `type`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A question with the answer that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Beside the file of questions, or absolute.
    pub video: PathBuf,
    /// Its words.
    pub question: String,
    /// The answer's.
    pub answer: String,
    /// The type, by which scores are kept apart.
    #[serde(rename = "type", default)]
    pub kind: String,
}

/// Why questions could not be read.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A line is none of the kind.
    #[error("{path}: line {line}: {cause}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The parser's words.
        cause: String,
    },
}

/// Reads all questions of a file; empty lines are skipped.
///
/// # Errors
/// [`QuestionError`] naming the first line that is unusable.
pub fn read_questions(path: &Path) -> Result<Vec<Asked>, QuestionError> {
    let text = std::fs::read_to_string(path).map_err(|source| QuestionError::Io { path: path.to_owned(), source })?;
    let parse = |(i, line): (usize, &str)| {
        let wrong = |error: serde_json::Error| QuestionError::Line {
            path: path.to_owned(),
            line: i + 1,
            cause: error.to_string(),
        };
        let mut asked: Asked = serde_json::from_str(line).map_err(wrong)?;
        asked.video = path.parent().unwrap_or(Path::new("")).join(&asked.video);
        Ok(asked)
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}
