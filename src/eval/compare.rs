//! Comparison of the files of answers of two runs: questions are paired by id, scores by one measure.
//!
//! Scores of a judge compare with those of the same judge alone: description, prompt, model, temperature, highest
//! score. Failed and missing questions are wrong in both runs, and counted for each. Called by `eval compare`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::benchmark::AnswerStatus;
use super::judge::{JudgeRecord, JudgeStatus, RecordedJudge};
use super::metrics::{PairedComparison, ScorePair, is_exact_match};
use crate::error::{Error, Kind, Result};
use crate::records::{UniqueMap, read_lines};

/// Beginning of the names of a judge's scores.
const JUDGED: &str = "judge_";

/// Line of a file of answers, of a benchmark or of a file of questions.
#[derive(Debug, Deserialize)]
struct ComparedLine {
    question_id: Option<Value>,
    video: String,
    question: String,
    #[serde(default)]
    options: Vec<Value>,
    answer: Value,
    given: Option<String>,
    #[serde(default)]
    status: Option<AnswerStatus>,
    #[serde(default)]
    scores: Option<UniqueMap<f64>>,
    #[serde(default)]
    weight: Option<f64>,
    #[serde(default)]
    judge: Option<JudgeRecord>,
}

/// Answers of a run, by question.
#[derive(Debug, Default)]
struct ComparedRun {
    /// Questions in the order of the file.
    order: Vec<String>,
    by_id: HashMap<String, ComparedAnswer>,
    counts: RunCounts,
}

#[derive(Debug)]
struct ComparedAnswer {
    video: String,
    question: String,
    options: Vec<Value>,
    /// Reference, as the line has it.
    reference: Value,
    scores: BTreeMap<String, f64>,
    weight: f64,
    judge: Option<RecordedJudge>,
}

impl ComparedAnswer {
    /// Returns whether another run was asked the same with the same reference.
    fn is_same_question(&self, other: &Self) -> bool {
        let is_same_weight = self.weight.total_cmp(&other.weight).is_eq();
        self.video == other.video
            && self.question == other.question
            && self.options == other.options
            && self.reference == other.reference
            && is_same_weight
            && self.scores.is_empty() == other.scores.is_empty()
    }
}

/// Numbers of questions of a run's file. All but the unparsed and the answered ones count as wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RunCounts {
    /// Questions.
    pub questions: usize,
    /// Questions that failed.
    pub failed: usize,
    /// Questions whose video is missing.
    pub missing: usize,
    /// Answers that were not parsed.
    pub unparsed: usize,
    /// Answers that were sent to a judge, and have no verdict.
    pub without_verdict: usize,
}

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

impl ComparedRun {
    fn read(path: &Path) -> Result<Self> {
        let mut run = Self::default();
        read_lines(path, &mut |_, line| {
            let line: ComparedLine = serde_json::from_str(line).map_err(|error| {
                let is_cut = error.is_eof();
                let error = Error::caused_by(Kind::Invalid, error);
                if is_cut { error.with_hint("the run that wrote it ended within this line") } else { error }
            })?;
            run.counts.add(&line);
            let (id, answer) = line.answer();
            if answer.scores.values().chain([&answer.weight]).any(|value| !(0.0..=1.0).contains(value)) {
                return Err(Error::invalid("a score or a weight that is not between 0 and 1"));
            }
            if run.by_id.insert(id.clone(), answer).is_some() {
                return Err(Error::invalid(format!("the question `{id}` comes twice")));
            }
            run.order.push(id);
            Ok(())
        })?;
        Ok(run)
    }
}

impl RunCounts {
    fn add(&mut self, line: &ComparedLine) {
        let is_failed = line.status == Some(AnswerStatus::Failed) || (line.status.is_none() && line.given.is_none());
        self.questions += 1;
        self.failed += usize::from(is_failed);
        self.missing += usize::from(line.status == Some(AnswerStatus::Missing));
        self.unparsed += usize::from(line.status == Some(AnswerStatus::Unparsed));
        let has_verdict = [JudgeStatus::Judged, JudgeStatus::Unanswered];
        self.without_verdict +=
            usize::from(line.judge.as_ref().is_some_and(|judge| !has_verdict.contains(&judge.status)));
    }
}

