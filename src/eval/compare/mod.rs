//! Comparison of the files of answers of two runs: questions are paired by id, scores by one measure.
//!
//! Scores of a judge compare with those of the same judge alone: description, prompt, model, temperature, highest
//! score. Failed and missing questions are wrong in both runs, and counted for each. Called by `eval compare`.

mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use self::run::{ComparedAnswer, ComparedRun};
use super::judge::RecordedJudge;
use super::metrics::{PairedComparison, ScorePair};
use crate::error::{Error, Result};

pub use self::run::RunCounts;

/// Beginning of the names of a judge's scores.
const JUDGED: &str = "judge_";

/// Comparison of two files of answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunComparison {
    /// Measure that is compared.
    pub metric: String,
    /// Judge of both runs, of a judged measure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<RecordedJudge>,
    /// Questions of the first run.
    pub counts_a: RunCounts,
    /// Questions of the second run.
    pub counts_b: RunCounts,
    /// Ids of the questions of the first run that the second does not have.
    pub only_in_a: Vec<String>,
    /// Ids of the questions of the second run that the first does not have.
    pub only_in_b: Vec<String>,
    /// Comparison of the common questions.
    #[serde(flatten)]
    pub paired: PairedComparison,
}

/// Answers of both runs to one question.
type AnswerPair<'r> = (&'r ComparedAnswer, &'r ComparedAnswer);

/// Compares two files of answers by a measure, or by the first that all lines have.
///
/// # Errors
/// An unreadable file, a line that is no answer, no common question or measure, an id that stands for another question
/// in the second file, or a judged measure of different judges.
pub fn compare_runs(a: &Path, b: &Path, metric: Option<&str>) -> Result<RunComparison> {
    let (first, second) = (ComparedRun::read(a)?, ComparedRun::read(b)?);
    let differs = |id: &&String| {
        let pair = first.by_id.get(*id).zip(second.by_id.get(*id));
        pair.is_some_and(|(a, b)| !a.is_same_question(b))
    };
    if let Some(id) = first.order.iter().find(differs) {
        let rule = format!(
            "the question `{id}` has another text, video, reference, weight or other options in the other file"
        );
        return Err(Error::invalid(rule).with_hint("runs of one benchmark and split").about(b).about(a));
    }
    let common = first.order.iter().filter_map(|id| Some((first.by_id.get(id)?, second.by_id.get(id)?)));
    let common: Vec<AnswerPair<'_>> = common.collect();
    if common.is_empty() {
        return Err(Error::invalid("no common question").about(b).about(a));
    }
    let scored: Vec<AnswerPair<'_>> =
        common.into_iter().filter(|(a, b)| !a.scores.is_empty() && !b.scores.is_empty()).collect();
    let metric = common_metric(&scored, metric).map_err(|error| error.about(b).about(a))?;
    let judge = match metric.starts_with(JUDGED) {
        true => Some(common_judge(&scored).map_err(|error| error.about(b).about(a))?),
        false => None,
    };
    let pair = |(a, b): &AnswerPair<'_>| (a.scores[&metric], b.scores[&metric]);
    let pairs: Vec<ScorePair<'_>> = scored
        .iter()
        .map(|both| ScorePair { cluster: &both.0.video, a: pair(both).0, b: pair(both).1, weight: both.0.weight })
        .collect();
    let only = |run: &ComparedRun, other: &ComparedRun| {
        run.order.iter().filter(|id| !other.by_id.contains_key(*id)).cloned().collect::<Vec<_>>()
    };
    Ok(RunComparison {
        judge,
        counts_a: first.counts,
        counts_b: second.counts,
        only_in_a: only(&first, &second),
        only_in_b: only(&second, &first),
        paired: PairedComparison::of(&pairs),
        metric,
    })
}

/// Returns the measure with this name, or the first by name, that every answer of both runs has.
fn common_metric(scored: &[AnswerPair<'_>], wanted: Option<&str>) -> Result<String> {
    let of_all = |of: for<'r> fn(&AnswerPair<'r>) -> &'r BTreeMap<String, f64>| {
        let first = scored.first().map(of).into_iter().flat_map(BTreeMap::keys);
        let names = first.filter(|name| scored.iter().all(|pair| of(pair).contains_key(*name)));
        names.cloned().collect::<Vec<String>>()
    };
    let (of_a, of_b) = (of_all(|pair| &pair.0.scores), of_all(|pair| &pair.1.scores));
    let mut common = of_a.iter().filter(|name| of_b.contains(name));
    let found = match wanted {
        Some(wanted) => common.find(|name| *name == wanted),
        None => common.next(),
    };
    found.cloned().ok_or_else(|| {
        let named = wanted.map(|name| format!(" `{name}`")).unwrap_or_default();
        let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let rule = format!("no metric{named} that every common question has in both files");
        Error::invalid(rule).with_hint(format!("the first has {}; the second has {}", list(&of_a), list(&of_b)))
    })
}

/// Returns the judge of all answers of both runs.
fn common_judge(scored: &[AnswerPair<'_>]) -> Result<RecordedJudge> {
    let (of_a, of_b) = (one_judge(scored, |pair| pair.0, "first")?, one_judge(scored, |pair| pair.1, "second")?);
    if of_a == of_b {
        return Ok(of_a);
    }
    let rule = format!("different judges: the first file has {of_a}; the second has {of_b}");
    Err(Error::invalid(rule).with_hint("judge both runs by one judge, or compare another metric with --metric"))
}

/// Returns the judge of the answers of one run.
fn one_judge(
    scored: &[AnswerPair<'_>],
    of: for<'r> fn(&AnswerPair<'r>) -> &'r ComparedAnswer,
    file: &'static str,
) -> Result<RecordedJudge> {
    let mut judges: Vec<&RecordedJudge> = Vec::new();
    for pair in scored {
        let judge = of(pair).judge.as_ref();
        let judge =
            judge.ok_or_else(|| Error::invalid(format!("judged scores without their judge in the {file} file")))?;
        // Answers without a reply have no model, and may have been sent to any.
        match judges.iter().position(|known| known.is_compatible(judge)) {
            Some(at) if judges[at].model.is_none() => judges[at] = judge,
            Some(_) => {}
            None => judges.push(judge),
        }
    }
    match judges[..] {
        [judge] => Ok(judge.clone()),
        _ => {
            let named: Vec<String> = judges.iter().map(ToString::to_string).collect();
            let rule = format!("several judges in the {file} file: {}", named.join("; "));
            Err(Error::invalid(rule).with_hint("one file for each judge"))
        }
    }
}
