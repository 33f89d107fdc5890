//! Verdicts: the parser of a judge's reply.
//!
//! A reply has one dictionary with the key `score`, a number from 0 to the judge's maximum, and, if the judge is asked
//! for it, the key `pred`, yes or no in any case. Text around the dictionary, such as a code fence, and further keys do
//! not matter. A reply with several verdicts that differ, with a score out of range or as a text, or with another word
//! than yes and no is not parsed. No score is rounded or clamped.

use super::literal::{LiteralDict, LiteralValue, find_dicts};
use super::spec::{JudgeSpec, VerdictKind};

/// Verdict of a judge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JudgeVerdict {
    /// Whether the answer is accepted; `None` for a judge that only scores.
    pub is_accepted: Option<bool>,
    /// Score, from 0 to the judge's maximum.
    pub score: f64,
}

/// Parses a reply; returns `None` for a reply that is not understood.
pub fn parse_verdict(judge: &JudgeSpec, reply: &str) -> Option<JudgeVerdict> {
    let dicts = find_dicts(reply)?;
    let keys = ["score", "pred"];
    let mut verdicts = dicts.iter().filter(|dict| dict.iter().any(|(key, _)| keys.contains(&key.as_str())));
    let first = of_dict(judge, verdicts.next()?)?;
    verdicts.all(|dict| of_dict(judge, dict) == Some(first)).then_some(first)
}

fn of_dict(judge: &JudgeSpec, dict: &LiteralDict) -> Option<JudgeVerdict> {
    let LiteralValue::Number(score) = value(dict, "score")? else { return None };
    let score = Some(*score).filter(|score| (0.0..=judge.max_score).contains(score))?;
    let is_accepted = match judge.verdict {
        VerdictKind::Score => None,
        VerdictKind::YesNoAndScore => match value(dict, "pred")? {
            LiteralValue::Text(word) if word.trim().eq_ignore_ascii_case("yes") => Some(true),
            LiteralValue::Text(word) if word.trim().eq_ignore_ascii_case("no") => Some(false),
            _ => return None,
        },
    };
    Some(JudgeVerdict { is_accepted, score })
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
        let yes = |score| Some(JudgeVerdict { is_accepted: Some(true), score });
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
            assert_eq!(parse_verdict(&judge, reply), expected, "{reply}");
        }
        let judge = open_judge("video-chatgpt-detail").expect("built in");
        let score = |score| Some(JudgeVerdict { is_accepted: None, score });
        assert_eq!(parse_verdict(&judge, "{'score': 0}"), score(0.0));
        assert_eq!(parse_verdict(&judge, "{'score': 3, 'pred': 'maybe'}"), score(3.0));
        assert_eq!(parse_verdict(&judge, "{''score': 4.8}"), None);
    }
}
