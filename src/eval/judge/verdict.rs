//! Verdicts: the parser of a judge's reply.
//!
//! A reply has one dictionary with the key `score`, or with each key of a judge of several scores, a number from the
//! judge's lowest score to its highest, and, if the judge is asked for it, the key `pred`, yes or no in any case. Text
//! around the dictionary, such as a code fence, and further keys do not matter. A reply with several verdicts that
//! differ, with a score out of range or as a text, or with another word than yes and no is not parsed. No score is
//! rounded or clamped. The reply of a judge that chooses an option is words, of which `option` is the parser.

use super::literal::{LiteralDict, LiteralValue, find_dicts};
use super::option::{ChosenOption, chosen_option, label_of};
use super::spec::{JudgeSpec, VerdictKind};

/// Key of the verdict yes or no.
const PRED: &str = "pred";

/// Verdict of a judge.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgeVerdict {
    /// Whether the answer is accepted; `None` for a judge that only scores.
    pub is_accepted: Option<bool>,
    /// Scores, from the judge's lowest to its highest, in the order of its keys; none for a judge that chooses.
    pub scores: Vec<f64>,
}

impl JudgeVerdict {
    /// Returns the sum of the scores, if there are some.
    pub fn score(&self) -> Option<f64> {
        (!self.scores.is_empty()).then(|| self.scores.iter().sum())
    }
}

/// Parses a reply about an answer with this reference; returns `None` for a reply that is not understood.
pub fn parse_verdict(judge: &JudgeSpec, reply: &str, reference: &str) -> Option<JudgeVerdict> {
    if judge.verdict == VerdictKind::Choice {
        let right = label_of(reference)?;
        let is_accepted = chosen_option(reply)? == ChosenOption::Label(right);
        return Some(JudgeVerdict { is_accepted: Some(is_accepted), scores: Vec::new() });
    }
    let keys: Vec<&str> = judge.score_keys().into_iter().chain([PRED]).collect();
    let dicts = find_dicts(reply)?;
    let mut verdicts = dicts.iter().filter(|dict| dict.iter().any(|(key, _)| keys.contains(&key.as_str())));
    let first = of_dict(judge, verdicts.next()?)?;
    verdicts.all(|dict| of_dict(judge, dict).as_ref() == Some(&first)).then_some(first)
}

fn of_dict(judge: &JudgeSpec, dict: &LiteralDict) -> Option<JudgeVerdict> {
    let score = |key: &str| {
        let LiteralValue::Number(score) = value(dict, key)? else { return None };
        Some(*score).filter(|score| (judge.min_score..=judge.highest()).contains(score))
    };
    let scores = judge.score_keys().into_iter().map(score).collect::<Option<Vec<f64>>>()?;
    let is_accepted = match judge.accepts() {
        false => None,
        true => match value(dict, PRED)? {
            LiteralValue::Text(word) if word.trim().eq_ignore_ascii_case("yes") => Some(true),
            LiteralValue::Text(word) if word.trim().eq_ignore_ascii_case("no") => Some(false),
            _ => return None,
        },
    };
    Some(JudgeVerdict { is_accepted, scores })
}

/// Returns the value of a key, unless the key has several.
fn value<'d>(dict: &'d LiteralDict, key: &str) -> Option<&'d LiteralValue> {
    let mut values = dict.iter().filter(|(known, _)| known == key).map(|(_, value)| value);
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::judge::open_judge;

    #[test]
    fn replies_are_parsed_or_refused_whole() {
        let judge = open_judge("video-chatgpt-qa").expect("built in");
        let yes = |score| Some(JudgeVerdict { is_accepted: Some(true), scores: vec![score] });
        for (reply, expected) in [
            ("{'pred': 'yes', 'score': 4}", yes(4.0)),
            ("{'pred': 'Yes', 'score': 4.8}.", yes(4.8)),
            ("```python\n{\"score\": 5, \"pred\": \"YES \", \"why\": \"same\"}\n```", yes(5.0)),
            ("{'pred': 'yes', 'score': 4}\n{'pred': 'yes', 'score': 4.0}", yes(4.0)),
            ("{'pred': 'yes', 'score': 4} {'pred': 'no', 'score': 1}", None),
            ("{'pred': 'yes', 'score': 4} {'pred': 'no'}", None),
            ("{'pred': 'yes', 'score': '4'}", None),
            ("{'pred': 'yes', 'score': 6}", None),
            ("{'pred': 'yes', 'score': -1}", None),
            ("{'pred': 'yes.', 'score': 4}", None),
            ("{'pred': True, 'score': 4}", None),
            ("{'pred': 'yes'}", None),
            ("{'score': 4}", None),
            ("{'score': 4, 'pred': 'yes', 'score': 5}", None),
            ("{'result': {'pred': 'yes', 'score': 3}}", None),
            ("{'pred': 'yes', 'score': 3, 'parts': [{'pred': 'no', 'score': 1}]}", None),
            ("yes, 4", None),
            ("", None),
        ] {
            assert_eq!(parse_verdict(&judge, reply, "a dog"), expected, "{reply}");
        }
        let judge = open_judge("video-chatgpt-detail").expect("built in");
        let scores = |scores: &[f64]| Some(JudgeVerdict { is_accepted: None, scores: scores.to_vec() });
        assert_eq!(parse_verdict(&judge, "{'score': 0}", ""), scores(&[0.0]));
        assert_eq!(parse_verdict(&judge, "{'score': 3, 'pred': 'maybe'}", ""), scores(&[3.0]));
        assert_eq!(parse_verdict(&judge, "{''score': 4.8}", ""), None);
    }

    #[test]
    fn a_verdict_of_several_scores_has_all_of_them_in_range() {
        let judge = open_judge("mlvu-sub-scene").expect("built in");
        let verdict = |reply: &str| parse_verdict(&judge, reply, "a scene").map(|verdict| verdict.scores);
        let rationale = "The first point is met.\n```json\n";
        let both = "{\"score_accuracy\": 3.67, \"score_relevance\": 5, \"total_score\": 8.67}\n```";
        assert_eq!(verdict(&format!("{rationale}{both}")), Some(vec![3.67, 5.0]));
        for reply in [
            "{'score_accuracy': 3}",
            "{'score_accuracy': 0, 'score_relevance': 5}",
            "{'score_accuracy': 3, 'score_relevance': 6}",
            "{'score_accuracy': 3, 'score_relevance': 4} {'score_accuracy': 3, 'score_relevance': 5}",
            "{'score': 3}",
        ] {
            assert_eq!(verdict(reply), None, "{reply}");
        }
    }

    #[test]
    fn a_choice_is_accepted_if_it_is_the_reference() {
        let judge = open_judge("tempcompass-captioning").expect("built in");
        let is_accepted = |reply: &str| {
            parse_verdict(&judge, reply, "B. dunking a basketball").and_then(|verdict| verdict.is_accepted)
        };
        assert_eq!(is_accepted("Reasoning: It says so.\nAnswer: B. dunking a basketball"), Some(true));
        assert_eq!(is_accepted("Answer: A. dribbling"), Some(false));
        assert_eq!(is_accepted("Answer: None of the choices are correct"), Some(false));
        assert_eq!(is_accepted("Answer: both"), None);
    }
}
