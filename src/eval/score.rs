//! Exact-match scores, overall and by type of question; intervals as those of benchmarks.

use std::collections::BTreeMap;

use super::EvalQuestion;
use super::metrics::{ClusteredScores, is_exact_match};

/// Score of one type of question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExactMatchScore {
    /// Number of exact matches.
    pub right: usize,
    /// Number of questions.
    pub total: usize,
    /// Number of questions that failed, which are wrong.
    pub failed: usize,
    /// Number of questions by reference answer.
    references: BTreeMap<String, usize>,
    /// Scores by video.
    scores: ClusteredScores,
}

impl ExactMatchScore {
    /// Counts an answer; white space at both ends is ignored. A question without an answer is wrong.
    fn add(&mut self, question: &EvalQuestion, answer: Option<&str>) {
        let is_right = answer.is_some_and(|answer| is_exact_match(answer, &question.answer));
        self.total += 1;
        self.right += usize::from(is_right);
        self.failed += usize::from(answer.is_none());
        *self.references.entry(question.answer.trim().to_owned()).or_default() += 1;
        self.scores.add(&question.video.to_string_lossy(), f64::from(u8::from(is_right)), 1.0);
    }

    /// Returns the fraction of exact matches.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.total.max(1) as f64
    }

    /// Returns the accuracy of always giving the most frequent reference answer.
    pub fn chance(&self) -> f64 {
        self.references.values().max().copied().unwrap_or_default() as f64 / self.total.max(1) as f64
    }

    /// Returns the 95 % confidence interval of the accuracy, clustered by video ([`ClusteredScores::mean`]).
    pub fn interval(&self) -> (f64, f64) {
        self.scores.mean().interval_95
    }
}

/// Scores by type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExactMatchScores {
    by_type: BTreeMap<String, ExactMatchScore>,
    all: ExactMatchScore,
}

impl ExactMatchScores {
    /// Counts an answer.
    pub fn add(&mut self, question: &EvalQuestion, answer: &str) {
        self.add_optional(question, Some(answer));
    }

    /// Counts a question without an answer as wrong.
    pub(crate) fn add_unanswered(&mut self, question: &EvalQuestion) {
        self.add_optional(question, None);
    }

    fn add_optional(&mut self, question: &EvalQuestion, answer: Option<&str>) {
        self.by_type.entry(question.kind.clone()).or_default().add(question, answer);
        self.all.add(question, answer);
    }

    /// Returns the scores by type, in the order of the types' names.
    pub fn by_type(&self) -> impl Iterator<Item = (&str, &ExactMatchScore)> {
        self.by_type.iter().map(|(kind, score)| (kind.as_str(), score))
    }

    /// Returns the score over all types, and the accuracy of always giving the most frequent answer of each type.
    pub fn overall(&self) -> (ExactMatchScore, f64) {
        let by_chance: f64 = self.by_type.values().map(|score| score.chance() * score.total as f64).sum();
        (self.all.clone(), by_chance / self.all.total.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(video: &str, kind: &str, answer: &str) -> EvalQuestion {
        let (question, answer, kind) = ("?".to_owned(), answer.to_owned(), kind.to_owned());
        EvalQuestion { video: video.into(), image_rate: None, id: None, question, answer, kind }
    }

    #[test]
    fn white_space_around_an_answer_is_ignored() {
        let mut scores = ExactMatchScores::default();
        for (kind, reference, answer) in
            [("a", "red", " red\n"), ("a", "red", "Red"), ("a", "blue", "blue"), ("b", "no", "yes")]
        {
            scores.add(&question("v", kind, reference), answer);
        }
        let found: Vec<_> = scores.by_type().map(|(kind, s)| (kind, s.right, s.total)).collect();
        assert_eq!(found, [("a", 2, 3), ("b", 0, 1)]);
        // Always "red" is right in 2 of 3, always "no" in 1 of 1.
        let (all, chance) = scores.overall();
        assert_eq!((all.right, all.total, chance), (2, 4, 0.75));
    }

    #[test]
    fn intervals_are_those_of_benchmarks() {
        let (mut scores, mut expected) = (ExactMatchScores::default(), ClusteredScores::default());
        for (video, answer) in [("v", "x"), ("v", "x"), ("w", "y"), ("u", "x")] {
            scores.add(&question(video, "", "x"), answer);
            expected.add(video, f64::from(u8::from(answer == "x")), 1.0);
        }
        scores.add_unanswered(&question("u", "", "x"));
        expected.add("u", 0.0, 1.0);
        assert_eq!(scores.overall().0.interval(), expected.mean().interval_95);
    }
}
