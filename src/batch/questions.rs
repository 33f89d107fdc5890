//! The questions of a batch: a list of texts, or of maps with `id` and `question`, as YAML, JSON, JSON lines or a
//! table.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::BatchError;
use crate::files;
use crate::records::{RecordFormat, decode, parse_json, parse_table};
use crate::spec::parse_yaml;

/// Bytes of a file of questions: no real one comes near.
const MAX_BYTES: u64 = 16 << 20;

/// A question, with a name if it has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchQuestion {
    /// A short name for tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its words.
    pub question: String,
}

/// A question as a map; numbers are taken as they are written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedQuestion {
    #[serde(default, alias = "question_id")]
    id: Option<String>,
    question: String,
}

/// A file of questions: a list, or a map with one.
struct Questions(Vec<BatchQuestion>);

impl BatchQuestion {
    /// A question without a name.
    pub fn new(question: impl Into<String>) -> Self {
        Self { id: None, question: question.into() }
    }
}

impl<'de> Deserialize<'de> for BatchQuestion {
    /// Reads a text, or a map. Nothing is read ahead: a reader that knows that a text is wanted gives a number's digits
    /// as they are.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuestionVisitor)
    }
}

struct QuestionVisitor;

impl<'de> Visitor<'de> for QuestionVisitor {
    type Value = BatchQuestion;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a question, or a map with `id` and `question`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<BatchQuestion, E> {
        Ok(BatchQuestion::new(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BatchQuestion, A::Error> {
        let NamedQuestion { id, question } = NamedQuestion::deserialize(MapAccessDeserializer::new(map))?;
        Ok(BatchQuestion { id, question })
    }
}

impl<'de> Deserialize<'de> for Questions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuestionsVisitor)
    }
}

struct QuestionsVisitor;

impl<'de> Visitor<'de> for QuestionsVisitor {
    type Value = Questions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of questions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Questions, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Questions)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Questions, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Map {
            questions: Vec<BatchQuestion>,
        }
        Map::deserialize(MapAccessDeserializer::new(map)).map(|map| Questions(map.questions))
    }
}

/// Reads a file of questions: YAML, or as its name ends JSON, JSON lines, or a table.
///
/// # Errors
/// [`BatchError`] when it cannot be read, is none, or asks nothing, the same twice, or an empty question.
pub fn read_questions(path: &Path) -> Result<Vec<BatchQuestion>, BatchError> {
    let wrong = |cause: String| BatchError::Questions { path: path.to_owned(), cause };
    let bytes = files::read_bounded(path, MAX_BYTES).map_err(BatchError::io(path))?;
    let text = decode(&bytes).map_err(|error| wrong(error.to_string()))?;
    let questions = parse(text, RecordFormat::from_path(path)).map_err(wrong)?;
    check_questions(&questions).map_err(wrong)?;
    Ok(questions)
}

/// The questions of a text.
fn parse(text: &str, format: Option<RecordFormat>) -> Result<Vec<BatchQuestion>, String> {
    let hinted = |cause: String| format!("{cause}; hint: a list of texts, or of maps with `id` and `question`");
    match format {
        None => parse_yaml::<Questions>(text).map(|file| file.0).map_err(hinted),
        Some(RecordFormat::Json) => {
            parse_json::<Questions>(text).map(|file| file.0).map_err(|error| hinted(error.to_string()))
        }
        Some(RecordFormat::Jsonl) => {
            let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
            let read = |(line, number)| parse_json(line).map_err(|cause| hinted(format!("line {number}: {cause}")));
            lines.map(read).collect()
        }
        Some(RecordFormat::Table) => {
            let rows = parse_table(text, &["question"]).map_err(|error| error.to_string())?;
            rows.into_iter().map(|(line, row)| of_row(&row).map_err(|cause| format!("line {line}: {cause}"))).collect()
        }
    }
}

/// The question of a table's row; columns besides are nobody's.
fn of_row(row: &Value) -> Result<BatchQuestion, String> {
    let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
    if row.get("video").is_some() {
        return Err(
            "a question about one video; hint: a table with a column `video` is an archive's manifest".to_owned()
        );
    }
    let question = text("question").ok_or("the question is empty")?;
    Ok(BatchQuestion { id: text("question_id").or_else(|| text("id")), question })
}

/// Refuses questions that cannot be told apart, or ask nothing; in words.
///
/// # Errors
/// See above.
pub fn check_questions(questions: &[BatchQuestion]) -> Result<(), String> {
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

    fn read(text: &str) -> Result<Vec<BatchQuestion>, String> {
        read_as("q.yaml", text)
    }

    fn read_as(name: &str, text: &str) -> Result<Vec<BatchQuestion>, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a small file");
        read_questions(&path).map_err(|error| error.to_string().replace(&format!("{}: ", path.display()), ""))
    }

    #[test]
    fn texts_and_maps_are_questions() {
        let expected = vec![
            BatchQuestion::new("What happens?"),
            BatchQuestion { id: Some("who".to_owned()), question: "Who is there?".to_owned() },
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
        let hint = "; hint: a list of texts, or of maps with `id` and `question`";
        for (text, cause) in [
            ("a: b", "unknown field `a`, expected `questions`"),
            ("- {id: x}", "missing field `question`"),
            ("- {question: a, idd: b}", "unknown field `idd`, expected one of `id`"),
            ("7", "invalid type: integer `7`, expected a list of questions"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(cause) && error.ends_with(hint), "{error}");
        }
        assert!(read("- [").is_err());
    }

    #[test]
    fn numbers_name_questions_as_they_are_written() {
        let big = "340282366920938463463374607431768211456";
        let named = |id: &str, question: &str| BatchQuestion { id: Some(id.to_owned()), question: question.to_owned() };
        let expected = Ok(vec![named("7", "a?"), named("007", "b?"), named(big, "c?"), named("1.10", "d?")]);
        let ids = ["7", "007", big, "1.10"].into_iter().zip(["a?", "b?", "c?", "d?"]);
        let join =
            |of: fn((&str, &str)) -> String, between: &str| ids.clone().map(of).collect::<Vec<_>>().join(between);
        let yaml = join(|(id, question)| format!("- id: {id}\n  question: {question}"), "\n");
        let objects =
            |between| join(|(id, question)| format!("{{\"id\": {id}, \"question\": \"{question}\"}}"), between);
        let table =
            "\u{feff}ID;Question;note\r\n".to_owned() + &join(|(id, question)| format!("{id};{question};x"), "\r\n");
        assert_eq!(read(&yaml), expected);
        assert_eq!(read_as("q.json", &format!("[{}]", objects(", "))), expected);
        assert_eq!(read_as("q.json", &format!("{{\"questions\": [{}]}}", objects(", "))), expected);
        assert_eq!(read_as("q.JSONL", &objects("\n\n")), expected);
        assert_eq!(read_as("q.csv", &table), expected);
        assert_eq!(read_as("q.tsv", &table.replace(';', "\t").replace("ID", "question_id")), expected);
        let error = read_as("q.csv", "video,question\na.mp4,x?\n").expect_err("a manifest");
        assert_eq!(
            error,
            "line 2: a question about one video; hint: a table with a column `video` is an archive's manifest"
        );
    }
}
