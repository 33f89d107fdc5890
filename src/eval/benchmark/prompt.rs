//! Prompt of a benchmark: the exact words around a question, with their source.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::eval::dataset::BenchmarkQuestion;

/// Placeholders of the text.
pub(super) const QUESTION: &str = "{question}";
pub(super) const OPTIONS: &str = "{options}";
pub(super) const SUBTITLES: &str = "{subtitles}";
/// Placeholders of an option.
pub(super) const LETTER: &str = "{letter}";
pub(super) const OPTION_TEXT: &str = "{text}";

/// Prompt of a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkPrompt {
    /// System text. Default: the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Text of a turn, with the placeholders `{question}`, `{options}` for questions with options, and `{subtitles}`.
    pub text: String,
    /// Text of one option, with `{letter}` and `{text}`; options stand one after another. Default: `"\n{letter}.
    /// {text}"`.
    #[serde(default = "default_option")]
    pub option: String,
    /// Text with which the answer is made to begin. Default: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer: String,
    /// Source of the words: a paper, a script.
    pub source: String,
}

fn default_option() -> String {
    "\n{letter}. {text}".to_owned()
}

impl BenchmarkPrompt {
    /// Returns the text of the turn about a question. Placeholders within a question or an option stay as they are.
    pub fn text_of(&self, question: &BenchmarkQuestion, subtitles: &[String]) -> String {
        let option = |(label, text): (char, &str)| {
            fill(&self.option, &[(LETTER, question.options.shown_label(label)), (OPTION_TEXT, text.to_owned())])
        };
        let options: String = question.options.iter().map(option).collect();
        let subtitles = if subtitles.is_empty() { "No subtitles available".to_owned() } else { subtitles.join("\n") };
        let question = question.question.trim().to_owned();
        fill(&self.text, &[(QUESTION, question), (OPTIONS, options), (SUBTITLES, subtitles)])
    }
}

/// Replaces placeholders from the left; what was filled in is not searched again.
pub(in crate::eval) fn fill(text: &str, values: &[(&str, String)]) -> String {
    let mut filled = String::new();
    let mut rest = text;
    loop {
        let next = values.iter().filter_map(|value| Some((rest.find(value.0)?, value))).min_by_key(|(at, _)| *at);
        let Some((at, (name, value))) = next else {
            filled.push_str(rest);
            return filled;
        };
        filled.push_str(&rest[..at]);
        filled.push_str(value);
        rest = &rest[at + name.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_within_values_are_not_filled() {
        let values = [("{question}", "is {options} here?".to_owned()), ("{options}", "A B".to_owned())];
        assert_eq!(fill("Q: {question}\n{options}!", &values), "Q: is {options} here?\nA B!");
    }
}
