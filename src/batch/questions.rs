//! Files of questions of a batch: a list of texts, or of maps with `id` and `question`, as YAML, JSON, JSON lines or a
//! table. Called by `batch`.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error as DeError, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::files;
use crate::records::{RecordFormat, decode, parse_record, parse_table};
use crate::spec::parse_yaml;

/// Maximum number of bytes of a file of questions.
const MAX_BYTES: u64 = 16 << 20;

/// A question with an optional id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchQuestion {
    /// Short id for tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Text of the question.
    pub question: String,
}

/// A question as a map; numbers keep their spelling.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedQuestion {
    #[serde(default, alias = "question_id")]
    id: Option<String>,
    question: String,
}

/// A file of questions: a list, or a map with a list.
struct Questions(Vec<BatchQuestion>);

impl BatchQuestion {
    /// Creates a question without an id.
    pub fn new(question: impl Into<String>) -> Self {
        Self { id: None, question: question.into() }
    }
}

impl<'de> Deserialize<'de> for BatchQuestion {
    /// Reads a text or a map. The visitor does not buffer the value: a deserializer that is asked for a text gives the
    /// digits of a number as written.
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

    fn visit_str<E: DeError>(self, text: &str) -> Result<BatchQuestion, E> {
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

/// Reads a file of questions: JSON, JSON lines or a table by its extension, else YAML.
///
/// # Errors
/// [`Error`] when the file cannot be read or parsed, or has no question, a repeated or an empty one.
pub fn read_questions(path: &Path) -> Result<Vec<BatchQuestion>, Error> {
    let invalid = |error: Error| error.about(path);
    let bytes = files::read_bounded(path, MAX_BYTES).map_err(Error::io(path))?;
    let questions = decode(&bytes).and_then(|text| parse(text, RecordFormat::from_path(path))).map_err(invalid)?;
    check_questions(&questions).map_err(invalid)?;
    Ok(questions)
}

/// Parses the questions of a text.
fn parse(text: &str, format: Option<RecordFormat>) -> Result<Vec<BatchQuestion>, Error> {
    let hinted = |error: Error| error.with_hint("a list of texts, or of maps with `id` and `question`");
    let at_line = |line: u64| move |error: Error| error.about(format!("line {line}"));
    match format {
        None => parse_yaml::<Questions>(text).map(|file| file.0).map_err(hinted),
        Some(RecordFormat::Json) => parse_record::<Questions>(text).map(|file| file.0).map_err(hinted),
        Some(RecordFormat::Jsonl) => {
            let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
            lines.map(|(line, number)| parse_record(line).map_err(at_line(number)).map_err(hinted)).collect()
        }
        Some(RecordFormat::Table) => {
            let rows = parse_table(text, &["question"])?;
            rows.into_iter().map(|(line, row)| of_row(&row).map_err(at_line(line))).collect()
        }
    }
}

/// Returns the question of a table's row; other columns are ignored.
fn of_row(row: &Value) -> Result<BatchQuestion, Error> {
    let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
    if row.get("video").is_some() {
        let hint = "a table with a column `video` is an archive's manifest";
        return Err(Error::invalid("a question about one video").with_hint(hint));
    }
    let question = text("question").ok_or_else(|| Error::invalid("the question is empty"))?;
    Ok(BatchQuestion { id: text("question_id").or_else(|| text("id")), question })
}

/// Checks that there are questions, none of them empty or repeated.
///
/// # Errors
/// The first empty question, repeated id or repeated text, or a list without questions.
pub fn check_questions(questions: &[BatchQuestion]) -> Result<(), Error> {
    let (mut seen, mut names) = (HashSet::new(), HashSet::new());
    for (i, question) in questions.iter().enumerate() {
        if question.question.trim().is_empty() {
            return Err(Error::invalid(format!("question {} is empty", i + 1)));
        }
        if question.id.as_ref().is_some_and(|id| !names.insert(id)) {
            return Err(Error::invalid(format!("question {} has the id of another question", i + 1)));
        }
        if !seen.insert(&question.question) {
            return Err(Error::invalid(format!("question {} is repeated: {}", i + 1, question.question)));
        }
    }
    if questions.is_empty() { Err(Error::invalid("no questions")) } else { Ok(()) }
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
        read_questions(&path).map_err(|error| error.with_path_as(&path, name).to_string())
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
    fn empty_and_repeated_questions_are_refused() {
        assert_eq!(read("[]").expect_err("nothing"), "q.yaml: no questions");
        assert_eq!(read("- a\n- ' '\n").expect_err("empty"), "q.yaml: question 2 is empty");
        assert_eq!(read("- a\n- a\n").expect_err("twice"), "q.yaml: question 2 is repeated: a");
        let twice = "- {id: x, question: a}\n- {id: x, question: b}\n";
        assert_eq!(read(twice).expect_err("twice"), "q.yaml: question 2 has the id of another question");
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
    fn numeric_ids_keep_their_spelling() {
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
            "q.csv: line 2: a question about one video; hint: a table with a column `video` is an archive's manifest"
        );
    }
}
