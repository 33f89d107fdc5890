//! Counting exact answers.

use std::collections::BTreeMap;

/// The score of one type of question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExactMatchScore {
    /// Exact answers.
    pub right: usize,
    /// Questions.
    pub total: usize,
    /// How often each answer was wanted.
    wanted: BTreeMap<String, usize>,
}

impl ExactMatchScore {
    /// Counts an answer; white space at its ends does not count.
    pub fn add(&mut self, wanted: &str, given: &str) {
        self.add_unanswered(wanted);
        self.right += usize::from(wanted.trim() == given.trim());
    }

    /// Counts a question that got no answer.
    fn add_unanswered(&mut self, wanted: &str) {
        self.total += 1;
        *self.wanted.entry(wanted.trim().to_owned()).or_default() += 1;
    }

    /// The share of exact answers.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.total.max(1) as f64
    }

    /// The share that is right by always giving the answer that is wanted most often here.
    pub fn chance(&self) -> f64 {
        self.wanted.values().max().copied().unwrap_or_default() as f64 / self.total.max(1) as f64
    }

    /// The 95 % interval of the accuracy.
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
    pub fn add(&mut self, kind: &str, wanted: &str, given: &str) {
        self.by_type.entry(kind.to_owned()).or_default().add(wanted, given);
    }

    /// Counts a question that got no answer: it is wrong.
    pub fn add_unanswered(&mut self, kind: &str, wanted: &str) {
        self.by_type.entry(kind.to_owned()).or_default().add_unanswered(wanted);
    }

    /// The types, in the order of their names.
    pub fn by_type(&self) -> impl Iterator<Item = (&str, &ExactMatchScore)> {
        self.by_type.iter().map(|(kind, score)| (kind.as_str(), score))
    }

    /// All types together. Its chance is that of knowing the type and always giving its likeliest answer.
    pub fn overall(&self) -> (ExactMatchScore, f64) {
        let sum = |count: fn(&ExactMatchScore) -> usize| self.by_type.values().map(count).sum();
        let total: usize = sum(|score| score.total);
        let lucky: f64 = self.by_type.values().map(|score| score.chance() * score.total as f64).sum();
        (
            ExactMatchScore { right: sum(|score| score.right), total, wanted: BTreeMap::new() },
            lucky / total.max(1) as f64,
        )
    }
}

/// Wilson's interval of 95 % for a share (Wilson 1927, "Probable inference, the law of succession").
pub fn wilson(right: usize, total: usize) -> (f64, f64) {
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
    fn wilson_agrees_with_the_textbook() {
        // 81 of 263: 0.255 to 0.366 (Newcombe 1998, table I, method 3).
        let (low, high) = wilson(81, 263);
        assert!((low - 0.2553).abs() < 5e-4 && (high - 0.3662).abs() < 5e-4, "{low} {high}");
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert!(wilson(5, 5).1 > 0.9999);
    }

    #[test]
    fn answers_are_right_when_they_are_the_same_but_for_space() {
        let mut scores = ExactMatchScores::default();
        for (kind, wanted, given) in
            [("a", "red", " red\n"), ("a", "red", "Red"), ("a", "blue", "blue"), ("b", "no", "yes")]
        {
            scores.add(kind, wanted, given);
        }
        let found: Vec<_> = scores.by_type().map(|(kind, s)| (kind, s.right, s.total)).collect();
        assert_eq!(found, [("a", 2, 3), ("b", 0, 1)]);
        // Always "red" is right in 2 of 3, always "no" in 1 of 1.
        let (all, chance) = scores.overall();
        assert_eq!((all.right, all.total, chance), (2, 4, 0.75));
    }
}
