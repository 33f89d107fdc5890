//! The parser of answers to questions of yes or no.

use super::text::{normalized_words, without_thinking};

/// Returns whether an answer says yes (`true`) or no, or `None` for an answer that is not parsed: the first word, else
/// the only one of the two words in the answer.
pub fn parse_yes_or_no(answer: &str) -> Option<bool> {
    let words = normalized_words(without_thinking(answer));
    let of = |word: &String| match word.as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    };
    if let Some(first) = words.first().and_then(of) {
        return Some(first);
    }
    let mut said = words.iter().filter_map(of);
    let first = said.next()?;
    said.all(|next| next == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_and_no_are_read_from_words() {
        for (answer, expected) in [
            ("Yes, the man is dunking.", Some(true)),
            ("no", Some(false)),
            ("The answer is no.", Some(false)),
            ("Nothing happens.", None),
            ("It is yes or no", None),
            ("<think>no</think>Yes", Some(true)),
            ("<think>no, or", None),
        ] {
            assert_eq!(parse_yes_or_no(answer), expected, "{answer}");
        }
    }
}
