//! Description of a judge (`evals/judges/*.yaml`): prompt, kind of verdict, sampling.
//!
//! The judges of papers are built in. A description is read as those of benchmarks are: every error at once, with its
//! position.

use std::path::Path;

use schemars::{JsonSchema, schema_for};
use serde::{Deserialize, Serialize};

use super::spec_rules::rules;
use crate::choice::nearest;
use crate::error::{Error, Result};
use crate::spec::{Document, SchemaNode, SpecProblem};

/// Placeholders of a prompt about one question.
pub(super) const SINGLE: [&str; 2] = ["{question}", "{prediction}"];
/// Placeholders of a prompt about a pair of questions.
pub(super) const PAIR: [&str; 4] = ["{question_1}", "{question_2}", "{prediction_1}", "{prediction_2}"];
pub(super) const ANSWER: &str = "{answer}";
pub(super) const RUBRIC: &str = "{rubric}";
/// Names of a judge's scores; those of several scores are `judge_` and the key.
pub(super) const JUDGE_PREFIX: &str = "judge_";
pub(super) const JUDGE_ACCURACY: &str = "judge_accuracy";
pub(super) const JUDGE_SCORE: &str = "judge_score";

macro_rules! built_in {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../evals/judges/", $name, ".yaml")))
    };
}

/// Judges that are part of the program: name and description.
pub const BUILT_IN_JUDGES: [(&str, &str); 9] = [
    built_in!("video-chatgpt-qa"),
    built_in!("video-chatgpt-correctness"),
    built_in!("video-chatgpt-detail"),
    built_in!("video-chatgpt-context"),
    built_in!("video-chatgpt-temporal"),
    built_in!("video-chatgpt-consistency"),
    built_in!("tempcompass-captioning"),
    built_in!("mlvu-sub-scene"),
    built_in!("mlvu-summary"),
];

/// Parts of a judge's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    /// `{'pred': 'yes', 'score': 4}`.
    YesNoAndScore,
    /// `{'score': 4}`.
    Score,
    /// Several scores, whose sum is that of the answer: `{'score_accuracy': 3.5, 'score_relevance': 5}`.
    Scores,
    /// An option: a line `Answer: B. text`, or `Answer: None of the choices are correct`. The answer is accepted if the
    /// option is the reference, which begins with its label.
    Choice,
}

/// A judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeSpec {
    /// Name: lower-case letters, digits, hyphens.
    pub name: String,
    /// Source of the words: a paper, a script.
    pub source: String,
    /// System text. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Abbreviation of the score in papers. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abbreviation: Option<String>,
    /// Text of the turn, with the placeholders `{prediction}` and `{answer}` (the reference) or `{rubric}` (scoring
    /// points, or a question with options), and `{question}` where the judge is told it; for pairs of questions with
    /// one reference `{question_1}`, `{question_2}`, `{answer}`, `{prediction_1}`, `{prediction_2}`.
    pub user: String,
    /// Kind of verdict.
    pub verdict: VerdictKind,
    /// Keys of the verdict `scores`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<String>,
    /// Lowest score. Default: `0`.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub min_score: f64,
    /// Highest score, of each key; none for the verdict `choice`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.0, max = 1000.0))]
    pub max_score: Option<f64>,
    /// Temperature of the judge. Default: `0`.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: f64,
    /// Presence penalty, for services that take one. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2.0, max = 2.0))]
    pub presence_penalty: Option<f64>,
    /// Maximum number of tokens of a reply. Default: `64`.
    #[serde(default = "default_max_tokens")]
    #[schemars(range(min = 1))]
    pub max_tokens: usize,
    /// Seed, for services that take one. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

fn default_max_tokens() -> usize {
    64
}

impl JudgeSpec {
    /// Returns whether a request is about a pair of questions.
    pub fn is_of_pairs(&self) -> bool {
        self.user.contains(PAIR[0])
    }

    /// Returns the keys of a verdict's scores.
    pub(super) fn score_keys(&self) -> Vec<&str> {
        match self.verdict {
            VerdictKind::YesNoAndScore | VerdictKind::Score => vec!["score"],
            VerdictKind::Scores => self.scores.iter().map(String::as_str).collect(),
            VerdictKind::Choice => Vec::new(),
        }
    }

    /// Returns whether a verdict accepts or refuses the answer.
    pub(super) fn accepts(&self) -> bool {
        matches!(self.verdict, VerdictKind::YesNoAndScore | VerdictKind::Choice)
    }

    /// Returns the highest score of a key.
    pub(super) fn highest(&self) -> f64 {
        self.max_score.unwrap_or(1.0)
    }

