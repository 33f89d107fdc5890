//! The parser of multiple-choice answers: the option that a free text chooses.
//!
//! Rules in order; the first that finds a label decides. A rule that finds several different labels where it allows one
//! ends the search: an answer is never guessed, and an unparsed answer counts as wrong.
//!
//! 1. The answer is a label: `B`, `(b)`, `**B**`.
//! 2. It states a choice: `the answer is B`, `I choose (B)`, `correct option: B`; the last statement counts.
//! 3. It begins with a label that punctuation, the option's text or a reason closes: `B. Candles`, `B because ...`; not
//!    `A man ...`, nor `C is cooking`, nor `(A) is wrong`.
//! 4. It ends in a label: a last line `B`, or `... is B`, `... (B)`, `\boxed{B}`.
//! 5. One label is in brackets: `(B)`; or named: `option B`, `Caption 2`.
//! 6. One label stands before its option's text: `... B. Candles ...`.
//! 7. The normalised answer is an option's text, or has the text of one option and no negation.
//!
//! The order is that of lmms-eval's `extract_mcq_answer` (start, end and phrase before brackets before content) but for
//! a stated choice, which goes before the beginning, and without its fallback to any letter of the text. Text before a
//! last `</think>` is ignored. Labels are capital letters or digits; small letters count alone, in brackets or named. An
//! answer that quotes all options does not begin with its choice.

use std::collections::HashSet;

use regex::Regex;

use super::choice_patterns::{BEFORE, BRACKETS, END, NAME, NEGATIONS, REASON, REJECTION, SECOND, STATEMENT};
use super::text::normalized_words;
use crate::eval::dataset::ChoiceOptions;

/// Outcome of one rule.
enum RuleOutcome {
    /// No label: the next rule is asked.
    Nothing,
    /// One label, by the index of its option.
    Chosen(usize),
    /// Several labels: the answer is not parsed.
    Ambiguous,
}

/// An answer and the options that it chooses from.
struct ChoiceAnswer<'a> {
    text: &'a str,
    options: &'a ChoiceOptions,
}

