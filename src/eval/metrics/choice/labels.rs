//! Labels of options in an answer, and which of them it means. Called by the parser of choices.
//!
//! A letter is a label if what stands before it announces it and what stands after it closes it. Labels in a list are
//! meant together, and so are a label and the text of another option. A label that is negated or asked about is not
//! meant.

use std::collections::BTreeSet;

use regex::{Match, Regex};

use super::patterns::{
    AFFIRMED, ASKED, BOXED, BRACKETS, CONCLUDED, CONCLUSION, CONDITION, DENIAL, DESCRIBED, DOUBT, END, EXCLUSION, LINE,
    LIST, MARKED, NAME, NEGATED, NEXT_AFTER_SIGN, NEXT_AFTER_WORD, PLURAL, PRONOUN, Pattern, REASON, REJECTION,
    RETRACTION, STATEMENT, SYMBOL, THING, VERDICT, WRONG,
};
use super::texts::{after_words, choice_words, has};
use crate::eval::dataset::ChoiceOptions;

/// Number of bytes before a label that are searched for a negation.
const MAX_BEFORE: usize = 120;

/// Form of a label, which decides what may stand after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LabelForm {
    /// After words that announce it: a comma closes it as well.
    Announced,
    /// At the beginning of a line or after a pronoun, where a letter may be a word or a name.
    Plain,
    /// Closed by its pattern.
    Closed,
}

/// Labels of the statements of an answer.
#[derive(Debug, Default)]
pub(super) struct StatedLabels {
    /// Labels of statements that are said to be final.
    pub(super) last: BTreeSet<usize>,
    /// Labels of all statements.
    pub(super) all: BTreeSet<usize>,
}

/// An answer and the options that it chooses from.
pub(super) struct ChoiceAnswer<'a> {
    pub(super) text: &'a str,
    pub(super) options: &'a ChoiceOptions,
    /// Words of the options' texts.
    pub(super) words: Vec<Vec<String>>,
}

impl<'a> ChoiceAnswer<'a> {
    /// Makes an answer of a text with the marks of ASCII.
    pub(super) fn new(text: &'a str, options: &'a ChoiceOptions) -> Self {
        let words = options.texts().iter().map(|text| choice_words(text)).collect();
        Self { text, options, words }
    }

    /// Returns the label that is the whole answer.
    pub(super) fn alone(&self) -> Option<usize> {
        self.only_label(self.text)
    }

    /// Returns the label that is the whole of a text.
    fn only_label(&self, text: &str) -> Option<usize> {
        if text.ends_with(['+', '#', '%']) {
            return None;
        }
        let mut chars = text.trim_matches(|c: char| !c.is_alphanumeric()).chars();
        let label = chars.next().filter(|_| chars.next().is_none())?;
        self.index(label.to_ascii_uppercase())
    }

    /// Returns whether the first line is a label.
    pub(super) fn begins_with_label(&self) -> bool {
        self.text.split_once('\n').and_then(|(line, _)| self.only_label(line)).is_some()
    }

    /// Returns the labels that the answer states as its choice.
    pub(super) fn stated(&self) -> StatedLabels {
        let mut found = StatedLabels { last: self.meant(&BOXED, LabelForm::Announced), ..StatedLabels::default() };
        let forms = [
            (&STATEMENT, LabelForm::Announced),
            (&DESCRIBED, LabelForm::Plain),
            (&PRONOUN, LabelForm::Plain),
            (&AFFIRMED, LabelForm::Closed),
            (&RETRACTION, LabelForm::Plain),
        ];
        let mut latest = 0;
        for (pattern, form) in forms {
            for (start, label) in labels(pattern.as_ref(), self.text) {
                let (before, statement) = (self.before(start), &self.text[start..label.start()]);
                if [&WRONG, &CONDITION].into_iter().any(|pattern| is_match(pattern, before))
                    || is_match(&EXCLUSION, statement)
                {
                    continue;
                }
                let meant = self.meant_by(label, form);
                if !meant.is_empty() {
                    latest = latest.max(label.start());
                }
                if is_match(&CONCLUSION, before) || statement.to_ascii_lowercase().starts_with("final") {
                    found.last.extend(&meant);
                }
                found.all.extend(meant);
            }
        }
        // A conclusion that a statement follows is no final one.
        for (_, label) in labels(CONCLUDED.as_ref(), self.text) {
            let conclusions = if label.start() >= latest { &mut found.last } else { &mut found.all };
            conclusions.extend(self.meant_by(label, LabelForm::Plain));
        }
        found.all.extend(&found.last);
        found
    }

    /// Returns the labels with which lines begin, and the one with which the answer ends.
    pub(super) fn leading(&self) -> BTreeSet<usize> {
        let mut found = self.meant(&LINE, LabelForm::Plain);
        found.extend(self.meant(&END, LabelForm::Closed));
        found
    }

