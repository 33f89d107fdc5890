//! Layout of a data set of Hugging Face: a card whose head names the files of the split, and its rows as JSON lines.

use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::{ExportedBenchmark, add_line, text_of};
use crate::error::Result;
use crate::eval::dataset::{BenchmarkQuestion, QuestionReference};
use crate::units::Seconds;
use crate::video::Window;

/// Row of the split.
#[derive(Serialize)]
struct DatasetRow<'a> {
    question_id: &'a str,
    /// Path of the video below the data directory.
    video: &'a str,
    /// Start and end of the clip; null for a whole video, so that every row has the same columns.
    start: Option<Seconds>,
    end: Option<Seconds>,
    question: &'a str,
    /// The question as `eval` asks it.
    prompt: &'a str,
    options: &'a [String],
    /// Index of the right option, from 0.
    answer_index: Option<usize>,
    /// Reference answers in words.
    answers: &'a [String],
    #[serde(rename = "type")]
    kind: &'a str,
    task: &'a str,
}

/// Writes `README.md`, whose head names the split's file, `data/<split>.jsonl` and `pipeline.yaml`. Videos are named,
/// not copied.
///
/// # Errors
/// Subtitles between frames, a path that is not UTF-8, or a directory that cannot be written.
pub fn write_dataset(benchmark: &ExportedBenchmark<'_>, out: &Path) -> Result<()> {
    benchmark.refuse_subtitles()?;
    let mut lines = Vec::new();
    for video in &benchmark.tasks.videos {
        let path = text_of(video.path.strip_prefix(benchmark.data).unwrap_or(&video.path))?;
        for (index, prompt) in video.asked() {
            add_line(&mut lines, &row(&benchmark.questions[index], video.clip, DatasetText { path, prompt }))?;
        }
    }
    // Names of splits are words on the hub.
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let split: String = benchmark.spec.split.chars().map(plain).collect();
    benchmark.write(&out.join("data"), &format!("{split}.jsonl"), &lines)?;
    benchmark.write(out, "README.md", card(benchmark, &split).as_bytes())?;
    benchmark.write_pipeline(out)
}

/// Texts of a row that are not of the question.
#[derive(Clone, Copy)]
struct DatasetText<'a> {
    path: &'a str,
    prompt: &'a str,
}

fn row<'a>(question: &'a BenchmarkQuestion, clip: Window, text: DatasetText<'a>) -> DatasetRow<'a> {
    let (answers, answer_index): (&[String], _) = match &question.reference {
        QuestionReference::Texts(texts) => (texts, None),
        QuestionReference::Choice(right) => (&[], Some(*right)),
        QuestionReference::Hidden => (&[], None),
    };
    DatasetRow {
        question_id: &question.id,
        video: text.path,
        start: clip.start,
        end: clip.end,
        question: &question.question,
        prompt: text.prompt,
        options: question.options.texts(),
        answer_index,
        answers,
        kind: &question.kind,
        task: &question.task,
    }
}

/// Returns the card: its head as JSON, which is YAML, and a sentence.
fn card(benchmark: &ExportedBenchmark<'_>, split: &str) -> String {
    let files = json!([{ "split": split, "path": format!("data/{split}.jsonl") }]);
    let head: Value = json!({ "configs": [{ "config_name": "default", "data_files": files }] });
    let spec = benchmark.spec;
    format!(
        "---\n{head:#}\n---\n\n# {}, {}\n\n{} questions about {} videos or clips. Paths of videos are below the data directory of \
         the original data set: {}. Prompts: {}.\n",
        spec.name,
        spec.split,
        benchmark.tasks.videos.iter().map(|video| video.questions.len()).sum::<usize>(),
        benchmark.tasks.videos.len(),
        spec.source,
        spec.prompt.source
    )
}
