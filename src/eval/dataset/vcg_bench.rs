//! Video-ChatGPT's benchmark of generated text (VCG-Bench): generic, temporal and consistency questions.
//!
//! The original lists have `video_name`, `Q`, `A`, or `Q1`, `Q2`, `A` for consistency; SlowFast-LLaVA's have
//! `video_name`, `question_id`, `question` (a list of two for consistency), `answer`. The original keys are made unique
//! by the occurrence of the video, `video_name_{n}`, as its scripts do. A consistency pair becomes two questions with
//! one reference, `KEY/1` and `KEY/2`, each of weight one half.

use std::collections::HashMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rows::{DatasetDirectory, DatasetRow, read_rows};
use super::{BenchmarkQuestion, DatasetQuestions, VideoLookup};
use crate::error::Result;

/// Files of VCG-Bench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VcgBenchFiles {
    /// List of pairs: `generic_qa.json`, `temporal_qa.json` or `consistency_qa.json`.
    pub pairs: PathBuf,
    /// Directory of the videos.
    pub videos: PathBuf,
}

impl VcgBenchFiles {
    /// Reads the questions.
    pub(super) fn read(&self, data: &DatasetDirectory<'_>) -> Result<DatasetQuestions> {
        let mut found = DatasetQuestions::default();
        let mut n_of_video: HashMap<String, usize> = HashMap::new();
        for row in read_rows(&data.file(&self.pairs))? {
            let name = row.text("video_name")?;
            let n = n_of_video.entry(name.to_owned()).or_default();
            let key = match row.optional("question_id")? {
                Some(id) => id.to_owned(),
                None => format!("{name}_{n}"),
            };
            *n += 1;
            let texts = questions(&row)?;
            let reference = row.any_text(&["A", "answer"])?;
            let video = VideoLookup::new(&self.videos, name);
            for (number, text) in (1..).zip(&texts) {
                let id = if texts.len() == 1 { key.clone() } else { format!("{key}/{number}") };
                let mut question = BenchmarkQuestion::open(id, video.clone(), text, reference);
                question.weight = 1.0 / texts.len() as f64;
                found.questions.push(question);
            }
        }
        Ok(found)
    }
}

/// Returns the question of a row, or both of a consistency pair.
fn questions(row: &DatasetRow) -> Result<Vec<String>> {
    if row.value("Q1").is_some() || row.value("Q2").is_some() {
        return Ok(vec![row.text("Q1")?.to_owned(), row.text("Q2")?.to_owned()]);
    }
    match row.value("question") {
        Some(Value::Array(pair)) if pair.len() == 2 => row.texts("question"),
        Some(Value::Array(list)) => Err(row.error(format!("`question` has {} texts; expected 2", list.len()))),
        _ => Ok(vec![row.any_text(&["Q", "question"])?.to_owned()]),
    }
}
