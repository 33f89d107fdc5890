//! Files of questions with reference answers: JSON objects, one per line or in an array, or a table. Each has `video`,
//! `question`, `answer` and optionally `type`, `question_id` (or `id`), and `image_rate` for a directory of images.
//! Numbers keep their spelling.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Kind};
use crate::files;
use crate::records::{RecordFormat, decode, parse_array, parse_json, parse_table};
use crate::video::ImageRate;

/// A question with its reference answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalQuestion {
    /// Path of the video: beside the file of questions, or absolute.
    pub video: PathBuf,
    /// Rate of the images, if the video is a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_rate: Option<ImageRate>,
    /// Identifier of the question.
    #[serde(rename = "question_id", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Text of the question.
    pub question: String,
    /// Reference answer.
    pub answer: String,
    /// Type of the question, by which scores are grouped.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A question as an object of the file.
#[derive(Deserialize)]
struct EvalQuestionRecord {
    video: PathBuf,
    image_rate: Option<ImageRate>,
    question_id: Option<String>,
    id: Option<String>,
    question: String,
    answer: String,
    #[serde(rename = "type", default)]
    kind: String,
}

impl EvalQuestionRecord {
    /// Resolves the path of the video beside the file of questions.
    fn beside(self, file: &Path) -> EvalQuestion {
        let Self { video, image_rate, question_id, id, question, answer, kind } = self;
        let video = file.parent().unwrap_or(Path::new("")).join(video);
        EvalQuestion { video, image_rate, id: question_id.or(id), question, answer, kind }
    }
}

/// Maximum number of bytes of a file of questions; the largest benchmarks have a tenth.
const MAX_BYTES: u64 = 1 << 30;

/// Reads all questions of a file; empty lines are skipped.
///
/// # Errors
/// [`Error`] naming the first line that is unusable.
pub fn read_questions(path: &Path) -> Result<Vec<EvalQuestion>, Error> {
    let bytes = files::read_bounded(path, MAX_BYTES).map_err(Error::io(path))?;
    let unreadable = |error: Error| error.about(path);
    let at = |line: usize| move |error: Error| error.about(format!("line {line}")).about(path);
    let text = decode(&bytes).map_err(unreadable)?;
    let read = |(line, record): (usize, Value)| {
        let record: Result<EvalQuestionRecord, _> = serde_json::from_value(record);
        let record = record.map_err(|error| at(line)(Error::caused_by(Kind::Invalid, error)))?;
        Ok(record.beside(path))
    };
    match RecordFormat::from_path(path) {
        Some(RecordFormat::Table) => {
            let rows = parse_table(text, &["video"]).map_err(unreadable)?;
            rows.into_iter().map(|(line, row)| read((usize::try_from(line).unwrap_or(0), row))).collect()
        }
        // One object per line, in a file with the extension of an array, is read as lines.
        Some(RecordFormat::Json) if !text.trim_start().starts_with('{') => {
            (1..).zip(parse_array(text).map_err(unreadable)?).map(read).collect()
        }
        _ => {
            let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
            let parsed = |(number, line)| Ok((number, parse_json(line).map_err(at(number))?));
            lines.map(|line| parsed(line).and_then(read)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<EvalQuestion>, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a small file");
        let asked = read_questions(&path).map_err(|error| error.with_path_as(&path, name).to_string())?;
        let file_name = |video: PathBuf| PathBuf::from(video.file_name().unwrap_or_default());
        Ok(asked.into_iter().map(|asked| EvalQuestion { video: file_name(asked.video), ..asked }).collect())
    }

    #[test]
    fn numbers_keep_their_spelling_in_every_format() {
        let big = "18446744073709551617";
        let object = format!("{{\"video\": \"a.mp4\", \"question\": \"How many?\", \"answer\": 3, \"id\": {big}}}");
        let expected = Ok(vec![EvalQuestion {
            video: PathBuf::from("a.mp4"),
            image_rate: None,
            id: Some(big.to_owned()),
            question: "How many?".to_owned(),
            answer: "3".to_owned(),
            kind: String::new(),
        }]);
        assert_eq!(read("q.jsonl", &object), expected);
        assert_eq!(read("q.txt", &format!("\u{feff}{object}\r\n\r\n")), expected);
        assert_eq!(read("q.json", &format!("[{object}]")), expected);
        assert_eq!(read("q.json", &object), expected);
        assert_eq!(read("q.csv", &format!("video;question;answer;question_id\na.mp4;How many?;3;{big}\n")), expected);
        assert_eq!(read("q.tsv", &format!("id\tvideo\tquestion\tanswer\n{big}\ta.mp4\tHow many?\t3\n")), expected);
        assert!(read("q.csv", "name,answer\n").expect_err("no video").starts_with("q.csv: no column `video` in "));
        assert_eq!(
            read("q.csv", "video,question\na,b\n").expect_err("no answer"),
            "q.csv: line 2: missing field `answer`"
        );
        let twice = format!("{object}\n{}", object.replace("\"id\"", "\"answer\""));
        let error = read("q.jsonl", &twice).expect_err("two answers");
        assert!(error.starts_with("q.jsonl: line 2: the key `answer` comes twice at line 1 column "), "{error}");
        let rated = read("q.jsonl", r#"{"video": "a", "question": "?", "answer": "x", "image_rate": 3}"#);
        assert_eq!(rated.expect("a directory")[0].image_rate, ImageRate::new(3.0).ok());
        assert!(read("q.jsonl", "\n{").expect_err("no JSON").starts_with("q.jsonl: line 2: EOF"));
    }
}