/// Returns the index of the option that an answer chooses, or `None` for an answer that is not parsed.
pub fn parse_choice(answer: &str, options: &ChoiceOptions) -> Option<usize> {
    const RULES: [fn(&ChoiceAnswer<'_>) -> RuleOutcome; 8] = [
        |answer| answer.alone(),
        |answer| answer.last_statement(),
        |answer| answer.at_start(),
        |answer| answer.at_end(),
        |answer| answer.in_brackets(),
        |answer| answer.named(),
        |answer| answer.before_its_text(),
        |answer| answer.by_text(),
    ];
    let text = with_ascii_marks(answer.rsplit("</think>").next().unwrap_or(answer).trim());
    let answer = ChoiceAnswer { text: &text, options };
    for rule in RULES {
        match rule(&answer) {
            RuleOutcome::Nothing => {}
            RuleOutcome::Chosen(index) => return Some(index),
            RuleOutcome::Ambiguous => return None,
        }
    }
    None
}

impl ChoiceAnswer<'_> {
    /// Returns the option with a label; small letters count if `is_marked`.
    fn index(&self, label: char, is_marked: bool) -> Option<usize> {
        let label = full_width(label).unwrap_or(label);
        let label = if is_marked { label.to_ascii_uppercase() } else { label };
        self.options.iter().position(|(known, _)| known == label)
    }

    /// Returns whether the rest of the text begins with the text of an option.
    fn begins_with_option(&self, rest: &str, index: usize) -> bool {
        let option = normalized_words(&self.options.texts()[index]);
        // As much of the rest as the option's words can take, so that long answers are not read again at each label.
        let begin: String = rest.chars().take(2 * self.options.texts()[index].len() + 64).collect();
        let rest: Vec<String> = normalized_words(&begin).into_iter().take(option.len()).collect();
        !option.is_empty() && rest == option
    }

    /// Returns whether the text after a label closes it, so that the label is no word of a sentence.
    fn is_closed(&self, rest: &str, index: usize) -> bool {
        let mut chars = rest.chars();
        match chars.next() {
            None | Some('\n') => true,
            Some('\'' | '’') => !chars.next().is_some_and(char::is_alphabetic),
            Some('.' | ')' | ',' | ':' | ';' | ']' | '}' | '*' | '"' | '”' | '!' | '?' | '`' | '_' | '$' | '<') => {
                true
            }
            Some(c) if c.is_whitespace() => {
                rest.trim().is_empty()
                    || self.begins_with_option(rest, index)
                    || REASON.as_ref().is_some_and(|reason| reason.is_match(rest))
            }
            Some('-' | '–' | '—') => true,
            Some(_) => false,
        }
    }

    /// Returns whether a list of labels goes on after the label of an option.
    fn is_list(&self, rest: &str, index: usize) -> bool {
        let second = SECOND.as_ref().and_then(|second| second.captures(rest)).and_then(|found| found.get(1));
        let label = second.and_then(|label| label.as_str().chars().next());
        label.and_then(|label| self.index(label, false)).is_some_and(|other| other != index)
    }

    /// Rule 1.
    fn alone(&self) -> RuleOutcome {
        let mut chars = self.text.trim_matches(|c: char| !c.is_alphanumeric()).chars();
        match (chars.next(), chars.next()) {
            (Some(label), None) => self.index(label, true).map_or(RuleOutcome::Nothing, RuleOutcome::Chosen),
            _ => RuleOutcome::Nothing,
        }
    }

    /// Rule 2.
    fn last_statement(&self) -> RuleOutcome {
        let mut last = RuleOutcome::Nothing;
        for found in STATEMENT.iter().flat_map(|statement| statement.captures_iter(self.text)) {
            let Some(label) = found.get(1) else { continue };
            let rest = &self.text[label.end()..];
            let index = label.as_str().chars().next().and_then(|c| self.index(c, rest.starts_with([')', ']', '}'])));
            match index {
                Some(index) if self.is_list(rest, index) => last = RuleOutcome::Ambiguous,
                Some(index) if self.is_closed(rest, index) => last = RuleOutcome::Chosen(index),
                _ => {}
            }
        }
        last
    }

    /// Rule 3.
    fn at_start(&self) -> RuleOutcome {
        let text = self.text.trim_start_matches(|c: char| !c.is_alphanumeric());
        let Some(label) = text.chars().next() else { return RuleOutcome::Nothing };
        let rest = &text[label.len_utf8()..];
        match self.index(label, rest.starts_with(')')) {
            Some(_) if is_rejected(rest) || self.quotes_all() => RuleOutcome::Nothing,
            Some(index) if self.is_list(rest, index) => RuleOutcome::Ambiguous,
            Some(index) if self.is_closed(rest, index) => RuleOutcome::Chosen(index),
            _ => RuleOutcome::Nothing,
        }
    }

    /// Rule 4.
    fn at_end(&self) -> RuleOutcome {
        let label = END.as_ref().and_then(|end| end.captures(self.text)).and_then(|found| found.get(1));
        let Some(label) = label else { return RuleOutcome::Nothing };
        let Some(index) = label.as_str().chars().next().and_then(|label| self.index(label, false)) else {
            return RuleOutcome::Nothing;
        };
        let before = BEFORE.as_ref().and_then(|before| before.captures(&self.text[..label.start()]));
        let other = before.and_then(|found| found.get(1)?.as_str().chars().next());
        match other.and_then(|label| self.index(label, false)) {
            Some(other) if other != index => RuleOutcome::Ambiguous,
            _ => RuleOutcome::Chosen(index),
        }
    }

    /// Rule 5, brackets.
    fn in_brackets(&self) -> RuleOutcome {
        self.only(BRACKETS.as_ref(), |_, _| true, true)
    }

    /// Rule 5, names.
    fn named(&self) -> RuleOutcome {
        self.only(NAME.as_ref(), |rest, index| self.is_closed(rest, index), true)
    }

    /// Returns the only label that a pattern finds and `is_closed` accepts; a list of labels has no only one.
    fn only(&self, pattern: Option<&Regex>, is_closed: impl Fn(&str, usize) -> bool, is_marked: bool) -> RuleOutcome {
        let mut chosen = Vec::new();
        for found in pattern.into_iter().flat_map(|pattern| pattern.captures_iter(self.text)) {
            let Some(label) = found.get(1) else { continue };
            let index = label.as_str().chars().next().and_then(|c| self.index(c, is_marked));
            let rest = &self.text[label.end()..];
            match index {
                Some(_) if is_rejected(rest) => {}
                Some(index) if self.is_list(rest, index) => return RuleOutcome::Ambiguous,
                Some(index) if is_closed(rest, index) => chosen.push(index),
                _ => {}
            }
        }
        one_of(chosen.into_iter())
    }

    /// Rule 6.
    fn before_its_text(&self) -> RuleOutcome {
        one_of(self.before_their_texts())
    }

    /// Returns whether every option stands in the answer, its label before its text: such a list chooses no option.
    fn quotes_all(&self) -> bool {
        self.before_their_texts().collect::<HashSet<_>>().len() == self.options.len()
    }

    /// Returns the options whose label stands before their text, in the order of the answer.
    fn before_their_texts(&self) -> impl Iterator<Item = usize> {
        let starts = self.text.char_indices().filter(|(at, _)| {
            self.text[..*at].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != '\'')
        });
        starts.filter_map(|(at, label)| {
            let index = self.index(label, false)?;
            let rest = self.text[at + label.len_utf8()..].strip_prefix(['.', ')', ':'])?;
            self.begins_with_option(rest, index).then_some(index)
        })
    }

    /// Rule 7.
    fn by_text(&self) -> RuleOutcome {
        let answer = with_digits(normalized_words(self.text));
        let options: Vec<Vec<String>> =
            self.options.texts().iter().map(|text| with_digits(normalized_words(text))).collect();
        let equal = one_of(options.iter().enumerate().filter(|(_, option)| **option == answer).map(|(i, _)| i));
        if !matches!(equal, RuleOutcome::Nothing) {
            return equal;
        }
        let is_yes_or_no = |option: &[String]| matches!(option, [word] if word == "yes" || word == "no");
        let is_in = |option: &[String]| match option {
            [] => false,
            option if is_yes_or_no(option) => answer.first() == option.first(),
            option => answer.windows(option.len()).any(|words| words == option),
        };
        let found: Vec<usize> = (0..options.len()).filter(|&i| is_in(&options[i])).collect();
        // An option within another one that is mentioned, such as `cup` in `red cup`, is not the one that is meant.
        let is_within = |i: usize, j: usize| {
            options[j].len() > options[i].len() && options[j].windows(options[i].len()).any(|words| words == options[i])
        };
        let meant: Vec<usize> = found.iter().copied().filter(|&i| !found.iter().any(|&j| is_within(i, j))).collect();
        let [index] = meant[..] else {
            return if meant.is_empty() { RuleOutcome::Nothing } else { RuleOutcome::Ambiguous };
        };
        let n_negations = |words: &[String]| words.iter().filter(|word| NEGATIONS.contains(&word.as_str())).count();
        let numbers = |words: &[String]| words.iter().filter(|word| word.parse::<f64>().is_ok()).count();
        let is_number = options[index].iter().all(|word| word.parse::<f64>().is_ok());
        if !is_yes_or_no(&options[index]) && n_negations(&answer) > n_negations(&options[index])
            || is_number && numbers(&answer) > 1
        {
            return RuleOutcome::Ambiguous;
        }
        RuleOutcome::Chosen(index)
    }
}

