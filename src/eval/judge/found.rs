//! Judged answers of an evaluation: the files `judged.jsonl` in its directory, in a directory inside it, and in
//! `judges/<name>`, where `eval judge` writes them.

use std::path::{Path, PathBuf};

use super::judged::{JudgedAnswer, read_judged};
use super::reply_log::is_begun;
use super::table::JudgeTable;
use crate::error::{Error, Result};
use crate::eval::benchmark::{EVALUATION, ScoredAnswer};

/// File name of judged answers.
pub const JUDGED: &str = "judged.jsonl";
/// Directory of several judges.
pub const JUDGES: &str = "judges";

/// Scores of one file of judged answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// File, relative to the directory of the evaluation.
    pub file: PathBuf,
    /// Scores.
    pub table: JudgeTable,
    /// Judged answers.
    pub answers: Vec<JudgedAnswer>,
}

/// Judgements of a directory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgements {
    /// Judgements, in the order of their files.
    pub all: Vec<Judgement>,
    /// Files that are not used, each with the cause.
    pub notes: Vec<String>,
}

impl Judgements {
    /// Reads the judgements of these answers in a directory. Those of other answers, which the model has given since
    /// then or before, are noted and not used, and so are judges that were begun and not finished, and files that are
    /// not of judged answers.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn read(dir: &Path, answers: &[ScoredAnswer]) -> Result<Self> {
        let mut found = Self::default();
        for place in places(dir)? {
            let file = place.strip_prefix(dir).unwrap_or(&place).join(JUDGED);
            if !place.join(JUDGED).is_file() {
                let note = "a judge has replied here, and was not asked to the end: the same command goes on";
                let shown = place.strip_prefix(dir).unwrap_or(&place).display().to_string();
                found.notes.extend(is_begun(&place).then(|| format!("{shown}: {note}")));
                continue;
            }
            let read = read_judged(&place.join(JUDGED)).and_then(|judged| check_judge(&judged).map(|()| judged));
            let judged = match read {
                Ok(judged) => judged,
                Err(error) => {
                    found.notes.push(format!("{}: not shown: {error}", file.display()));
                    continue;
                }
            };
            match n_different(&judged, answers) {
                0 => found.all.push(Judgement { file, table: JudgeTable::new(&judged), answers: judged }),
                n => {
                    let (file, n_all) = (file.display(), answers.len());
                    let note = format!("{file}: of other answers, {n} of {n_all} differ: not shown; judge them again");
                    found.notes.push(note);
                }
            }
        }
        Ok(found)
    }
}

/// Returns the directory of the evaluation to which a file of judged answers belongs.
pub fn evaluation_of(judged: &Path) -> Option<PathBuf> {
    let judged = std::path::absolute(judged).unwrap_or_else(|_| judged.to_owned());
    let place = judged.parent().filter(|_| judged.file_name().is_some_and(|name| name == JUDGED))?;
    let above = place.parent();
    let is_judges = |dir: &&Path| dir.file_name().is_some_and(|name| name == JUDGES);
    let candidates = [Some(place), above, above.filter(is_judges).and_then(Path::parent)];
    candidates.into_iter().flatten().find(|dir| dir.join(EVALUATION).is_file()).map(Path::to_owned)
}

/// Lists the directories where judged answers of an evaluation may be.
fn places(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut places = vec![dir.to_owned()];
    places.extend(directories(dir)?);
    let judges = dir.join(JUDGES);
    if judges.is_dir() {
        places.extend(directories(&judges)?);
    }
    Ok(places)
}

/// Lists the directories in a directory, by name.
fn directories(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let paths = entries.map_err(Error::io(dir))?.into_iter().map(|entry| entry.path());
    let mut directories: Vec<PathBuf> = paths.filter(|path| path.is_dir()).collect();
    directories.sort();
    Ok(directories)
}

/// Refuses answers that several judges have judged.
fn check_judge(judged: &[JudgedAnswer]) -> Result<()> {
    let first = judged.first().map(|answer| &answer.judge.judge_hash);
    match judged.iter().find(|answer| Some(&answer.judge.judge_hash) != first) {
        Some(other) => {
            let error = Error::invalid("judged by another judge than the first question");
            Err(error.about(format!("question `{}`", other.answer.question_id)))
        }
        None => Ok(()),
    }
}

/// Returns the number of answers that were not judged as they are now, and of judged ones that are none of them.
fn n_different(judged: &[JudgedAnswer], answers: &[ScoredAnswer]) -> usize {
    let n_common = judged.len().min(answers.len());
    let is_other = |(judged, answer): &(&JudgedAnswer, &ScoredAnswer)| !is_same(&judged.answer, answer);
    judged.iter().zip(answers).filter(is_other).count() + judged.len().max(answers.len()) - n_common
}

fn is_same(judged: &ScoredAnswer, answer: &ScoredAnswer) -> bool {
    let of = |answer: &ScoredAnswer| (answer.weight.to_bits(), answer.status);
    judged.question_id == answer.question_id
        && judged.given == answer.given
        && judged.video == answer.video
        && judged.question == answer.question
        && judged.answer == answer.answer
        && judged.rubric == answer.rubric
        && of(judged) == of(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_evaluation_of_judged_answers_is_at_most_two_directories_above() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(EVALUATION), "{}").expect("room");
        let evaluation = |file: &str| evaluation_of(&dir.path().join(file));
        for file in ["judged.jsonl", "judge/judged.jsonl", "judges/x/judged.jsonl"] {
            assert_eq!(evaluation(file).as_deref(), Some(dir.path()), "{file}");
        }
        for file in ["other.jsonl", "x/y/judged.jsonl", "judges/x/y/judged.jsonl"] {
            assert_eq!(evaluation(file), None, "{file}");
        }
    }
}
