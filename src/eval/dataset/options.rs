//! Options of a multiple-choice question: their labels and texts. Called by the readers of formats, by prompts and by
//! the parser of answers.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Maximum number of options of a question: one for each letter.
const MAX_OPTIONS: usize = 26;

/// Options of a question in the order of the file; none for an open question.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoiceOptions {
    labels: Vec<char>,
    texts: Vec<String>,
    /// Text before each label in prompts, such as `Sentence `.
    prefix: String,
}

impl ChoiceOptions {
    /// Makes options with the labels A, B, C, ...
    ///
    /// # Errors
    /// Fewer than two options or more than letters, with the number.
    pub fn lettered(texts: Vec<String>) -> Result<Self, Error> {
        check_number(texts.len())?;
        Ok(Self { labels: ('A'..='Z').take(texts.len()).collect(), texts, prefix: String::new() })
    }

    /// Makes options from texts such as `A. Apples`, whose labels become those of the options.
    ///
    /// # Errors
    /// A text without the letter of its position, or as [`Self::lettered`].
    pub fn from_labelled(texts: &[String]) -> Result<Self, Error> {
        check_number(texts.len())?;
        let unlabelled = |(text, label): (&String, char)| {
            let rest = text.strip_prefix(label).and_then(|rest| rest.strip_prefix(['.', ')', ':']));
            let rule = || Error::invalid(format!("option `{text}` does not begin with `{label}.`"));
            rest.map(|rest| rest.trim().to_owned()).ok_or_else(rule)
        };
        let texts = texts.iter().zip('A'..='Z').map(unlabelled).collect::<Result<Vec<_>, _>>()?;
        Self::lettered(texts)
    }

    /// Makes options with labels of their own, letters or digits, and a text before each label in prompts.
    pub fn with_labels(labels: Vec<char>, texts: Vec<String>, prefix: &str) -> Self {
        Self { labels, texts, prefix: prefix.to_owned() }
    }

    /// Returns the label of an option as prompts show it.
    pub fn shown_label(&self, label: char) -> String {
        format!("{}{label}", self.prefix)
    }

    /// Texts of the options.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Number of options; 0 for an open question.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Returns whether the question is open.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Returns the label of an option.
    pub fn label(&self, index: usize) -> Option<char> {
        self.labels.get(index).copied()
    }

    /// Labels and texts.
    pub fn iter(&self) -> impl Iterator<Item = (char, &str)> {
        self.labels.iter().copied().zip(self.texts.iter().map(String::as_str))
    }

    /// Returns the first option with exactly this text, white space at the ends aside.
    pub fn position_of(&self, text: &str) -> Option<usize> {
        self.texts.iter().position(|option| option.trim() == text.trim())
    }
}

/// Refuses fewer than two options or more than letters.
fn check_number(n: usize) -> Result<(), Error> {
    match (2..=MAX_OPTIONS).contains(&n) {
        true => Ok(()),
        false => Err(Error::invalid(format!("{n} options; expected 2 to {MAX_OPTIONS}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_taken_from_the_texts_or_made() {
        let texts = |of: &[&str]| of.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let options = ChoiceOptions::from_labelled(&texts(&["A. Apples.", "B) Candles"])).expect("labelled");
        assert_eq!(options.iter().collect::<Vec<_>>(), [('A', "Apples."), ('B', "Candles")]);
        assert_eq!((options.position_of(" Candles"), options.label(1)), (Some(1), Some('B')));
        let error = ChoiceOptions::from_labelled(&texts(&["A. x", "C. y"])).expect_err("B is missing").to_string();
        assert_eq!(error, "option `C. y` does not begin with `B.`");
        let error = ChoiceOptions::lettered(texts(&["x"])).expect_err("one option").to_string();
        assert_eq!(error, "1 options; expected 2 to 26");
        let many: Vec<String> = ('A'..='Z').map(|label| format!("{label}. x")).chain(["a. y".to_owned()]).collect();
        let error = ChoiceOptions::from_labelled(&many).expect_err("27 options").to_string();
        assert_eq!(error, "27 options; expected 2 to 26");
    }
}
