//! Score of an answer to a document of a task. The functions of the task call `vidense eval score`, so that lmms-eval
//! and `eval` score by one implementation.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::eval::benchmark::{AnswerScorer, AnswerStatus, Measure};
use crate::eval::dataset::{BenchmarkQuestion, ChoiceOptions, QuestionReference, VideoLookup};

/// Document with an answer; further keys of the document are not read.
#[derive(Deserialize)]
struct AnsweredDocument {
    question_id: String,
    question: String,
    options: Vec<String>,
    labels: Vec<String>,
    answers: Vec<String>,
    #[serde(rename = "type")]
    kind: String,
    /// Answer of the model.
    given: String,
}

/// Score of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DocumentScore {
    /// Identifier of the question.
    pub question_id: String,
    /// Score between 0 and 1.
    pub score: f64,
    /// Parsed answer, where the metric parses it.
    pub parsed: Option<String>,
    /// Outcome.
    pub status: AnswerStatus,
}

/// Scores the answer of a line: a document of a task as JSON, with the answer as `given`.
///
/// # Errors
/// A line that is no such object; a document without a right answer, or whose labels are not those of its options; a
/// measure that needs WordNet or is not one of the question's kind.
pub fn score_document(line: &str, measure: Measure) -> Result<DocumentScore> {
    let document: AnsweredDocument =
        serde_json::from_str(line).map_err(|error| Error::caused_by(Kind::Invalid, error))?;
    let about = |rule: String| Error::invalid(rule).about(format!("question `{}`", document.question_id));
    if measure.needs_wordnet() {
        let error = about(format!("the metric {} needs WordNet's database", measure.name()));
        return Err(error.with_hint("choice, yes_no, exact, normalized, token_f1"));
    }
    if (measure == Measure::Choice) == document.options.is_empty() {
        let kind = if document.options.is_empty() { "without" } else { "with" };
        return Err(about(format!("no score `{}` of a question {kind} options", measure.name())));
    }
    let question = question(&document).map_err(about)?;
    let scored = AnswerScorer { measures: &[measure], wordnet: None }.answered(&question, &document.given);
    let score = scored.scores.get(measure.name()).copied();
    let score = score.ok_or_else(|| about("its answer is not published".to_owned()))?;
    Ok(DocumentScore { question_id: scored.question_id, score, parsed: scored.parsed, status: scored.status })
}

/// Returns the question of a document, or the rule that the document breaks.
fn question(document: &AnsweredDocument) -> std::result::Result<BenchmarkQuestion, String> {
    let label = |text: &String| {
        let mut chars = text.chars();
        let label = chars.next().filter(|_| chars.next().is_none());
        label.ok_or_else(|| format!("the label `{text}` is not one character"))
    };
    let labels = document.labels.iter().map(label).collect::<std::result::Result<Vec<char>, String>>()?;
    if labels.len() != document.options.len() {
        return Err(format!("{} labels of {} options", labels.len(), document.options.len()));
    }
    if let Some(label) = document.labels.iter().enumerate().find(|(i, label)| document.labels[..*i].contains(label)) {
        return Err(format!("the label `{}` comes twice", label.1));
    }
    let first = document.answers.first().ok_or("its answer is not published")?;
    let reference = match document.labels.iter().position(|label| label == first) {
        Some(index) => QuestionReference::Choice(index),
        None if labels.is_empty() => QuestionReference::Texts(document.answers.clone()),
        None => return Err(format!("the answer `{first}` is none of the labels {}", document.labels.join(", "))),
    };
    let video = VideoLookup::new(Path::new(""), "");
    Ok(BenchmarkQuestion {
        options: ChoiceOptions::with_labels(labels, document.options.clone(), ""),
        reference,
        kind: document.kind.clone(),
        ..BenchmarkQuestion::open(&document.question_id, video, &document.question, "")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document(labels: &[&str], answers: &[&str], given: &str) -> Value {
        let options: Vec<String> = labels.iter().map(|label| format!("option {label}")).collect();
        json!({
            "question_id": "q", "video": "/v.mp4", "question": "Which?", "options": options, "labels": labels,
            "answers": answers, "answer": "", "type": "", "given": given,
        })
    }

    fn score(document: &Value, measure: Measure) -> Result<f64> {
        score_document(&document.to_string(), measure).map(|found| found.score)
    }

    #[test]
    fn answers_are_scored_by_the_measures_of_eval() {
        let choice = |given: &str| score(&document(&["A", "B"], &["B"], given), Measure::Choice).expect("a choice");
        assert_eq!((choice("The answer is B."), choice("(A)"), choice("A or B")), (1.0, 0.0, 0.0));
        let open = |given: &str, measure| score(&document(&[], &["the red car"], given), measure).expect("open");
        assert_eq!((open(" the red car\n", Measure::Exact), open("Red car.", Measure::Exact)), (1.0, 0.0));
        assert_eq!((open("Red car.", Measure::Normalized), open("Red car.", Measure::TokenF1)), (1.0, 1.0));
        let unparsed = score_document(&document(&["A", "B"], &["B"], "Both.").to_string(), Measure::Choice);
        assert_eq!(unparsed.expect("a choice").status, AnswerStatus::Unparsed);
    }

    #[test]
    fn documents_that_cannot_be_scored_are_refused() {
        let error = |document: &Value, measure| score(document, measure).expect_err("refused").to_string();
        let choice = document(&["A", "B"], &["B"], "B");
        assert!(error(&choice, Measure::Exact).contains("question `q`: no score `exact` of a question with options"));
        let open = document(&[], &["x"], "x");
        assert!(error(&open, Measure::Choice).contains("no score `choice` of a question without options"));
        assert!(error(&open, Measure::Wups0).contains("the metric wups_0 needs WordNet's database; hint: choice, "));
        let twice = document(&["A", "A"], &["A"], "A");
        assert!(error(&twice, Measure::Choice).contains("the label `A` comes twice"));
        let other = document(&["A", "B"], &["C"], "A");
        assert!(error(&other, Measure::Choice).contains("the answer `C` is none of the labels A, B"));
        assert!(error(&document(&[], &[], "x"), Measure::Exact).contains("its answer is not published"));
        let long = document(&["A", "BC"], &["A"], "A");
        assert!(error(&long, Measure::Choice).contains("the label `BC` is not one character"));
        assert!(error(&json!({ "question_id": "q" }), Measure::Exact).contains("missing field `question`"));
    }
}
