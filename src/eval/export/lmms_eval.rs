//! Task directory for lmms-eval 0.7.3, whose model `openai` asks `vidense serve`: a task, its questions, and functions.

use std::path::Path;

use serde::Serialize;

use super::{ExportedBenchmark, add_line, text_of};
use crate::error::{Error, Result};
use crate::eval::dataset::{BenchmarkQuestion, QuestionReference};
use crate::video::Window;

/// File name of the questions.
const QUESTIONS: &str = "questions.jsonl";
/// File name of the functions that the task names.
const FUNCTIONS: &str = "utils.py";

/// Functions of the task. A choice is the label with which an answer begins, a letter or a number.
const PYTHON: &str = r#"import re


def doc_to_visual(doc):
    return [doc["video"]]


def process_results(doc, results):
    given = results[0].strip()
    if doc["options"]:
        label = re.match(r"\W*(?:[Oo]ption\s+)?([A-Z]|[0-9]+)\b", given)
        given = label.group(1) if label else ""
    return {"exact_match": float(given in doc["answers"])}
"#;

/// Question of the task: the prompt as `eval` asks it, an absolute path, and labels or texts that are right.
#[derive(Serialize)]
struct TaskQuestion<'a> {
    question_id: &'a str,
    video: &'a str,
    question: &'a str,
    options: &'a [String],
    answers: Vec<String>,
    answer: String,
    #[serde(rename = "type")]
    kind: &'a str,
}

/// Writes the task `name`: `<name>.yaml`, `questions.jsonl` and `utils.py`, and `pipeline.yaml` for `vidense serve`, with the
/// system text and the beginning of answers of the benchmark.
///
/// # Errors
/// A name other than of letters, digits and underscores; questions about clips, directories with a rate or videos with
/// subtitles between their frames, which lmms-eval does not send; questions without a published answer; a path that
/// is not UTF-8; a directory that cannot be written.
pub fn write_lmms_task(benchmark: &ExportedBenchmark<'_>, name: &str, out: &Path) -> Result<()> {
    benchmark.refuse_subtitles()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err(Error::invalid(format!("invalid task name `{name}`")).with_hint("letters, digits and _"));
    }
    let mut lines = Vec::new();
    for video in &benchmark.tasks.videos {
        let unsent = match (video.clip != Window::default(), video.image_rate.is_some()) {
            (true, _) => Some("the times of a clip"),
            (false, true) => Some("the rate of a directory's images"),
            (false, false) => None,
        };
        if let Some(unsent) = unsent {
            let rule = format!("lmms-eval does not send {unsent} to its model `openai`");
            return Err(Error::invalid(rule).about(&video.path));
        }
        let path = std::path::absolute(&video.path).map_err(Error::io(&video.path))?;
        for (index, prompt) in video.asked() {
            add_line(&mut lines, &question(&benchmark.questions[index], text_of(&path)?, prompt)?)?;
        }
    }
    benchmark.write(out, QUESTIONS, &lines)?;
    benchmark.write(out, FUNCTIONS, PYTHON.as_bytes())?;
    let data = std::path::absolute(out.join(QUESTIONS)).map_err(Error::io(out))?;
    benchmark.write(out, &format!("{name}.yaml"), task(name, text_of(&data)?).as_bytes())?;
    benchmark.write_pipeline(out)
}

fn question<'a>(question: &'a BenchmarkQuestion, video: &'a str, prompt: &'a str) -> Result<TaskQuestion<'a>> {
    let answers = match &question.reference {
        QuestionReference::Texts(texts) => texts.clone(),
        QuestionReference::Choice(right) => question.options.label(*right).map(String::from).into_iter().collect(),
        QuestionReference::Hidden => {
            let error = Error::invalid("its answer is not published");
            return Err(error.about(format!("question `{}`", question.id)));
        }
    };
    Ok(TaskQuestion {
        question_id: &question.id,
        video,
        question: prompt,
        options: question.options.texts(),
        answer: answers.first().cloned().unwrap_or_default(),
        answers,
        kind: &question.kind,
    })
}

/// Returns the description of the task.
fn task(name: &str, data: &str) -> String {
    let data = serde_json::Value::from(data);
    format!(
        "task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n\
         output_type: generate_until\ndoc_to_visual: !function utils.doc_to_visual\ndoc_to_text: \"question\"\n\
         doc_to_target: \"answer\"\nprocess_results: !function utils.process_results\ngeneration_kwargs:\n  \
         max_new_tokens: 64\n  temperature: 0\nmetric_list:\n  - metric: exact_match\n    aggregation: mean\n    \
         higher_is_better: true\n"
    )
}
