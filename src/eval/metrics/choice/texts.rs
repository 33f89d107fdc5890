//! Texts of options in an answer: the option that an answer without a label chooses. Called by the parser of choices.

use std::collections::BTreeSet;

use super::labels::ChoiceAnswer;
use super::patterns::LATEX;
use crate::eval::metrics::text::normalized_words;

/// Words that turn an option's text into another statement.
const NEGATIONS: [&str; 46] = [
    "if",
    "unless",
    "not",
    "never",
    "no",
    "none",
    "neither",
    "nor",
    "nothing",
    "nobody",
    "without",
    "rather",
    "instead",
    "incorrect",
    "wrong",
    "false",
    "ruled",
    "excluded",
    "eliminated",
    "rejected",
    "impossible",
    "doubt",
    "whether",
    "unlike",
    "except",
    "excluding",
    "than",
    "isnt",
    "arent",
    "doesnt",
    "dont",
    "didnt",
    "wasnt",
    "werent",
    "cannot",
    "cant",
    "couldnt",
    "wouldnt",
    "shouldnt",
    "wont",
    "hasnt",
    "havent",
    "hadnt",
    "aint",
    "mustnt",
    "neednt",
];

/// Words before `but` that make it an exception.
const ALL: [&str; 4] = ["all", "any", "anything", "everything"];

/// Number of bytes that marks may add to an option's text where no white space ends it.
const MAX_MARKS: usize = 64;

/// Number of articles and marks that may stand before an option's text.
const MAX_SKIPPED: usize = 4;

/// Returns the normalised words of a text, with digits for the words of small numbers; signs and decimal points of
/// numbers are kept as words.
pub(super) fn choice_words(text: &str) -> Vec<String> {
    const NUMBERS: [&str; 11] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let digit = |word: String| match NUMBERS.iter().position(|number| *number == word) {
        Some(number) => number.to_string(),
        None => word,
    };
    normalized_words(&with_spelled_signs(text)).into_iter().map(digit).collect()
}

/// Writes decimal points as `point` and signs of numbers as `minus`, which the normalisation would remove.
fn with_spelled_signs(text: &str) -> String {
    let mut spelled = String::with_capacity(text.len());
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let is_before_digit = chars.peek().is_some_and(char::is_ascii_digit);
        match c {
            '.' if is_before_digit && before.is_ascii_digit() => spelled.push_str("point"),
            '-' | '−' if is_before_digit && !before.is_alphanumeric() => spelled.push_str("minus"),
            c => spelled.push(c),
        }
        before = c;
    }
    spelled
}

/// Returns the rest of a text after some words, if it begins with them.
pub(super) fn after_words<'t>(text: &'t str, words: &[String]) -> Option<&'t str> {
    let mut left = words;
    let mut at = 0;
    // Articles and marks are skipped, but not without end.
    for _ in 0..2 * words.len() + MAX_SKIPPED {
        if left.is_empty() {
            break;
        }
        let start = at + text[at..].find(|c: char| !c.is_whitespace())?;
        // Numbers may be spelled out and marks added, but a text without white space is not read to its end.
        let most = 4 * left.iter().map(String::len).sum::<usize>() + MAX_MARKS;
        let mut chars = text[start..].char_indices();
        let end = chars.find(|(n, c)| c.is_whitespace() || *n >= most).map_or(text.len(), |(n, _)| start + n);
        let chunk = &text[start..end];
        for word in choice_words(chunk) {
            left = left.split_first().filter(|(first, _)| **first == word)?.1;
        }
        let n_marks = chunk.len() - chunk.trim_end_matches(|c: char| !c.is_alphanumeric()).len();
        at = if left.is_empty() { end - n_marks } else { end };
    }
    (!words.is_empty() && left.is_empty()).then(|| &text[at..])
}

/// Returns whether a list of words has another one within it.
pub(super) fn has(words: &[String], part: &[String]) -> bool {
    !part.is_empty() && words.windows(part.len()).any(|window| window == part)
}

/// Returns the number of negations among words.
fn n_negations(words: &[String]) -> usize {
    let n_words = words.iter().filter(|word| NEGATIONS.contains(&word.as_str())).count();
    let is_exception = |pair: &&[String]| ALL.contains(&pair[0].as_str()) && pair[1] == "but";
    n_words + words.windows(2).filter(is_exception).count()
}

impl ChoiceAnswer<'_> {
    /// Returns the only option whose text is the answer, or that stands in the answer without a negation.
    pub(super) fn by_text(&self) -> Option<usize> {
        let answer = match LATEX.as_ref() {
            Some(latex) => choice_words(&latex.replace_all(self.text, " ")),
            None => choice_words(self.text),
        };
        let equal: BTreeSet<usize> =
            (0..self.words.len()).filter(|&i| !answer.is_empty() && self.words[i] == answer).collect();
        if !equal.is_empty() {
            return super::only(&equal);
        }
        let found: Vec<usize> = (0..self.words.len()).filter(|&i| is_in(&self.words[i], &answer)).collect();
        // An option within another one that is mentioned, such as `cup` in `red cup`, is not the one that is meant.
        let is_within =
            |i: usize, j: usize| self.words[j].len() > self.words[i].len() && has(&self.words[j], &self.words[i]);
        let meant = found.iter().copied().filter(|&i| !found.iter().any(|&j| is_within(i, j))).collect();
        let chosen = super::only(&meant).filter(|&index| is_plain(&self.words[index], &answer));
        chosen.filter(|&index| !self.names_another(index))
    }
}

/// Returns whether an option is `yes` or `no`, which count as the first word only.
fn is_yes_or_no(option: &[String]) -> bool {
    matches!(option, [word] if word == "yes" || word == "no")
}

/// Returns whether an option's text stands in an answer. A letter, such as the pronoun `I`, is no mention.
fn is_in(option: &[String], answer: &[String]) -> bool {
    match option {
        option if is_yes_or_no(option) => answer.first() == option.first(),
        [word] if word.len() == 1 && !word.starts_with(|c: char| c.is_ascii_digit()) => false,
        option => has(answer, option),
    }
}

/// Returns whether an answer says no more than an option: no further negation, and no other number.
fn is_plain(option: &[String], answer: &[String]) -> bool {
    let is_number = |word: &String| word.trim_start_matches("minus").starts_with(|c: char| c.is_ascii_digit());
    let n_numbers = answer.iter().filter(|word| is_number(word)).count();
    let is_affirmed = is_yes_or_no(option) || n_negations(answer) <= n_negations(option);
    is_affirmed && !(option.iter().all(is_number) && n_numbers > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_after_an_option_is_found_without_reading_far() {
        let words = choice_words("a red car");
        assert_eq!(after_words(". A RED car), or", &words), Some("), or"));
        assert_eq!(after_words("red cars", &words), None);
        assert_eq!(after_words(&format!("{} red car", "a ".repeat(4)), &words), Some(""));
        assert_eq!(after_words(&format!("{} red car", "a ".repeat(100)), &words), None);
        assert_eq!(after_words(&format!("red{} car", "-".repeat(40)), &words), Some(""));
        assert_eq!(after_words(&format!("red{} car", "-".repeat(4000)), &words), None);
    }

    #[test]
    fn numbers_keep_their_signs_and_points() {
        assert_eq!(choice_words("two of -2.5, or 1,000."), ["2", "of", "minus2point5", "or", "1000"]);
    }
}
