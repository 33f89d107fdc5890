//! Option that a judge chooses in words: the verdict of a judge of captions, as TempCompass asks for it.
//!
//! The last line `Answer: ...` counts, or the whole reply without one. It chooses an option if it begins with a label
//! (`B. text`, or `B` alone) and has no other; several labels, and `None of the choices are correct`, choose no option.
//! Everything else is not understood.

/// Labels of options.
const LABELS: std::ops::RangeInclusive<char> = 'A'..='D';
/// Beginning of the line of the answer.
const ANSWER_LINE: &str = "Answer:";
/// Beginning of an answer that no option is right.
const NO_OPTION: &str = "none of the";

/// Choice of a judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChosenOption {
    /// The option with this label.
    Label(char),
    /// No option, or several.
    NoneOrSeveral,
}

/// Returns the choice of a reply; `None` for a reply that is not understood.
pub(super) fn chosen_option(reply: &str) -> Option<ChosenOption> {
    let line = reply.lines().rev().find_map(|line| line.trim_start_matches([' ', '*']).strip_prefix(ANSWER_LINE));
    let answer = line.unwrap_or(reply);
    // Quotation marks and Markdown around a word are no part of it.
    let words = answer.split_whitespace().map(|word| word.trim_start_matches(|c: char| !c.is_alphanumeric()));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let labels: Vec<Option<char>> = words.iter().map(|word| label_of(word)).collect();
    let alone = words.first().filter(|_| words.len() == 1).and_then(|word| bare_label(word));
    match (labels.iter().flatten().count(), labels.first()?) {
        (2.., _) => Some(ChosenOption::NoneOrSeveral),
        (1, Some(label)) => Some(ChosenOption::Label(*label)),
        (0, _) if alone.is_some() => alone.map(ChosenOption::Label),
        (0, _) if words.join(" ").to_ascii_lowercase().starts_with(NO_OPTION) => Some(ChosenOption::NoneOrSeveral),
        _ => None,
    }
}

/// Returns the label with which an option begins: that of `B. text` is `B`.
pub(super) fn label_of(option: &str) -> Option<char> {
    let (label, _) = option.trim_start().split_once('.')?;
    bare_label(label)
}

fn bare_label(text: &str) -> Option<char> {
    let mut letters = text.chars();
    letters.next().filter(|label| LABELS.contains(label) && letters.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_chosen_by_its_label_at_the_beginning() {
        let label = |label| Some(ChosenOption::Label(label));
        let no_option = Some(ChosenOption::NoneOrSeveral);
        for (reply, expected) in [
            ("Reasoning: It mentions A. and C.\nAnswer: B. dunking a basketball", label('B')),
            ("**Answer:** \"C. clockwise\"", label('C')),
            ("D. upward", label('D')),
            ("Answer: A", label('A')),
            ("Answer: A. no\nAnswer: B. yes", label('B')),
            ("Answer: None of the choices are correct", no_option),
            ("Answer: B. dribbling, C. passing", no_option),
            ("Answer: A man runs", None),
            ("Answer: All of the choices are correct", None),
            ("Answer: Option D. upward", None),
            ("Answer: E. other", None),
            ("Answer:", None),
            ("", None),
        ] {
            assert_eq!(chosen_option(reply), expected, "{reply}");
        }
        assert_eq!((label_of("B. x. y"), label_of("Bx. y"), label_of("B")), (Some('B'), None, None));
    }
}
