//! Measures: names of metrics in descriptions and records, and the score of one answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::eval::dataset::{BenchmarkQuestion, QuestionReference};
use crate::eval::metrics::{
    WordNet, is_exact_match, is_normalized_match, parse_choice, parse_yes_or_no, token_f1, wups, wups_words,
};

/// Metric of an answer, between 0 and 1.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr,
)]
pub enum Measure {
    /// Multiple choice: the parsed option is the right one.
    #[serde(rename = "choice")]
    #[strum(serialize = "choice")]
    Choice,
    /// Yes or no: the parsed word is that of the reference.
    #[serde(rename = "yes_no")]
    #[strum(serialize = "yes_no")]
    YesNo,
    /// The answer equals a reference, white space at the ends aside.
    #[serde(rename = "exact")]
    #[strum(serialize = "exact")]
    Exact,
    /// The normalised answer equals a normalised reference: lower case, without punctuation and articles.
    #[serde(rename = "normalized")]
    #[strum(serialize = "normalized")]
    Normalized,
    /// F1 of the normalised words, the best over the references.
    #[serde(rename = "token_f1")]
    #[strum(serialize = "token_f1")]
    TokenF1,
    /// WUPS without a threshold, the best over the references; needs WordNet.
    #[serde(rename = "wups_0")]
    #[strum(serialize = "wups_0")]
    Wups0,
    /// WUPS with similarities below 0.9 scaled by 0.1; needs WordNet.
    #[serde(rename = "wups_0.9")]
    #[strum(serialize = "wups_0.9")]
    Wups09,
}

/// Types of NExT-QA's open questions (yes or no, counts) whose answers must be equal.
const EQUAL_TYPES: [&str; 2] = ["DB", "DC"];

/// Score of an answer by one measure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MeasuredAnswer {
    /// Score between 0 and 1.
    pub(super) score: f64,
    /// Whether a parser did not understand the answer.
    pub(super) is_unparsed: bool,
    /// Parsed answer, where the measure parses it: the label of an option, yes, no.
    pub(super) parsed: Option<String>,
}

impl Measure {
    /// Returns the name in descriptions and records.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns whether the measure needs WordNet.
    pub fn needs_wordnet(self) -> bool {
        matches!(self, Self::Wups0 | Self::Wups09)
    }

    /// Returns whether the measure is of questions with options.
    pub(super) fn is_of_options(self) -> bool {
        self == Self::Choice
    }

    /// Scores an answer; `None` if the question has no published reference, or WordNet is needed and absent.
    pub(super) fn score(
        self,
        question: &BenchmarkQuestion,
        answer: &str,
        wordnet: Option<&WordNet>,
    ) -> Option<MeasuredAnswer> {
        let texts = match &question.reference {
            QuestionReference::Hidden => return None,
            QuestionReference::Choice(right) => return Some(choice(question, answer, Some(*right))),
            QuestionReference::Texts(texts) => texts,
        };
        let best = |score: &dyn Fn(&str) -> f64| texts.iter().map(|text| score(text)).fold(0.0, f64::max);
        let is_any = |is_match: &dyn Fn(&str) -> bool| f64::from(u8::from(texts.iter().any(|text| is_match(text))));
        let score = match self {
            // A reference that is none of the options: no option is right.
            Self::Choice => return Some(choice(question, answer, None)),
            Self::YesNo => return Some(yes_or_no(answer, texts)),
            Self::Exact => is_any(&|text| is_exact_match(answer, text)),
            Self::Normalized => is_any(&|text| is_normalized_match(answer, text)),
            Self::TokenF1 => best(&|text| token_f1(answer, text)),
            Self::Wups0 => best(&wups_of(answer, 0.0, question, wordnet?)),
            Self::Wups09 => best(&wups_of(answer, 0.9, question, wordnet?)),
        };
        Some(MeasuredAnswer { score, is_unparsed: false, parsed: None })
    }
}

/// Scores a choice; without a right option the answer is only parsed.
pub(super) fn choice(question: &BenchmarkQuestion, answer: &str, right: Option<usize>) -> MeasuredAnswer {
    let chosen = parse_choice(answer, &question.options);
    let parsed = chosen.and_then(|index| question.options.label(index)).map(String::from);
    let is_right = chosen.is_some() && chosen == right;
    MeasuredAnswer { score: f64::from(u8::from(is_right)), is_unparsed: chosen.is_none(), parsed }
}

fn yes_or_no(answer: &str, texts: &[String]) -> MeasuredAnswer {
    let parsed = parse_yes_or_no(answer).map(|is_yes| if is_yes { "yes" } else { "no" });
    let is_right = parsed.is_some_and(|parsed| texts.iter().any(|text| text.eq_ignore_ascii_case(parsed)));
    MeasuredAnswer {
        score: f64::from(u8::from(is_right)),
        is_unparsed: parsed.is_none(),
        parsed: parsed.map(str::to_owned),
    }
}

/// Returns the WUPS of an answer with a reference, as NExT-QA's evaluation defines it.
fn wups_of<'a>(
    answer: &str,
    threshold: f64,
    question: &'a BenchmarkQuestion,
    wordnet: &'a WordNet,
) -> impl Fn(&str) -> f64 + use<'a> {
    let answer = wups_words(answer, wordnet);
    move |text| {
        let reference = wups_words(text, wordnet);
        if EQUAL_TYPES.contains(&question.kind.as_str()) {
            return f64::from(u8::from(answer == reference));
        }
        wups(&answer, &reference, threshold, wordnet)
    }
}
