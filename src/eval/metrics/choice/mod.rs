//! The parser of multiple-choice answers: the option that a free text chooses.
//!
//! A label is meant if it stands in one of these forms; the first form that finds a label decides:
//!
//! 1. The answer is a label: `B`, `(b)`, `**B**`.
//! 2. A statement that is said to be final: `final answer: B`, `so it is B`, `therefore B`, `\boxed{B}`,
//!    `<answer>B</answer>`.
//! 3. A statement: `the answer is B`, `I choose (B)`, `it must be B`, `B is correct`.
//! 4. A label that begins a line, with a mark, its option's text or a reason after it: `B. Candles`, `B because ...`;
//!    or ends the answer: a last line or sentence `B`, `...: B`.
//! 5. A label in brackets, named or before its option's text: `(B)`, `option B`, `... B. Candles ...`.
//! 6. Without a label: the answer is an option's text, or has the text of one option and no negation.
//!
//! Nothing is guessed: an answer is not parsed, and counts as wrong, if its form finds several labels, among them those
//! in a list with a label (`B or C`) and a label before the text of another option; or if it begins with another label
//! than it states. A label that is negated (`not (B)`, `B is wrong`, `B. Wrong.`) or asked about is not meant, nor is a
//! letter that may be a word or a name (`A man`, EgoSchema's `C is cooking`, `A-frame`). Labels are capital letters or
//! digits; small letters count alone, in brackets, or before a mark. Text in `<think>` is ignored.
//!
//! `labels` reads labels, `texts` the texts of options; `patterns` are the words by which they are known.

mod labels;
mod patterns;
mod texts;

use std::collections::BTreeSet;

use self::labels::{ChoiceAnswer, full_width};
use super::text::without_thinking;
use crate::eval::dataset::ChoiceOptions;

/// Returns the index of the option that an answer chooses, or `None` for an answer that is not parsed.
pub fn parse_choice(answer: &str, options: &ChoiceOptions) -> Option<usize> {
    let text = with_ascii_marks(without_thinking(answer).trim());
    let answer = ChoiceAnswer::new(&text, options);
    if let Some(index) = answer.alone() {
        return Some(index);
    }
    let mut stated = answer.stated();
    if !stated.last.is_empty() {
        return only(&stated.last);
    }
    let leading = answer.leading();
    if !stated.all.is_empty() {
        if answer.begins_with_label() {
            stated.all.extend(&leading);
        }
        return only(&stated.all).filter(|index| only(&leading).is_none_or(|first| first == *index));
    }
    let labels = if leading.is_empty() { answer.mentioned() } else { leading };
    let chosen = if labels.is_empty() { answer.by_text() } else { only(&labels) };
    chosen.filter(|index| !answer.denies_all(*index))
}

/// Returns the only element of a set.
fn only(indices: &BTreeSet<usize>) -> Option<usize> {
    indices.first().copied().filter(|_| indices.len() == 1)
}

/// Replaces curly quotes, full-width punctuation and the marks of Chinese and Japanese by those of ASCII.
fn with_ascii_marks(text: &str) -> String {
    let ascii = |c: char| match c {
        '。' => '.',
        '、' => ',',
        '【' | '「' => '[',
        '】' | '」' => ']',
        '‘' | '’' | '‚' | '′' => '\'',
        '“' | '”' | '„' | '«' | '»' => '"',
        '\u{a0}' | '\u{3000}' => ' ',
        c if c.is_alphanumeric() => c,
        c => full_width(c).unwrap_or(c),
    };
    text.chars().map(ascii).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(answer: &str, options: &[&str]) -> Option<char> {
        let options = ChoiceOptions::lettered(options.iter().map(|&text| text.to_owned()).collect()).expect("options");
        parse_choice(answer, &options).and_then(|index| options.label(index))
    }

    #[test]
    fn an_article_or_a_person_called_c_is_no_label() {
        let options = ["a man runs", "a dog", "doing laundry", "cooking"];
        assert_eq!(parse("A woman walks into the room.", &options), None);
        assert_eq!(parse("C is walking in the garden.", &options), None);
        assert_eq!(parse("C is cooking.", &options), Some('D'));
        assert_eq!(parse("I see vitamin C there", &options), None);
    }

    #[test]
    fn several_labels_are_not_guessed() {
        let options = ["red", "blue", "green"];
        for answer in [
            "A or B",
            "(A) and (C)",
            "Either (A) or (B).",
            "The answer is A or B.",
            "",
            "?",
            "D",
            "Z.",
            "(A) is wrong.",
        ] {
            assert_eq!(parse(answer, &options), None, "{answer}");
        }
        assert_eq!(parse("(A) is wrong and (B) too, so the answer is (C)", &options), Some('C'));
    }

    #[test]
    fn labels_of_unusual_forms_are_read() {
        let options = ["red", "blue", "green", "None of the above"];
        for (answer, expected) in [
            ("Option (B)", Some('B')),
            ("answer: option c", Some('C')),
            ("The correct answer is: B) blue", Some('B')),
            ("(C", Some('C')),
            ("（B）", Some('B')),
            ("Ｂ", Some('B')),
            ("B。", Some('B')),
            ("B：blue", Some('B')),
            ("I think it is （C）。", Some('C')),
            ("None of the above.", Some('D')),
            ("A. red B. blue C. green D. None of the above", None),
            ("A. red\nB. blue\nC. green\nD. None of the above\nThe answer is B.", Some('B')),
            ("A and B", None),
            ("I cannot tell", None),
            ("E", None),
            ("The answer is E.", None),
        ] {
            assert_eq!(parse(answer, &options), expected, "{answer}");
        }
    }

    #[test]
    fn text_counts_if_one_option_is_meant() {
        let options = ["cup", "red cup", "not moving"];
        assert_eq!(parse("It is a red cup.", &options), Some('B'));
        assert_eq!(parse("It is not a cup.", &options), None);
        assert_eq!(parse("The thing is not moving.", &options), Some('C'));
        assert_eq!(parse("There are two.", &["1", "2", "3"]), Some('B'));
        assert_eq!(parse("2 of 3 people", &["2", "4"]), None);
    }
}
