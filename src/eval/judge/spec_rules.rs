//! Rules of a judge's description that its schema does not have: name, placeholders, keys of a kind of verdict.

use serde_json::Value;

use super::spec::{ANSWER, PAIR, RUBRIC, SINGLE, VerdictKind};
use crate::spec::SpecProblem;

/// Keys of a verdict, of which no further score has the name.
const RESERVED: [&str; 3] = ["accuracy", "score", "pred"];
/// Maximum number of characters of a name, which is a part of each request's id.
const MAX_NAME: usize = 40;

/// Checks the rules that the schema does not have.
pub(super) fn rules(value: &Value) -> Vec<SpecProblem> {
    let mut problems = Vec::new();
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    if let Some(name) = text("name") {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(is_plain) {
            let rule = format!("invalid name `{name}`");
            let hint = format!("1 to {MAX_NAME} lower-case letters, digits and hyphens");
            problems.push(SpecProblem::new("name", rule).hint(hint));
        }
    }
    if let Some(user) = text("user") {
        placeholder_rules(user, &mut problems);
    }
    let verdict = value.get("verdict").and_then(|verdict| serde_json::from_value(verdict.clone()).ok());
    if let Some(verdict) = verdict {
        score_rules(verdict, value, &mut problems);
    }
    problems
}

fn placeholder_rules(user: &str, problems: &mut Vec<SpecProblem>) {
    let of_pairs = PAIR.iter().any(|mark| user.contains(mark));
    let n_references = [ANSWER, RUBRIC].iter().filter(|mark| user.contains(**mark)).count();
    // The question, the reference and the rubric of one question: as far as the prompt has them.
    let as_found = |mark: &str| usize::from(user.contains(mark));
    let wants: Vec<(&str, usize)> = match of_pairs {
        true => PAIR
            .iter()
            .map(|mark| (*mark, 1))
            .chain(SINGLE.map(|mark| (mark, 0)))
            .chain([(ANSWER, 1), (RUBRIC, 0)])
            .collect(),
        false => vec![
            (SINGLE[0], as_found(SINGLE[0])),
            (SINGLE[1], 1),
            (ANSWER, as_found(ANSWER)),
            (RUBRIC, as_found(RUBRIC)),
        ],
    };
    for (mark, n) in wants {
        let found = user.matches(mark).count();
        if found != n {
            problems.push(SpecProblem::new("user", format!("wants {mark} {n} times, found it {found} times")));
        }
    }
    if !of_pairs && n_references == 0 {
        problems.push(SpecProblem::new("user", format!("wants {ANSWER} or {RUBRIC}")));
    }
}

/// Checks the keys that a kind of verdict needs or does not have.
fn score_rules(verdict: VerdictKind, value: &Value, problems: &mut Vec<SpecProblem>) {
    let is_choice = verdict == VerdictKind::Choice;
    if is_choice == value.get("max_score").is_some() {
        let rule = if is_choice { "a choice has no score" } else { "the key `max_score` is missing" };
        problems.push(SpecProblem::new("max_score", rule));
    }
    let scores: Vec<String> =
        value.get("scores").and_then(|scores| serde_json::from_value(scores.clone()).ok()).unwrap_or_default();
    if (verdict == VerdictKind::Scores) != (scores.len() > 1) {
        let problem = SpecProblem::new("scores", "the verdict `scores` has several keys, and no other has this list");
        problems.push(problem.hint("scores: [score_accuracy, score_relevance]"));
    }
    for (number, key) in scores.iter().enumerate() {
        let is_plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if !is_plain || RESERVED.contains(&key.as_str()) || scores[..number].contains(key) {
            let problem = SpecProblem::new(&format!("scores.{number}"), format!("invalid key `{key}`"));
            problems
                .push(problem.hint(format!("lower-case letters and _, each once, none of {}", RESERVED.join(", "))));
        }
    }
}