/// Returns whether the text after a label rejects it.
fn is_rejected(rest: &str) -> bool {
    REJECTION.as_ref().is_some_and(|rejection| rejection.is_match(rest))
}

/// Replaces full-width punctuation and the marks of Chinese and Japanese by those of ASCII.
fn with_ascii_marks(text: &str) -> String {
    let ascii = |c: char| match c {
        '。' => '.',
        '、' => ',',
        '【' => '[',
        '】' => ']',
        c if c.is_alphanumeric() => c,
        c => full_width(c).unwrap_or(c),
    };
    text.chars().map(ascii).collect()
}

/// Returns the ASCII character of a full-width one.
fn full_width(c: char) -> Option<char> {
    char::from_u32(u32::from(c).checked_sub(0xFEE0)?).filter(char::is_ascii_graphic)
}

/// Returns the index if all are equal.
fn one_of(mut indices: impl Iterator<Item = usize>) -> RuleOutcome {
    match indices.next() {
        None => RuleOutcome::Nothing,
        Some(first) if indices.all(|index| index == first) => RuleOutcome::Chosen(first),
        Some(_) => RuleOutcome::Ambiguous,
    }
}

/// Replaces the words for small numbers by digits.
fn with_digits(words: Vec<String>) -> Vec<String> {
    const NUMBERS: [&str; 11] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let digit = |word: String| match NUMBERS.iter().position(|number| *number == word) {
        Some(number) => number.to_string(),
        None => word,
    };
    words.into_iter().map(digit).collect()
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
