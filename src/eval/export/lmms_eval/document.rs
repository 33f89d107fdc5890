//! Document of lmms-eval: a question with the words that are asked, its video, and what is right.

use std::path::Path;

use serde::Serialize;

use super::super::{ClipKeys, ExportedBenchmark, text_of};
use crate::error::{Error, Result};
use crate::eval::dataset::{BenchmarkQuestion, QuestionReference};

/// Row of the questions of a task.
#[derive(Debug, Serialize)]
pub(super) struct TaskDocument<'a> {
    question_id: &'a str,
    /// Absolute path; of a missing video, the name in the data set.
    video: String,
    #[serde(flatten)]
    clip: ClipKeys,
    /// The prompt as `eval` asks it; empty for a missing video.
    pub(super) question: &'a str,
    options: &'a [String],
    labels: Vec<String>,
    /// Labels or texts that are right; none for a question without a published answer.
    answers: Vec<String>,
    /// The first of them.
    pub(super) answer: String,
    #[serde(rename = "type")]
    kind: &'a str,
}

/// Returns the documents of all questions, in the order of the data set.
///
/// # Errors
/// A path that is not UTF-8.
pub(super) fn documents<'a>(benchmark: &ExportedBenchmark<'a>) -> Result<Vec<TaskDocument<'a>>> {
    let document = |question: &'a BenchmarkQuestion| document(question, question.video.shown());
    let mut documents: Vec<TaskDocument<'a>> = benchmark.questions.iter().map(document).collect();
    for video in &benchmark.tasks.videos {
        let path = absolute(&video.path)?;
        for (index, prompt) in video.asked() {
            let document = &mut documents[index];
            (document.video, document.question) = (path.clone(), prompt);
            document.clip = ClipKeys::new(video.clip, video.image_rate);
        }
    }
    Ok(documents)
}

fn document(question: &BenchmarkQuestion, video: String) -> TaskDocument<'_> {
    let answers = match &question.reference {
        QuestionReference::Texts(texts) => texts.clone(),
        QuestionReference::Choice(right) => question.options.label(*right).map(String::from).into_iter().collect(),
        QuestionReference::Hidden => Vec::new(),
    };
    TaskDocument {
        question_id: &question.id,
        video,
        clip: ClipKeys::default(),
        question: "",
        options: question.options.texts(),
        labels: question.options.iter().map(|(label, _)| label.to_string()).collect(),
        answer: answers.first().cloned().unwrap_or_default(),
        answers,
        kind: &question.kind,
    }
}

/// Returns an absolute path as text.
pub(super) fn absolute(path: &Path) -> Result<String> {
    let path = std::path::absolute(path).map_err(Error::io(path))?;
    Ok(text_of(&path)?.to_owned())
}