impl ComparedLine {
    /// Returns the id and the scores; a line of a file of questions is scored by exact match.
    fn answer(self) -> (String, ComparedAnswer) {
        let id = match &self.question_id {
            Some(Value::String(id)) => id.clone(),
            Some(id) if !id.is_null() => id.to_string(),
            _ => format!("{}: {}", self.video, self.question),
        };
        let scores = self.scores.map(|scores| scores.0).unwrap_or_else(|| {
            let reference = self.answer.as_str().map_or_else(|| self.answer.to_string(), str::to_owned);
            let is_right = self.given.is_some_and(|given| is_exact_match(&given, &reference));
            BTreeMap::from([("exact".to_owned(), f64::from(u8::from(is_right)))])
        });
        let answer = ComparedAnswer {
            video: self.video,
            question: self.question,
            options: self.options,
            reference: self.answer,
            scores,
            weight: self.weight.unwrap_or(1.0),
            judge: self.judge.as_ref().map(JudgeRecord::made_by),
        };
        (id, answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, name: &str, lines: &str) -> std::path::PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, lines).expect("ours");
        path
    }

    fn line(id: &str, video: &str, scores: &str) -> String {
        format!(
            "{{\"question_id\": \"{id}\", \"video\": \"{video}\", \"question\": \"?\", \"answer\": [], \"given\": null, \"scores\": {scores}}}\n"
        )
    }

    #[test]
    fn questions_are_paired_by_id_whatever_their_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let a = line("1", "v", r#"{"choice": 1.0}"#)
            + &line("2", "v", r#"{"choice": 0.0}"#)
            + &line("3", "w", r#"{"choice": 0.0}"#);
        let b = line("4", "w", r#"{"choice": 1.0}"#)
            + &line("2", "v", r#"{"choice": 1.0}"#)
            + &line("1", "v", r#"{"choice": 1.0}"#);
        let (a, b) = (file(dir.path(), "a", &a), file(dir.path(), "b", &b));
        let found = compare_runs(&a, &b, None).expect("two runs");
        assert_eq!((found.metric.as_str(), found.paired.n), ("choice", 2));
        assert_eq!((found.only_in_a, found.only_in_b), (vec!["3".to_owned()], vec!["4".to_owned()]));
        assert_eq!((found.paired.mean_a, found.paired.mean_b), (0.5, 1.0));
        let error = compare_runs(&a, &b, Some("exact")).expect_err("no such metric").to_string();
        let expected = "no metric `exact` that every common question has in both files; hint: the first has choice; the second \
                        has choice";
        assert!(error.ends_with(expected), "{error}");
    }

    #[test]
    fn answers_to_a_file_of_questions_are_compared_by_exact_match() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = |given: &str| {
            format!(
                "{{\"video\": \"v\", \"question\": \"q\", \"answer\": \"red\", \"type\": \"\", \"given\": \"{given}\"}}\n"
            )
        };
        let (a, b) = (file(dir.path(), "a", &text("red ")), file(dir.path(), "b", &text("blue")));
        let found = compare_runs(&a, &b, None).expect("two runs");
        assert_eq!((found.metric.as_str(), found.paired.mean_a, found.paired.mean_b), ("exact", 1.0, 0.0));
        let twice = file(dir.path(), "twice", &(text("x") + &text("y")));
        assert!(
            compare_runs(&a, &twice, None)
                .expect_err("twice")
                .to_string()
                .contains("line 2: the question `v: q` comes twice")
        );
        let other = file(dir.path(), "other", &text("red").replace("\"red\", \"type\"", "\"blue\", \"type\""));
        let error = compare_runs(&a, &other, None).expect_err("another reference").to_string();
        assert!(error.contains("the question `v: q` has another text, video, reference, weight"), "{error}");
        let cut = file(dir.path(), "cut", &(line("1", "v", "{}") + "{\"question_id\": \"2\", \"vid"));
        let error = compare_runs(&a, &cut, None).expect_err("cut").to_string();
        assert!(error.contains("line 2: ") && error.contains("hint: the run that wrote it ended"), "{error}");
        let twice = file(dir.path(), "key", &line("1", "v", r#"{"choice": 1.0, "choice": 0.0}"#));
        let error = compare_runs(&a, &twice, None).expect_err("two scores").to_string();
        assert!(error.contains("key: line 1: the key `choice` comes twice"), "{error}");
        let bad = file(dir.path(), "bad", &line("1", "v", r#"{"choice": 7.0}"#));
        assert!(compare_runs(&a, &bad, None).expect_err("7").to_string().contains("not between 0 and 1"));
    }

    #[test]
    fn other_options_are_another_question() {
        let dir = tempfile::tempdir().expect("a directory");
        let with =
            |options: &str| line("1", "v", "{}").replace("\"answer\"", &format!("\"options\": {options}, \"answer\""));
        let a = file(dir.path(), "a", &with(r#"["x", "y"]"#));
        let b = file(dir.path(), "b", &with(r#"["x", "y", "z", "w"]"#));
        let error = compare_runs(&a, &b, None).expect_err("other options").to_string();
        assert!(
            error.contains("the question `1` has another text, video, reference, weight or other options"),
            "{error}"
        );
    }

    #[test]
    fn questions_that_are_wrong_for_want_of_an_answer_are_counted_for_each_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let with = |id: &str, status: &str| {
            line(id, "v", r#"{"choice": 0.0}"#).replace("\"given\"", &format!("\"status\": \"{status}\", \"given\""))
        };
        let a = with("1", "failed") + &with("2", "missing") + &with("3", "missing") + &with("4", "unparsed");
        let b = ["1", "2", "3", "4"].map(|id| with(id, "answered")).concat();
        let found = compare_runs(&file(dir.path(), "a", &a), &file(dir.path(), "b", &b), None).expect("two runs");
        let counts_a = RunCounts { questions: 4, failed: 1, missing: 2, unparsed: 1, without_verdict: 0 };
        assert_eq!((found.counts_a, found.counts_b), (counts_a, RunCounts { questions: 4, ..RunCounts::default() }));
    }

    /// A judged line of a judge with this model and temperature.
    fn judged(id: &str, model: &str, temperature: f64) -> String {
        let (status, replies) = if model.is_empty() { ("missing", "[]") } else { ("judged", "[\"x\"]") };
        let model = if model.is_empty() { "null".to_owned() } else { format!("\"{model}\"") };
        let judge = format!(
            "{{\"name\": \"j\", \"model\": {model}, \"temperature\": {temperature}, \"prompt_hash\": \"p\", \"max_score\": 5, \
             \"judge_hash\": \"h\", \"custom_id\": \"j/q/0\", \"usage\": {{\"prompt_tokens\": 1, \"completion_tokens\": 1}}, \
             \"replies\": {replies}, \"pred\": null, \"score\": null, \"status\": \"{status}\"}}"
        );
        line(id, "v", r#"{"exact": 0.0, "judge_score": 0.5}"#)
            .replace("\"given\"", &format!("\"judge\": {judge}, \"given\""))
    }

    #[test]
    fn judged_scores_compare_by_one_judge_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let m = judged("1", "m", 0.0) + &judged("2", "", 0.0);
        let runs = [
            ("m", m.clone()),
            ("n", judged("1", "n", 0.0) + &judged("2", "n", 0.0)),
            ("warm", judged("1", "m", 1.0) + &judged("2", "m", 1.0)),
            ("mixed", judged("1", "m", 0.0) + &judged("2", "n", 0.0)),
            ("bare", line("1", "v", r#"{"judge_score": 0.5}"#) + &line("2", "v", r#"{"judge_score": 0.5}"#)),
        ];
        let paths = runs.map(|(name, text)| file(dir.path(), name, &text));
        let compare = |other: usize, metric| compare_runs(&paths[0], &paths[other], Some(metric));
        let found = compare(0, "judge_score").expect("one judge");
        assert_eq!(found.judge.as_ref().and_then(|judge| judge.model.as_deref()), Some("m"));
        assert_eq!(found.counts_a.without_verdict, 1);
        for (other, words) in [
            (
                1,
                "different judges: the first file has `j` by m at temperature 0, prompt p, 0 to 5 points, settings h; the second has `j` by n",
            ),
            (2, "the second has `j` by m at temperature 1"),
            (3, "several judges in the second file: `j` by m"),
            (4, "judged scores without their judge in the second file"),
        ] {
            let error = compare(other, "judge_score").expect_err("another judge").to_string();
            assert!(error.contains(words), "{words} in {error}");
        }
        assert!(compare(1, "exact").expect("a metric without a judge").judge.is_none());
    }
}
