//! Comparison of the files of answers of two runs: questions are paired by id, scores by one measure.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{About as _, Error, Kind, Result};
use crate::eval::metrics::{PairedComparison, ScorePair, is_exact_match};
use crate::files;
use crate::records::{UniqueMap, decode};

/// Maximum number of bytes of a file of answers.
const MAX_BYTES: u64 = 4 << 30;

/// Line of a file of answers, of a benchmark or of a file of questions.
#[derive(Debug, Deserialize)]
struct ComparedLine {
    question_id: Option<Value>,
    video: String,
    question: String,
    answer: Value,
    given: Option<String>,
    #[serde(default)]
    scores: Option<UniqueMap<f64>>,
    #[serde(default)]
    weight: Option<f64>,
}

/// Answers of a run, by question.
#[derive(Debug)]
struct ComparedRun {
    /// Questions in the order of the file.
    order: Vec<String>,
    by_id: HashMap<String, ComparedAnswer>,
}

#[derive(Debug)]
struct ComparedAnswer {
    video: String,
    question: String,
    /// Reference, as the line has it.
    reference: Value,
    scores: BTreeMap<String, f64>,
    weight: f64,
}

impl ComparedAnswer {
    /// Returns whether another run was asked the same with the same reference.
    fn is_same_question(&self, other: &Self) -> bool {
        let is_same_weight = self.weight.total_cmp(&other.weight).is_eq();
        self.video == other.video
            && self.question == other.question
            && self.reference == other.reference
            && is_same_weight
            && self.scores.is_empty() == other.scores.is_empty()
    }
}

/// Comparison of two files of answers.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct RunComparison {
    /// Measure that is compared.
    pub metric: String,
    /// Ids of the questions of the first run that the second does not have.
    pub only_in_a: Vec<String>,
    /// Ids of the questions of the second run that the first does not have.
    pub only_in_b: Vec<String>,
    /// Comparison of the common questions.
    #[serde(flatten)]
    pub paired: PairedComparison,
}

/// Compares two files of answers by a measure, or by the first that all lines have.
///
/// # Errors
/// An unreadable file, a line that is no answer, no common question or measure, or an id that stands for another
/// question in the second file.
pub fn compare_runs(a: &Path, b: &Path, metric: Option<&str>) -> Result<RunComparison> {
    let (first, second) = (ComparedRun::read(a)?, ComparedRun::read(b)?);
    let common: Vec<(&ComparedAnswer, &ComparedAnswer)> =
        first.order.iter().filter_map(|id| Some((first.by_id.get(id)?, second.by_id.get(id)?))).collect();
    let differs = |id: &&String| {
        let pair = first.by_id.get(*id).zip(second.by_id.get(*id));
        pair.is_some_and(|(a, b)| !a.is_same_question(b))
    };
    if let Some(id) = first.order.iter().find(differs) {
        let rule = format!("the question `{id}` has another text, video, reference or weight in the other file");
        return Err(Error::invalid(rule).with_hint("runs of one benchmark and split").about(b).about(a));
    }
    if common.is_empty() {
        return Err(Error::invalid("no common question").about(b).about(a));
    }
    let scored: Vec<_> = common.iter().filter(|pair| !pair.0.scores.is_empty() && !pair.1.scores.is_empty()).collect();
    let is_common = |name: &str| scored.iter().all(|(a, b)| a.scores.contains_key(name) && b.scores.contains_key(name));
    let known: Vec<&str> = scored.first().map_or(Vec::new(), |pair| pair.0.scores.keys().map(String::as_str).collect());
    let metric = match metric {
        Some(name) => Some(name).filter(|name| !scored.is_empty() && is_common(name)),
        None => known.iter().copied().find(|name| is_common(name)),
    };
    let Some(metric) = metric else {
        let error = Error::invalid("no metric that every common question has in both files");
        return Err(error.with_hint(format!("the first has {}", known.join(", "))).about(b).about(a));
    };
    let pairs: Vec<ScorePair<'_>> = scored
        .iter()
        .map(|(a, b)| ScorePair { cluster: &a.video, a: a.scores[metric], b: b.scores[metric], weight: a.weight })
        .collect();
    let only = |run: &ComparedRun, other: &ComparedRun| {
        run.order.iter().filter(|id| !other.by_id.contains_key(*id)).cloned().collect::<Vec<_>>()
    };
    Ok(RunComparison {
        metric: metric.to_owned(),
        only_in_a: only(&first, &second),
        only_in_b: only(&second, &first),
        paired: PairedComparison::of(&pairs),
    })
}

impl ComparedRun {
    fn read(path: &Path) -> Result<Self> {
        let bytes = files::read_bounded(path, MAX_BYTES).map_err(Error::io(path))?;
        let text = decode(&bytes).about(path)?;
        let mut run = Self { order: Vec::new(), by_id: HashMap::new() };
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let at = |error: Error| error.about(format!("line {number}")).about(path);
            let line: ComparedLine = serde_json::from_str(line).map_err(|error| {
                let is_cut = error.is_eof();
                let error = at(Error::caused_by(Kind::Invalid, error));
                if is_cut { error.with_hint("the run that wrote it ended within this line") } else { error }
            })?;
            let (id, answer) = line.answer();
            if answer.scores.values().chain([&answer.weight]).any(|value| !(0.0..=1.0).contains(value)) {
                return Err(at(Error::invalid("a score or a weight that is not between 0 and 1")));
            }
            if run.by_id.insert(id.clone(), answer).is_some() {
                return Err(at(Error::invalid(format!("the question `{id}` comes twice"))));
            }
            run.order.push(id);
        }
        Ok(run)
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
        let weight = self.weight.unwrap_or(1.0);
        (id, ComparedAnswer { video: self.video, question: self.question, reference: self.answer, scores, weight })
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
        assert!(
            error.contains("no metric that every common question has") && error.ends_with("hint: the first has choice")
        );
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
        assert!(error.contains("the question `v: q` has another text, video, reference or weight"), "{error}");
        let cut = file(dir.path(), "cut", &(line("1", "v", "{}") + "{\"question_id\": \"2\", \"vid"));
        let error = compare_runs(&a, &cut, None).expect_err("cut").to_string();
        assert!(error.contains("line 2: ") && error.contains("hint: the run that wrote it ended"), "{error}");
        let twice = file(dir.path(), "key", &line("1", "v", r#"{"choice": 1.0, "choice": 0.0}"#));
        let error = compare_runs(&a, &twice, None).expect_err("two scores").to_string();
        assert!(error.contains("key: line 1: the key `choice` comes twice"), "{error}");
        let bad = file(dir.path(), "bad", &line("1", "v", r#"{"choice": 7.0}"#));
        assert!(compare_runs(&a, &bad, None).expect_err("7").to_string().contains("not between 0 and 1"));
    }
}
