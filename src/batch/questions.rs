//! The questions of a batch: a YAML list of texts, or of maps with `id` and `question`.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::BatchError;
use crate::spec::parse_yaml;

/// Bytes of a file of questions: no real one comes near.
const MAX_BYTES: u64 = 16 << 20;

/// A question, with a name if it has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Question {
    /// A short name for tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its words.
    pub question: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Named(Named),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    #[serde(default)]
    id: Option<String>,
    question: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum File {
    List(Vec<Written>),
    Map(Map),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Map {
    questions: Vec<Written>,
}

impl Question {
    /// A question without a name.
    pub fn new(question: impl Into<String>) -> Self {
        Self { id: None, question: question.into() }
    }
}

impl<'de> Deserialize<'de> for Question {
    /// Reads a text, or a map.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Written::deserialize(deserializer).map(Self::from)
    }
}

impl From<Written> for Question {
    fn from(written: Written) -> Self {
        match written {
            Written::Text(question) => Self { id: None, question },
            Written::Named(Named { id, question }) => Self { id, question },
        }
    }
}

/// Reads a file of questions.
///
/// # Errors
/// [`BatchError`] when it cannot be read, is none, or asks nothing, the same twice, or an empty question.
pub fn read_questions(path: &Path) -> Result<Vec<Question>, BatchError> {
    let wrong = |cause: String| BatchError::Questions { path: path.to_owned(), cause };
    let meta = std::fs::metadata(path).map_err(BatchError::io(path))?;
    if !meta.is_file() {
        return Err(wrong("not a regular file".to_owned()));
    }
    if meta.len() > MAX_BYTES {
        return Err(wrong(format!("{} bytes are no list of questions; at most {MAX_BYTES}", meta.len())));
    }
    let text = std::fs::read_to_string(path).map_err(BatchError::io(path))?;
    const HINT: &str = "a list of texts, or of maps with `id` and `question`";
    let file: File = parse_yaml(&text).map_err(|cause: String| match cause {
        cause if cause.contains("did not match any variant") => wrong(format!("no list of questions; hint: {HINT}")),
        cause => wrong(cause),
    })?;
    let written = match file {
        File::List(list) => list,
        File::Map(map) => map.questions,
    };
    let questions: Vec<Question> = written.into_iter().map(Question::from).collect();
    check_questions(&questions).map_err(wrong)?;
    Ok(questions)
}

/// Refuses questions that cannot be told apart, or ask nothing; in words.
///
/// # Errors
/// See above.
pub fn check_questions(questions: &[Question]) -> Result<(), String> {
    let (mut seen, mut names) = (HashSet::new(), HashSet::new());
    for (i, question) in questions.iter().enumerate() {
        if question.question.trim().is_empty() {
            return Err(format!("question {} is empty", i + 1));
        }
        if question.id.as_ref().is_some_and(|id| !names.insert(id)) {
            return Err(format!("question {} has the id of another one", i + 1));
        }
        if !seen.insert(&question.question) {
            return Err(format!("question {} stands there twice: {}", i + 1, question.question));
        }
    }
    if questions.is_empty() { Err("it holds no question".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Question>, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("q.yaml");
        std::fs::write(&path, text).expect("a small file");
        read_questions(&path).map_err(|error| error.to_string().replace(&format!("{}: ", path.display()), ""))
    }

    #[test]
    fn texts_and_maps_are_questions() {
        let expected = vec![
            Question::new("What happens?"),
            Question { id: Some("who".to_owned()), question: "Who is there?".to_owned() },
        ];
        let list = "- What happens?\n- id: who\n  question: Who is there?\n";
        assert_eq!(read(list), Ok(expected.clone()));
        assert_eq!(read(&format!("questions:\n{list}")), Ok(expected));
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        assert_eq!(read("[]").expect_err("nothing"), "it holds no question");
        assert_eq!(read("- a\n- ' '\n").expect_err("empty"), "question 2 is empty");
        assert_eq!(read("- a\n- a\n").expect_err("twice"), "question 2 stands there twice: a");
        let twice = "- {id: x, question: a}\n- {id: x, question: b}\n";
        assert_eq!(read(twice).expect_err("twice"), "question 2 has the id of another one");
        let hint = "no list of questions; hint: a list of texts, or of maps with `id` and `question`";
        for text in ["a: b", "- {id: x}", "- {question: a, idd: b}", "7"] {
            assert_eq!(read(text).expect_err(text), hint, "{text}");
        }
        assert!(read("- [").is_err());
    }
}