    /// Returns the labels in brackets, of named options, and before their option's text.
    pub(super) fn mentioned(&self) -> BTreeSet<usize> {
        let mut found = self.meant(&BRACKETS, LabelForm::Plain);
        found.extend(self.meant(&NAME, LabelForm::Announced));
        for (_, label) in labels(MARKED.as_ref(), self.text) {
            let index = label.as_str().chars().next().and_then(|label| self.index(label));
            if index.is_some_and(|index| self.after_text(&self.text[label.end()..], index).is_some()) {
                found.extend(self.meant_by(label, LabelForm::Plain));
            }
        }
        found
    }

    /// Returns whether the answer says that no option is right, and the option does not say so.
    pub(super) fn denies_all(&self, index: usize) -> bool {
        is_match(&DENIAL, self.text) && !is_match(&DENIAL, &self.options.texts()[index])
    }

    /// Returns whether the answer names another option, in whatever sense.
    pub(super) fn names_another(&self, index: usize) -> bool {
        let named = labels(BRACKETS.as_ref(), self.text).chain(labels(NAME.as_ref(), self.text));
        let mut indices = named.filter_map(|(_, label)| self.index(label.as_str().chars().next()?));
        indices.any(|other| other != index)
    }

    /// Returns the labels that a pattern finds and the answer means.
    fn meant(&self, pattern: &Pattern, form: LabelForm) -> BTreeSet<usize> {
        labels(pattern.as_ref(), self.text).flat_map(|(_, label)| self.meant_by(label, form)).collect()
    }

    /// Returns the labels that the answer means by a label: it and those in a list with it, or none of them.
    fn meant_by(&self, label: Match<'_>, form: LabelForm) -> Vec<usize> {
        let rest = &self.text[label.end()..];
        let Some((index, is_small)) = self.read_label(label.as_str(), rest, form) else { return Vec::new() };
        let (list, end) = self.list(index, rest, is_small);
        let end = list.last().and_then(|last| self.after_text(end, *last)).unwrap_or(end);
        let other = self.other_text(rest, index).or_else(|| self.other_text_before(label.start(), index));
        let last = list.last().copied().unwrap_or(index);
        let is_taken_back = other.is_none() && self.is_rejected(end, last) || is_match(&ASKED, end);
        let before = self.before(label.start());
        if is_taken_back || [&NEGATED, &DOUBT, &THING].into_iter().any(|pattern| is_match(pattern, before)) {
            return Vec::new();
        }
        match list.len() {
            1 if !self.is_closed(rest, index, form) => Vec::new(),
            1 => std::iter::once(index).chain(other).collect(),
            _ => list,
        }
    }

    /// Returns the option with a label.
    fn index(&self, label: char) -> Option<usize> {
        let label = full_width(label).unwrap_or(label);
        self.options.iter().position(|(known, _)| known == label)
    }

