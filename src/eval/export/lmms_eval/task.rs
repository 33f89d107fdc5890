//! Task directory for lmms-eval 0.7.3, whose model `openai` asks `vidense serve`: a task, its questions, and functions.

use std::path::Path;

use serde_json::Value;

use super::document::{absolute, documents};
use super::{check_task_name, task_config};
use crate::error::{Error, Result};
use crate::eval::benchmark::{BenchmarkVideo, Measure};
use crate::eval::dataset::{BenchmarkQuestion, QuestionReference};
use crate::eval::export::{ExportedBenchmark, add_line};
use crate::video::Window;

/// File name of the questions.
const QUESTIONS: &str = "questions.jsonl";
/// File name of the functions that the task names.
const FUNCTIONS: &str = "utils.py";
/// Functions of the task, after the name of its metric. They call `vidense eval score`.
const PYTHON: &str = include_str!("utils.py");

/// Writes the task `name`: `<name>.yaml`, `questions.jsonl` and `utils.py`, which scores by the benchmark's first
/// measure as `eval` does, and `pipeline.yaml` for `vidense serve`, with the system text and the beginning of answers
/// of the benchmark.
///
/// # Errors
/// A name other than of letters, digits and underscores; a measure that needs WordNet; questions about clips,
/// directories with a rate or videos with subtitles between their frames, which lmms-eval does not send; questions
/// without a published answer; a path that is not UTF-8; a directory that cannot be written.
pub fn write_lmms_task(benchmark: &ExportedBenchmark<'_>, name: &str, out: &Path) -> Result<()> {
    check_task_name(name)?;
    benchmark.refuse_subtitles()?;
    let functions = functions(benchmark.spec.metrics.first().copied())?;
    benchmark.tasks.videos.iter().try_for_each(check_sent)?;
    let is_hidden = |question: &&BenchmarkQuestion| question.reference == QuestionReference::Hidden;
    if let Some(question) = benchmark.questions.iter().find(is_hidden) {
        return Err(Error::invalid("its answer is not published").about(format!("question `{}`", question.id)));
    }
    let mut lines = Vec::new();
    for (index, document) in documents(benchmark)?.iter().enumerate() {
        if !benchmark.tasks.missing.contains(&index) {
            add_line(&mut lines, document)?;
        }
    }
    benchmark.write(out, QUESTIONS, &lines)?;
    benchmark.write(out, FUNCTIONS, functions.as_bytes())?;
    let config = task_config(name, &absolute(&out.join(QUESTIONS))?);
    benchmark.write(out, &format!("{name}.yaml"), yaml(&config).as_bytes())?;
    benchmark.write_pipeline(out)
}

/// Returns the functions. A string of JSON is one of Python.
fn functions(measure: Option<Measure>) -> Result<String> {
    match measure {
        Some(measure) if !measure.needs_wordnet() => {
            Ok(format!("METRIC = {}\n\n{PYTHON}", Value::from(measure.name())))
        }
        _ => {
            let rule = "the first metric of this benchmark needs WordNet, which a task of lmms-eval does not have";
            Err(Error::invalid(rule).with_hint("--to lmms-eval-samples, of an evaluation"))
        }
    }
}

/// Refuses a video of which lmms-eval sends the path alone.
fn check_sent(video: &BenchmarkVideo) -> Result<()> {
    let unsent = match (video.clip != Window::default(), video.image_rate.is_some()) {
        (true, _) => "the times of a clip",
        (false, true) => "the rate of a directory's images",
        (false, false) => return Ok(()),
    };
    let rule = format!("lmms-eval does not send {unsent} to its model `openai`");
    Err(Error::invalid(rule).about(&video.path))
}

/// Returns the description of a task as YAML, a key a line, with the names of its functions.
fn yaml(config: &Value) -> String {
    // JSON is YAML, but for the tags of functions.
    let keys = config.as_object().into_iter().flatten();
    let lines: String = keys.map(|(key, value)| format!("{key}: {value}\n")).collect();
    lines + "doc_to_visual: !function utils.doc_to_visual\nprocess_results: !function utils.process_results\n"
}
