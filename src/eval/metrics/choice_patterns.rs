//! Patterns and words by which the parser of choices recognizes labels. Called by `choice`.

use std::sync::LazyLock;

use regex::Regex;

/// Compiles a pattern of this file.
fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

/// A stated choice, up to the label: words that announce it, a verb, the noun again, marks.
pub(super) static STATEMENT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:answer|i(?: would| will|'d|’d)? (?:choose|select|pick|go with)",
        r"|(?:correct|best|right|final|most \w+) (?:option|choice|letter|one|caption|sentence))",
        r"(?:\s+(?:for|to|here)(?:\s+\w+){0,3})?(?:\s+(?:is|was|be|would be|should be|to be|must be|will be))?\s*",
        r"(?:(?:the )?(?:correct |best )?(?:option|choice|letter|caption|sentence)\s*)?[:=\-–—>]*\s*(?:is\s+)?",
        r"[*_`$\x22'’“\\]*(?:boxed|text)?[*_(\[{]*\s*([A-Za-z0-9])",
    ))
});

/// A named option, up to the label.
pub(super) static NAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(r"(?i)\b(?:option|choice|caption|sentence|letter|statement)\s*[:#]?\s*[*_(\[\x22']*([A-Za-z0-9])\b")
});

/// A label at the end, after a mark that announces it.
pub(super) static END: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?:[(\[{:>→\n]|\bis|\bbe)\s*[*_`$\x22'(\[{]*([A-Z0-9])[)\]}*_`$\x22'.!\s]*$"));

/// A label in brackets.
pub(super) static BRACKETS: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"[(\[{]\s*([A-Za-z0-9])\s*[)\]}]"));

/// Text after a label that gives a reason or affirms it.
pub(super) static REASON: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)^\s+(?:because|since|based on|given that|as (?:the|it|this|he|she|they|we)\b|for the following",
        r"|is (?:the )?(?:most )?(?:correct|right|best|better|true|accurate|appropriate)|[-–—(])",
    ))
});

/// A second label in a list: `A or B`, `A, B`, `(A) and (C)`, `A or option B`.
pub(super) static SECOND: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(concat!(
        r"^[)\].]*\s*(?:,|/|&|\bor\b|\band\b|, and|, or)\s*",
        r"(?:(?i:option|choice|caption|sentence)\s+)?[(\[]?([A-Z0-9])(?:[)\].,\s]|$)",
    ))
});

/// A label before another one in a list, at the end of the text before that one.
pub(super) static BEFORE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(concat!(
        r"(?:^|[^A-Za-z0-9'’])([A-Z0-9])[)\].]*\s*(?:,|/|&|\bor\b|\band\b|, and|, or)\s*",
        r"(?:(?i:option|choice|caption|sentence)\s+)?[*(\[{]*$",
    ))
});

/// Text after a label that rejects it: `(A) is wrong`.
pub(super) static REJECTION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(r"(?i)^[)\].:*]*\s*(?:is|are|was|seems|can be|cannot be|can't be)\s+(?:not|wrong|incorrect|false|ruled)\b")
});

/// Words that turn a mentioned option into another statement.
pub(super) const NEGATIONS: [&str; 20] = [
    "not",
    "never",
    "no",
    "none",
    "neither",
    "nor",
    "without",
    "rather",
    "instead",
    "incorrect",
    "wrong",
    "unlike",
    "isnt",
    "arent",
    "doesnt",
    "dont",
    "didnt",
    "wasnt",
    "cannot",
    "cant",
];
