//! Metrics of open answers that need no judge: exact match, normalised match, token F1.
//!
//! The normalisation is that of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250, section 5): lower case, punctuation
//! removed, the articles `a`, `an` and `the` removed, white space collapsed. Called by [`Measure`](super::Measure).

use std::collections::HashMap;

/// Ends of the tags around a text of thought.
const THOUGHT_ENDS: [&str; 2] = ["</think>", "</thinking>"];

/// Beginnings of the tags around a text of thought.
const THOUGHT_STARTS: [&str; 2] = ["<think>", "<thinking>"];

/// Articles that the normalisation removes.
const ARTICLES: [&str; 3] = ["a", "an", "the"];

/// Returns the normalised words of a text.
pub fn normalized_words(text: &str) -> Vec<String> {
    let is_kept = |c: &char| c.is_alphanumeric() || c.is_whitespace();
    let plain: String = text.to_lowercase().chars().filter(is_kept).collect();
    plain.split_whitespace().filter(|word| !ARTICLES.contains(word)).map(str::to_owned).collect()
}

/// Returns an answer without the thoughts before it, and without a thought that is not closed.
pub(super) fn without_thinking(answer: &str) -> &str {
    let end = THOUGHT_ENDS.iter().filter_map(|tag| Some(answer.rfind(tag)? + tag.len())).max();
    let said = &answer[end.unwrap_or(0)..];
    let start = THOUGHT_STARTS.iter().filter_map(|tag| said.find(tag)).min();
    &said[..start.unwrap_or(said.len())]
}

/// Returns whether an answer equals a reference; white space at both ends is ignored.
pub fn is_exact_match(answer: &str, reference: &str) -> bool {
    answer.trim() == reference.trim()
}

/// Returns whether the normalised words of an answer equal those of a reference. An answer without a word matches
/// nothing.
pub fn is_normalized_match(answer: &str, reference: &str) -> bool {
    let words = normalized_words(answer);
    !words.is_empty() && words == normalized_words(reference)
}

/// Returns the F1 of the normalised words of an answer, as multisets: `2 p r / (p + r)`, with the precision `p` and the
/// recall `r` of the words that the answer shares with the reference; 0 without a shared word.
pub fn token_f1(answer: &str, reference: &str) -> f64 {
    let (answer, reference) = (normalized_words(answer), normalized_words(reference));
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &reference {
        *left.entry(word).or_default() += 1;
    }
    let mut n_shared = 0;
    for word in &answer {
        if let Some(n) = left.get_mut(word.as_str()).filter(|n| **n > 0) {
            *n -= 1;
            n_shared += 1;
        }
    }
    if n_shared == 0 {
        return 0.0;
    }
    2.0 * f64::from(n_shared) / (answer.len() + reference.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normalisation_removes_case_punctuation_and_articles() {
        assert_eq!(normalized_words(" The man's  RED-hat, a\n hat."), ["mans", "redhat", "hat"]);
        assert!(is_normalized_match("A dog.", "the Dog") && !is_normalized_match("dogs", "dog"));
        assert!(!is_normalized_match("the", "") && !is_exact_match("Dog", "dog") && is_exact_match(" dog\n", "dog"));
    }

    #[test]
    fn token_f1_agrees_with_values_worked_out_by_hand() {
        // Two of three words are shared with two: precision 2/3, recall 1.
        assert!((token_f1("a red big car", "red car") - 0.8).abs() < 1e-12);
        // A repeated word counts as often as the reference has it: precision 1/2, recall 1.
        assert!((token_f1("no no", "no") - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!((token_f1("", ""), token_f1("cat", "dog"), token_f1("cat", "Cat!")), (0.0, 0.0, 1.0));
    }
}