    /// Returns the option of a label and whether it is a small letter, which counts only if punctuation closes it.
    fn read_label(&self, label: &str, rest: &str, form: LabelForm) -> Option<(usize, bool)> {
        let label = label.chars().next()?;
        if !label.is_ascii_lowercase() {
            return Some((self.index(label)?, false));
        }
        let index = self.index(label.to_ascii_uppercase())?;
        let is_label = match form {
            LabelForm::Announced => !rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, ' ' | '\t' | '-')),
            LabelForm::Plain => {
                rest.starts_with(')') || rest.starts_with(['.', ':']) && self.after_text(rest, index).is_some()
            }
            LabelForm::Closed => true,
        };
        is_label.then_some((index, true))
    }

    /// Returns the labels of the list that begins with a label, and the text after it.
    fn list<'t>(&self, first: usize, rest: &'t str, is_small: bool) -> (Vec<usize>, &'t str) {
        let (mut found, mut rest) = (vec![first], rest);
        while found.len() <= self.options.len() {
            let last = found.last().copied().unwrap_or(first);
            let after = self.after_text(rest, last).unwrap_or(rest);
            let Some((index, end)) = self.next_label(after, is_small) else { break };
            found.push(index);
            rest = end;
        }
        (found, rest)
    }

    /// Returns the next label of a list, and the text after it.
    fn next_label<'t>(&self, rest: &'t str, is_small: bool) -> Option<(usize, &'t str)> {
        let find = |pattern: &Pattern, is_closed: &dyn Fn(&str, usize) -> bool| {
            let label = pattern.as_ref()?.captures(rest)?.get(1)?;
            let (name, end) = (label.as_str().chars().next()?, &rest[label.end()..]);
            let index = self.index(if is_small { name.to_ascii_uppercase() } else { name })?;
            let is_label = label.start() > 0 && !is_within_word(end) && is_closed(end, index);
            let is_rejected = self.is_rejected(end, index) && !is_match(&PLURAL, end);
            (is_label && !is_rejected).then_some((index, end))
        };
        let is_closed =
            |end: &str, index: usize| self.is_closed(end, index, LabelForm::Announced) || is_match(&LIST, end);
        find(&NEXT_AFTER_WORD, &|_, _| true).or_else(|| find(&NEXT_AFTER_SIGN, &is_closed))
    }

    /// Returns whether the text after a label rejects it, and is not the text of its option.
    fn is_rejected(&self, rest: &str, index: usize) -> bool {
        let verdict = VERDICT.as_ref().and_then(|verdict| verdict.captures(rest));
        let verdict = verdict.and_then(|found| found.get(1).or_else(|| found.get(2)));
        let is_own = |verdict: Match<'_>| has(&self.words[index], &choice_words(verdict.as_str()));
        is_match(&REJECTION, rest) || verdict.is_some_and(|verdict| !is_own(verdict))
    }

    /// Returns whether the text after a label closes it, so that the label is no word of a sentence.
    fn is_closed(&self, rest: &str, index: usize, form: LabelForm) -> bool {
        let continues = || self.after_text(rest, index).is_some() || is_match(&REASON, rest);
        let is_free = || form != LabelForm::Plain || !self.is_name(index) || begins_sentence(rest);
        match rest.chars().next() {
            None | Some('\n') => true,
            _ if is_match(&SYMBOL, rest) => continues(),
            Some(c) if c.is_whitespace() => {
                let next = rest.trim_start();
                next.is_empty() || continues() || next.starts_with(['-', '–', '—', '(']) && is_free()
            }
            Some('.') => true,
            Some(',') => form == LabelForm::Announced || continues(),
            Some('\'' | '-' | '–' | '—') => !is_within_word(rest) || continues(),
            Some(')' | ':' | ';') => is_free() || continues(),
            Some(c) => "]}*\"!`_$<\\".contains(c),
        }
    }

    /// Returns whether a label is a word of the options' texts, as EgoSchema's person `C`.
    fn is_name(&self, index: usize) -> bool {
        let label = self.options.label(index).map(|label| label.to_ascii_lowercase().to_string());
        self.words.iter().flatten().any(|word| Some(word) == label.as_ref())
    }

    /// Returns the text after that of an option, if a text begins with it.
    fn after_text<'t>(&self, rest: &'t str, index: usize) -> Option<&'t str> {
        after_words(rest, &self.words[index])
    }

    /// Returns another option, whose text is the line or the sentence after a label, or more of it than the label's own
    /// text.
    fn other_text(&self, rest: &str, index: usize) -> Option<usize> {
        let own = &self.words[index];
        if self.after_text(rest, index).is_some() {
            let is_longer = |other: &usize| self.words[*other].len() > own.len();
            return (0..self.words.len()).filter(is_longer).find(|&other| self.after_text(rest, other).is_some());
        }
        let longest = self.options.texts().iter().map(|text| text.len()).max()?;
        let line: String = rest.chars().take(2 * longest + 64).take_while(|c| *c != '\n').collect();
        let sentence = line.trim_start_matches(|c: char| !c.is_alphanumeric()).split(". ").next()?;
        let said = [choice_words(&line), choice_words(sentence)];
        self.words.iter().position(|words| !words.is_empty() && said.contains(words))
    }

    /// Returns another option, with whose text the line before a label ends: `blue (A)`.
    fn other_text_before(&self, start: usize, index: usize) -> Option<usize> {
        let line = self.before(start).rsplit('\n').next()?.trim_end_matches(|c: char| !c.is_alphanumeric());
        let words = choice_words(line.strip_suffix("option").unwrap_or(line));
        let is_before = |other: &usize| !self.words[*other].is_empty() && words.ends_with(&self.words[*other]);
        (0..self.words.len()).filter(is_before).max_by_key(|&other| self.words[other].len()).filter(|&at| at != index)
    }

    /// Returns the end of the text before a position.
    fn before(&self, end: usize) -> &str {
        let text = &self.text[..end];
        let start = (end.saturating_sub(MAX_BEFORE)..=end).find(|&start| text.is_char_boundary(start));
        &text[start.unwrap_or(end)..]
    }
}

/// Returns the labels that a pattern finds, each with the position where the match begins.
fn labels<'t>(pattern: Option<&'t Regex>, text: &'t str) -> impl Iterator<Item = (usize, Match<'t>)> {
    let found = pattern.into_iter().flat_map(move |pattern| pattern.captures_iter(text));
    found.filter_map(|found| Some((found.get(0)?.start(), found.get(1)?)))
}

/// Returns whether a pattern is found in a text.
fn is_match(pattern: &Pattern, text: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

/// Returns whether a word goes on after a letter: `C's`, `A-frame`.
fn is_within_word(rest: &str) -> bool {
    let mut chars = rest.chars();
    match chars.next() {
        Some('\'' | '-' | '–' | '—') => chars.next().is_some_and(char::is_alphabetic),
        first => first.is_some_and(char::is_alphanumeric),
    }
}

/// Returns whether the text after a label and its marks is empty, or begins with a capital letter or punctuation.
fn begins_sentence(rest: &str) -> bool {
    let rest = rest.trim_start_matches(|c: char| c.is_whitespace() || "):;-–—*(".contains(c));
    rest.chars().next().is_none_or(|c| c.is_uppercase() || !c.is_alphanumeric())
}

/// Returns the ASCII character of a full-width one.
pub(super) fn full_width(c: char) -> Option<char> {
    char::from_u32(u32::from(c).checked_sub(0xFEE0)?).filter(char::is_ascii_graphic)
}
