//! Results in the file that lmms-eval 0.7.3 writes beside its samples: means with standard errors, the task, the model.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::samples::sha256;
use super::{FILTER, SCORE, task_config};
use crate::eval::benchmark::EvaluationRecord;

/// Value where lmms-eval has no standard error.
const UNKNOWN: &str = "N/A";
/// Characters that lmms-eval replaces in the names of models.
const RESERVED: &str = "\"<>:/|\\?*[]";

/// Results of an evaluation, collected from its samples.
pub(super) struct LmmsResults<'a> {
    record: &'a EvaluationRecord,
    task: &'a str,
    date: &'a str,
    /// Number of questions of the split.
    n_questions: usize,
    /// Scores of the samples by metric.
    scores: BTreeMap<String, Vec<f64>>,
    n_samples: usize,
    /// Hashes of the documents, each after its rank.
    hashes: String,
}

impl<'a> LmmsResults<'a> {
    /// Begins the results of a task about a split of so many questions.
    pub(super) fn new(record: &'a EvaluationRecord, task: &'a str, date: &'a str, n_questions: usize) -> Self {
        Self { record, task, date, n_questions, scores: BTreeMap::new(), n_samples: 0, hashes: String::new() }
    }

    /// Adds a sample.
    pub(super) fn add(&mut self, doc_hash: &str, scores: &BTreeMap<&str, f64>) {
        for (name, score) in scores {
            self.scores.entry((*name).to_owned()).or_default().push(*score);
        }
        self.hashes.push_str(&format!("sample_{}{doc_hash}", self.n_samples));
        self.n_samples += 1;
    }

    /// Returns the file.
    pub(super) fn finish(&self) -> Value {
        let (record, task) = (self.record, self.task);
        let by_task = |value: Value| Value::Object(Map::from_iter([(task.to_owned(), value)]));
        let model = &record.plan.model;
        let program = format!("vidense {}", record.version);
        json!({
            "results": by_task(self.means()),
            "group_subtasks": by_task(json!([])),
            "configs": by_task(self.config()),
            "versions": by_task(json!("Yaml")),
            "n-shot": by_task(json!(0)),
            "higher_is_better": by_task(json!({ SCORE: true })),
            "n-samples": by_task(json!({ "original": self.n_questions, "effective": self.n_samples })),
            "config": {
                "model": "vidense",
                "model_args": format!("model={model}"),
                "model_backend": program,
                "batch_size": null,
                "batch_sizes": [],
                "device": null,
                "use_cache": null,
                "limit": null,
                "offset": 0,
                "gen_kwargs": "",
                "resolved_cli_args": { "description": record.description, "plan": record.plan.yaml },
            },
            "git_hash": null,
            "git_branch": null,
            "lmms_eval_version": program,
            "date": self.date,
            "usage": {},
            "task_hashes": by_task(sha256(self.hashes.as_bytes()).into()),
            "model_source": "vidense",
            "model_name": model,
            "model_name_sanitized": sanitized(model),
            "system_instruction": record.spec.prompt.system,
            "system_instruction_sha": record.spec.prompt.system.as_ref().map(|text| sha256(text.as_bytes())),
            "fewshot_as_multiturn": false,
            "chat_template": null,
            "chat_template_sha": null,
            "start_time": 0.0,
            "end_time": record.seconds,
            "total_evaluation_time_seconds": record.seconds.to_string(),
        })
    }

    /// Returns the means over the samples, with the standard errors that lmms-eval computes of them.
    fn means(&self) -> Value {
        let mut means = Map::from_iter([("alias".to_owned(), json!(self.task))]);
        for (name, scores) in &self.scores {
            let error = standard_error(scores).map_or_else(|| json!(UNKNOWN), Value::from);
            means.insert(format!("{name},{FILTER}"), json!(mean(scores)));
            means.insert(format!("{name}_stderr,{FILTER}"), error.clone());
            means.insert(format!("{name}_stderr_clt,{FILTER}"), error);
            means.insert(format!("{name}_stderr_clustered,{FILTER}"), json!(UNKNOWN));
        }
        Value::Object(means)
    }

    /// Returns the task with lmms-eval's defaults.
    fn config(&self) -> Value {
        let mut config = task_config(self.task, "questions.jsonl");
        let defaults = json!({
            "full_docs": false,
            "process_results_use_image": false,
            "doc_to_visual": "utils.doc_to_visual",
            "process_results": "utils.process_results",
            "description": "",
            "target_delimiter": " ",
            "fewshot_delimiter": "\n\n",
            "num_fewshot": 0,
            "repeats": 1,
            "should_decontaminate": false,
            "score_key": SCORE,
            "auto_strip_thinking": false,
        });
        config["generation_kwargs"]["until"] = json!(["\n\n"]);
        if let (Value::Object(config), Value::Object(defaults)) = (&mut config, defaults) {
            config.extend(defaults);
        }
        config
    }
}

fn mean(scores: &[f64]) -> f64 {
    scores.iter().sum::<f64>() / scores.len() as f64
}

/// Returns the standard error of a mean, with Bessel's correction; `None` for fewer than two scores.
fn standard_error(scores: &[f64]) -> Option<f64> {
    let (n, mean) = (scores.len() as f64, mean(scores));
    let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
    (scores.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt())
}

/// Returns the last two parts of a model's name as lmms-eval names its directory.
pub(super) fn sanitized(model: &str) -> String {
    let parts: Vec<&str> = model.split('/').collect();
    let last = parts[parts.len().saturating_sub(2)..].join("/");
    let mut name = String::new();
    let mut is_replaced = false;
    for c in last.chars() {
        match RESERVED.contains(c) {
            true if is_replaced => {}
            true => name.push_str("__"),
            false => name.push(c),
        }
        is_replaced = RESERVED.contains(c);
    }
    // `..` would be the directory above.
    if name == ".." { name.replace('.', "_") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_errors_are_those_of_a_sample() {
        // Mean 1/2, squares 4 * 1/4 over 3, over 4.
        let error = standard_error(&[1.0, 0.0, 1.0, 0.0]).expect("four scores");
        assert!((error - (1.0_f64 / 12.0).sqrt()).abs() < 1e-12);
        assert_eq!(standard_error(&[1.0]), None);
    }

    #[test]
    fn names_of_models_become_those_of_directories() {
        assert_eq!(sanitized("org/name"), "org__name");
        assert_eq!(sanitized("/data/models/org/na:*me"), "org__na__me");
        assert_eq!(sanitized("vidense-mini"), "vidense-mini");
        assert_eq!(sanitized(".."), "__");
    }
}
