//! MLVU, generation tasks: lists with `video`, `question`, `answer`, `question_type` and, for sub-scene captioning,
//! `scoring_points`. Both tasks are scored by a judge; the scoring points are its rubric.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rows::{DatasetDirectory, read_rows};
use super::{BenchmarkQuestion, DatasetQuestions, VideoLookup};
use crate::error::Result;

/// Files of a generation task of MLVU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MlvuGenerationFiles {
    /// List of questions: `json/8_sub_scene.json`, `json/9_summary.json`.
    pub questions: PathBuf,
    /// Directory of the videos: `video/8_sub_scene`, `video/9_summary`.
    pub videos: PathBuf,
}

impl MlvuGenerationFiles {
    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let mut found = DatasetQuestions::default();
        for (number, row) in read_rows(&data.file(&self.questions))?.iter().enumerate() {
            if row.value("candidates").is_some() {
                return Err(row.error("has candidates: a task of multiple choice, of the format `mlvu`"));
            }
            let kind = row.text("question_type")?;
            let video = VideoLookup::new(&self.videos, row.text("video")?);
            let id = format!("{kind}/{number}");
            let mut question = BenchmarkQuestion::open(id, video, row.text("question")?, row.text("answer")?);
            if row.value("scoring_points").is_some() {
                question.rubric = Some(python_list(&row.texts("scoring_points")?));
            }
            found.questions.push(BenchmarkQuestion { kind: kind.to_owned(), task: kind.to_owned(), ..question });
        }
        Ok(found)
    }
}

/// Formats texts as Python prints their list, which is how MLVU's script gives them to the judge.
fn python_list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| python_text(text)).collect();
    format!("[{}]", texts.join(", "))
}

/// Formats a text as Python's `repr`: double quotation marks if it has single ones and no double ones.
fn python_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            '\\' => out += "\\\\",
            c if c == quote => out.extend(['\\', c]),
            ' ' => out.push(' '),
            c if c.is_control() || c.is_whitespace() || is_format(c) => match u32::from(c) {
                code @ ..0x100 => out += &format!("\\x{code:02x}"),
                code @ 0x100..0x10000 => out += &format!("\\u{code:04x}"),
                code => out += &format!("\\U{code:08x}"),
            },
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Returns whether a character is one of Unicode's common invisible ones, which Python escapes.
fn is_format(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scoring_points_are_written_as_python_writes_them() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/eval/judge_prompts.json");
        let golden: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).expect("shipped")).expect("a golden");
        let values = &golden["values"];
        let points: Vec<String> = serde_json::from_value(values["scoring_points"].clone()).expect("texts");
        assert_eq!(points.len(), 6);
        assert_eq!(Some(python_list(&points).as_str()), values["rubric"].as_str());
        assert_eq!(python_text("a\u{200b}\u{7f}\n"), "'a\\u200b\\x7f\\n'");
    }
}
