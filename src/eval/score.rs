//! Exact-match scores, overall and by type of question.

use std::collections::BTreeMap;

/// Score of one type of question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExactMatchScore {
    /// Number of exact matches.
    pub right: usize,
    /// Number of questions.
    pub total: usize,
    /// Number of questions by reference answer.
    references: BTreeMap<String, usize>,
}

impl ExactMatchScore {
    /// Counts an answer; white space at both ends is ignored.
    pub fn add(&mut self, reference: &str, answer: &str) {
        self.add_unanswered(reference);
        self.right += usize::from(reference.trim() == answer.trim());
    }

    /// Counts a question without an answer.
    fn add_unanswered(&mut self, reference: &str) {
        self.total += 1;
        *self.references.entry(reference.trim().to_owned()).or_default() += 1;
    }

    /// Returns the fraction of exact matches.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.total.max(1) as f64
    }

    /// Returns the accuracy of always giving the most frequent reference answer.
    pub fn chance(&self) -> f64 {
        self.references.values().max().copied().unwrap_or_default() as f64 / self.total.max(1) as f64
    }

    /// Returns the 95 % confidence interval of the accuracy.
    pub fn interval(&self) -> (f64, f64) {
        wilson(self.right, self.total)
    }
}

/// Scores by type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExactMatchScores {
    by_type: BTreeMap<String, ExactMatchScore>,
}

impl ExactMatchScores {
    /// Counts an answer.
    pub fn add(&mut self, kind: &str, reference: &str, answer: &str) {
        self.by_type.entry(kind.to_owned()).or_default().add(reference, answer);
    }

    /// Counts a question without an answer as wrong.
    pub(crate) fn add_unanswered(&mut self, kind: &str, reference: &str) {
        self.by_type.entry(kind.to_owned()).or_default().add_unanswered(reference);
    }

    /// Returns the scores by type, in the order of the types' names.
    pub fn by_type(&self) -> impl Iterator<Item = (&str, &ExactMatchScore)> {
        self.by_type.iter().map(|(kind, score)| (kind.as_str(), score))
    }

    /// Returns the score over all types, and the accuracy of always giving the most frequent answer of each type.
    pub fn overall(&self) -> (ExactMatchScore, f64) {
        let sum = |count: fn(&ExactMatchScore) -> usize| self.by_type.values().map(count).sum();
        let total: usize = sum(|score| score.total);
        let by_chance: f64 = self.by_type.values().map(|score| score.chance() * score.total as f64).sum();
        let score = ExactMatchScore { right: sum(|score| score.right), total, references: BTreeMap::new() };
        (score, by_chance / total.max(1) as f64)
    }
}

/// Returns Wilson's 95 % confidence interval of a proportion (Wilson 1927, "Probable inference, the law of
/// succession").
pub(crate) fn wilson(right: usize, total: usize) -> (f64, f64) {
    const Z: f64 = 1.959_964;
    if total == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (total as f64, right as f64 / total as f64);
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wilson_interval_agrees_with_newcombe_1998() {
        // 81 of 263: 0.255 to 0.366 (Newcombe 1998, table I, method 3).
        let (low, high) = wilson(81, 263);
        assert!((low - 0.2553).abs() < 5e-4 && (high - 0.3662).abs() < 5e-4, "{low} {high}");
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert!(wilson(5, 5).1 > 0.9999);
    }

    #[test]
    fn white_space_around_an_answer_is_ignored() {
        let mut scores = ExactMatchScores::default();
        for (kind, reference, answer) in
            [("a", "red", " red\n"), ("a", "red", "Red"), ("a", "blue", "blue"), ("b", "no", "yes")]
        {
            scores.add(kind, reference, answer);
        }
        let found: Vec<_> = scores.by_type().map(|(kind, s)| (kind, s.right, s.total)).collect();
        assert_eq!(found, [("a", 2, 3), ("b", 0, 1)]);
        // Always "red" is right in 2 of 3, always "no" in 1 of 1.
        let (all, chance) = scores.overall();
        assert_eq!((all.right, all.total, chance), (2, 4, 0.75));
    }
}
