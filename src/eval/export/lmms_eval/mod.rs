//! lmms-eval 0.7.3, both ways: a task directory whose questions its model `openai` asks `vidense serve` (`task`), and
//! the results of an evaluation in the files of its `--log_samples` (`samples`, `results`). `score` scores the answers
//! to a task.
//!
//! Both have the same documents (`document`) in the order of the data set, so that `doc_id` is the index of a question
//! in either, where no video is missing.

mod document;
mod results;
mod samples;
mod score;
mod task;

pub use samples::{ExportedEvaluation, write_lmms_samples};
pub use score::{DocumentScore, score_document};
pub use task::write_lmms_task;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::spec::GeneratePlan;

/// Metric of the task: the first measure of the benchmark. lmms-eval's tools look for a metric of this name.
const SCORE: &str = "score";
/// Name under which lmms-eval reports metrics of unfiltered answers.
const FILTER: &str = "none";
/// Text with which lmms-eval begins the response of a request whose retries failed.
const FAILED: &str = "[LMMS_EVAL_REQUEST_FAILED after";

/// Refuses names that are not of letters, digits and underscores.
fn check_task_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err(Error::invalid(format!("invalid task name `{name}`")).with_hint("letters, digits and _"));
    }
    Ok(())
}

/// Returns the description of the task `name` about the questions of a file, without its functions.
fn task_config(name: &str, data: &str) -> Value {
    json!({
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": { "data_files": { "test": data } },
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "generation_kwargs": { "max_new_tokens": GeneratePlan::default().max_new_tokens, "temperature": 0.0 },
        "metric_list": [{ "metric": SCORE, "aggregation": "mean", "higher_is_better": true }],
    })
}
