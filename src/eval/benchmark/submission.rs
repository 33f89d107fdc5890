//! Files that benchmarks ask for: EgoSchema's and LongVideoBench's objects of answers, Video-MME's official results,
//! MLVU's list.

use serde_json::{Map, Value, json};

use super::scores::{AnswerStatus, ScoredAnswer};
use crate::error::{Error, Result};
use crate::eval::dataset::{BenchmarkQuestion, DatasetFormat};

/// Makes the submission of a run; `answers` are in the order of the questions.
///
/// # Errors
/// A format without a submission.
pub fn submission(format: &DatasetFormat, questions: &[BenchmarkQuestion], answers: &[ScoredAnswer]) -> Result<Value> {
    let pairs = || questions.iter().zip(answers);
    Ok(match format {
        // Unparsed answers are left out: the server counts them as missing.
        DatasetFormat::EgoSchema(_) => {
            let index = |(question, answer): (&BenchmarkQuestion, &ScoredAnswer)| {
                let label = answer.parsed.as_deref()?.chars().next()?;
                let index = question.options.iter().position(|(known, _)| known == label)?;
                Some((question.id.clone(), Value::from(index)))
            };
            Value::Object(pairs().filter_map(index).collect())
        }
        DatasetFormat::LongVideoBench(_) => {
            let text = |(question, answer): (&BenchmarkQuestion, &ScoredAnswer)| {
                (question.id.clone(), Value::from(answer.given.as_deref().unwrap_or_default()))
            };
            Value::Object(pairs().map(text).collect())
        }
        DatasetFormat::Mlvu(_) => pairs()
            .map(|(question, answer)| {
                let option = answer.parsed.as_deref().unwrap_or_default();
                json!({ "question_id": question.id, "question_type": question.extra.get("question_type"), "option": option })
            })
            .collect(),
        DatasetFormat::VideoMme(_) => video_mme(pairs()),
        _ => {
            let hint = "EgoSchema, LongVideoBench, MLVU and Video-MME have one";
            return Err(Error::invalid("this format has no submission").with_hint(hint));
        }
    })
}

/// Makes Video-MME's results: one object a video, with its questions and the answers as given.
fn video_mme<'a>(pairs: impl Iterator<Item = (&'a BenchmarkQuestion, &'a ScoredAnswer)>) -> Value {
    let mut videos: Vec<Value> = Vec::new();
    let mut at: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
    for (question, answer) in pairs {
        let field = |key: &str| question.extra.get(key).cloned().unwrap_or_default();
        let index = *at.entry(&question.video.name).or_insert_with(|| {
            let mut video = Map::new();
            for key in ["video_id", "duration", "domain", "sub_category"] {
                video.insert(key.to_owned(), field(key));
            }
            video.insert("missing".to_owned(), (answer.status == AnswerStatus::Missing).into());
            video.insert("questions".to_owned(), Value::Array(Vec::new()));
            videos.push(Value::Object(video));
            videos.len() - 1
        });
        let options: Vec<String> = question.options.iter().map(|(label, text)| format!("{label}. {text}")).collect();
        let right = answer.answer.first().and_then(|text| text.chars().next()).map(String::from);
        let entry = json!({
            "question_id": question.id,
            "task_type": field("task_type"),
            "question": question.question,
            "options": options,
            "answer": right,
            "response": answer.given.as_deref().unwrap_or_default(),
        });
        if let Some(Value::Array(list)) = videos[index].get_mut("questions") {
            list.push(entry);
        }
    }
    Value::Array(videos)
}