    /// Returns the hash (BLAKE3) of the description without its source and abbreviation, as JSON: all settings that
    /// scores depend on.
    pub fn hash(&self) -> String {
        let settings = Self { source: String::new(), abbreviation: None, ..self.clone() };
        // A value of a description is a value of JSON.
        let json = serde_json::to_value(settings).unwrap_or_default().to_string();
        blake3::hash(json.as_bytes()).to_hex().to_string()
    }

    /// Returns the hash (BLAKE3) of the prompt: system text, a zero byte, text of the turn.
    pub fn prompt_hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.system.as_deref().unwrap_or_default().as_bytes());
        hasher.update(&[0]);
        hasher.update(self.user.as_bytes());
        hasher.finalize().to_hex().to_string()
    }
}

/// Opens a judge by the name of a built-in one, or by the path of a description (`.yaml`).
///
/// # Errors
/// An unknown name; every error of a description.
pub fn open_judge(name: &str) -> Result<JudgeSpec> {
    let schema = schema_for!(JudgeSpec).to_value();
    let root = SchemaNode::root(&schema);
    let document = match BUILT_IN_JUDGES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Document::of_text(name, text, root)?,
        None if is_description(name) => Document::read(Path::new(name), root)?,
        None => {
            let known = BUILT_IN_JUDGES.map(|(known, _)| known);
            let hint = match nearest(name, &known) {
                Some(near) => format!("`{near}`?"),
                None => format!("{}, or a description (.yaml)", known.join(", ")),
            };
            return Err(Error::invalid(format!("unknown judge `{name}`")).with_hint(hint));
        }
    };
    let mut problems = Vec::new();
    root.check(&document.value, &mut Vec::new(), &mut problems);
    problems.extend(rules(&document.value));
    if !problems.is_empty() {
        return Err(document.error(&problems));
    }
    serde_json::from_value(document.value.clone())
        .map_err(|error| document.error(&[SpecProblem::new("", error.to_string())]))
}

/// Returns the built-in judge of a name.
pub(super) fn built_in(name: &str) -> Option<JudgeSpec> {
    let is_known = BUILT_IN_JUDGES.iter().any(|(known, _)| *known == name);
    is_known.then(|| open_judge(name).ok()).flatten()
}

fn is_description(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| ["yaml", "yml"].iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_judges_have_the_name_of_their_file() {
        for (name, _) in BUILT_IN_JUDGES {
            let judge = open_judge(name).unwrap_or_else(|error| panic!("{error}"));
            let (max_score, temperature) = if name == "tempcompass-captioning" { (1.0, 1.0) } else { (5.0, 0.0) };
            assert_eq!((judge.name.as_str(), judge.highest(), judge.temperature), (name, max_score, temperature));
            assert_eq!(judge.is_of_pairs(), name == "video-chatgpt-consistency");
        }
        let error = open_judge("video-chatgpt-qs").expect_err("unknown").to_string();
        assert_eq!(error, "unknown judge `video-chatgpt-qs`; hint: `video-chatgpt-qa`?");
    }

    #[test]
    fn every_error_of_a_description_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("judge.yaml");
        let text = "name: My Judge\nsource: x\nuser: \"{question} {answer} {answer} {prediction_1}\"\n\
                    verdict: maybe\nmax_score: 5\ntemprature: 0\n";
        std::fs::write(&path, text).expect("room");
        let error = open_judge(path.to_str().expect("UTF-8")).expect_err("wrong").to_string();
        for part in [
            "invalid name `My Judge`",
            "wants {question_1} 1 times, found it 0 times",
            "wants {answer} 1 times, found it 2 times",
            "wants {question} 0 times, found it 1 times",
            "unknown choice `maybe`",
            "unknown key `temprature`",
        ] {
            assert!(error.contains(part), "{part} in\n{error}");
        }
        let text = "name: j\nsource: x\nuser: \"{question} {rubric} {rubric} {prediction}\"\nverdict: scores\n\
                    scores: [completeness, score]\n";
        std::fs::write(&path, text).expect("room");
        let error = open_judge(path.to_str().expect("UTF-8")).expect_err("wrong").to_string();
        for part in [
            "wants {rubric} 1 times, found it 2 times",
            "the key `max_score` is missing",
            "scores.1: invalid key `score`",
        ] {
            assert!(error.contains(part), "{part} in\n{error}");
        }
        let text = "name: j\nsource: x\nuser: \"{prediction}\"\nverdict: choice\nmax_score: 5\nscores: [a, b]\n";
        std::fs::write(&path, text).expect("room");
        let error = open_judge(path.to_str().expect("UTF-8")).expect_err("wrong").to_string();
        for part in ["wants {answer} or {rubric}", "max_score: a choice has no score", "no other has this list"] {
            assert!(error.contains(part), "{part} in\n{error}");
        }
    }
}
