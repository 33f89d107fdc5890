//! Record of an evaluation (`evaluation.json`): which questions were asked, about which videos, by which plan.
//!
//! Reports need neither the description nor the data. Written by `eval --out`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::directory::{SCORED, scored_hash};
use super::spec::BenchmarkSpec;
use crate::batch::store::{StoredResults, read_sessions};
use crate::error::{About as _, Error, Kind, Result};
use crate::eval::dataset::{BenchmarkQuestion, DatasetQuestions, QuestionReference, VideoCoverage, VideoLookup};
use crate::files::{Durability, output, read_bounded};
use crate::spec::print_yaml;

/// File name of the record.
pub const EVALUATION: &str = "evaluation.json";
/// Maximum number of bytes of a record, whose largest part is the list of missing videos.
const MAX_RECORD: u64 = 64 << 20;

/// Facts of an evaluation that its scores depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationRecord {
    /// Format of the record.
    pub format: EvaluationFormat,
    /// Version of the program.
    pub version: String,
    /// Path of the description, as named on the command line.
    pub description: String,
    /// Description, with what it extends.
    pub spec: BenchmarkSpec,
    /// Hash of the description.
    pub spec_hash: String,
    /// Hash of the questions, [`split_hash`].
    pub split_hash: String,
    /// Hash of the file of scored answers.
    pub scored_hash: String,
    /// Number of questions of the run.
    pub questions: usize,
    /// Videos, and the missing ones.
    pub coverage: CoverageRecord,
    /// Remarks about the files.
    pub notes: Vec<String>,
    /// Plan.
    pub plan: PlanRecord,
    /// Duration of the processes that asked.
    pub seconds: f64,
}

/// A split that was evaluated.
#[derive(Debug, Clone, Copy)]
pub struct EvaluatedSplit<'a> {
    /// Path of the description.
    pub description: &'a Path,
    /// Description.
    pub spec: &'a BenchmarkSpec,
    /// Questions and remarks.
    pub dataset: &'a DatasetQuestions,
    /// Share of the videos that are there.
    pub coverage: &'a VideoCoverage,
    /// Hash of the file of scored answers.
    pub scored_hash: &'a str,
}

/// Format of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvaluationFormat {
    /// The first format.
    #[default]
    #[serde(rename = "vidense-evaluation-1")]
    First,
}

/// Videos of a split.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoverageRecord {
    /// Number of different videos.
    pub videos: usize,
    /// Names of the missing ones.
    pub missing: Vec<String>,
}

/// Plan of an evaluation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRecord {
    /// Fingerprint over the plan and the model's files.
    pub fingerprint: String,
    /// Model, as the plan names it.
    pub model: String,
    /// Plan as YAML.
    pub yaml: String,
}

impl From<&VideoCoverage> for CoverageRecord {
    fn from(coverage: &VideoCoverage) -> Self {
        Self { videos: coverage.n_videos, missing: coverage.missing.iter().map(VideoLookup::shown).collect() }
    }
}

impl CoverageRecord {
    /// Returns the share of videos that are there, in percent.
    pub fn percent(&self) -> f64 {
        100.0 * self.videos.saturating_sub(self.missing.len()) as f64 / self.videos.max(1) as f64
    }

    /// Returns the remark of every table about missing videos, if some are.
    pub fn note(&self) -> Option<String> {
        let (n_missing, videos, percent) = (self.missing.len(), self.videos, self.percent());
        let text = format!(
            "{n_missing} of {videos} videos are missing ({percent:.1} % are there); their questions count as wrong."
        );
        (n_missing > 0).then_some(text)
    }
}

impl EvaluationRecord {
    /// Makes the record of a split whose questions these results answer.
    ///
    /// # Errors
    /// Sessions of the results that cannot be read.
    pub fn new(split: EvaluatedSplit<'_>, results: &StoredResults) -> Result<Self> {
        let EvaluatedSplit { description, spec, dataset, coverage, scored_hash } = split;
        let header = &results.header;
        let ended = read_sessions(&results.dir)?.into_iter().filter_map(|session| session.summary);
        Ok(Self {
            format: EvaluationFormat::default(),
            version: header.version.clone(),
            description: description.to_string_lossy().into_owned(),
            spec: spec.clone(),
            spec_hash: spec_hash(spec)?,
            split_hash: split_hash(&dataset.questions),
            scored_hash: scored_hash.to_owned(),
            questions: dataset.questions.len(),
            coverage: coverage.into(),
            notes: dataset.notes.clone(),
            plan: PlanRecord {
                fingerprint: header.plan.clone(),
                model: header.model.clone(),
                yaml: print_yaml(&header.choices)?,
            },
            seconds: ended.map(|summary| summary.session.seconds).sum(),
        })
    }

    /// Refuses a file of scored answers that is not the one of the record.
    ///
    /// # Errors
    /// Both hashes, or a file that cannot be read.
    pub fn check_scored(&self, dir: &Path) -> Result<()> {
        let found = scored_hash(dir)?;
        if found == self.scored_hash {
            return Ok(());
        }
        let rule = format!("its hash is {found}, that of {EVALUATION} {}", self.scored_hash);
        Err(Error::invalid(rule)
            .with_hint("the command that wrote it, again with the same --out")
            .about(dir.join(SCORED)))
    }

    /// Refuses a directory that holds an evaluation of another benchmark or split.
    ///
    /// # Errors
    /// Both names.
    pub fn check_directory(dir: &Path, spec: &BenchmarkSpec) -> Result<()> {
        // A record that was not written whole is written again; one of another version names its split.
        let bytes = read_bounded(&dir.join(EVALUATION), MAX_RECORD).unwrap_or_default();
        let Ok(record) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return Ok(()) };
        let named = |key: &str| record["spec"][key].as_str().unwrap_or_default();
        let (there, here) = ((named("name"), named("split")), (spec.name.as_str(), spec.split.as_str()));
        if there == here {
            return Ok(());
        }
        let rule = format!("an evaluation of {}, {}, not of {}, {}", there.0, there.1, here.0, here.1);
        Err(Error::invalid(rule).with_hint("another --out").about(dir.to_owned()))
    }

    /// Reads the record of a directory.
    ///
    /// # Errors
    /// A missing file, or one of another format.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(EVALUATION);
        let bytes = read_bounded(&path, MAX_RECORD).map_err(Error::io(&path))?;
        let hint = "a directory that `vidense eval BENCHMARK.yaml --out DIR` wrote";
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::caused_by(Kind::Invalid, error).with_hint(hint))
            .about(path)
    }

    /// Writes the record into a directory.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(EVALUATION);
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| Error::caused_by(Kind::Invalid, error))?;
        bytes.push(b'\n');
        output::replace(&path, &bytes, Durability::Synced).map_err(Error::io(&path))
    }
}

/// Returns the BLAKE3 hash of a description, over its JSON.
///
/// # Errors
/// A number that JSON does not have.
fn spec_hash(spec: &BenchmarkSpec) -> Result<String> {
    let bytes = serde_json::to_vec(spec).map_err(|error| Error::caused_by(Kind::Invalid, error))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// Returns the BLAKE3 hash of questions: their ids, texts, options and references in order, each with its length. Two
/// runs with the same hash were asked the same questions.
pub fn split_hash(questions: &[BenchmarkQuestion]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for question in questions {
        add(question.id.as_bytes());
        add(question.question.as_bytes());
        add(&(question.options.len() as u64).to_le_bytes());
        question.options.texts().iter().for_each(|text| add(text.as_bytes()));
        match &question.reference {
            QuestionReference::Texts(texts) => {
                add(b"texts");
                add(&(texts.len() as u64).to_le_bytes());
                texts.iter().for_each(|text| add(text.as_bytes()));
            }
            QuestionReference::Choice(index) => {
                add(b"choice");
                add(&(*index as u64).to_le_bytes());
            }
            QuestionReference::Hidden => add(b"hidden"),
        }
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::dataset::ChoiceOptions;

    fn question(id: &str, options: &[&str], right: usize) -> BenchmarkQuestion {
        let options = ChoiceOptions::lettered(options.iter().map(|&text| text.to_owned()).collect()).expect("two");
        BenchmarkQuestion {
            id: id.to_owned(),
            video: VideoLookup::new(Path::new("v"), "a"),
            clip: crate::video::Window::default(),
            image_rate: None,
            question: "what?".to_owned(),
            options,
            reference: QuestionReference::Choice(right),
            rubric: None,
            kind: String::new(),
            task: String::new(),
            spans: Vec::new(),
            subtitles: None,
            timed_subtitles: None,
            weight: 1.0,
            extra: serde_json::Map::new(),
        }
    }

    #[test]
    fn the_hash_of_a_split_depends_on_ids_options_references_and_order() {
        let (a, b) = (question("1", &["x", "y"], 0), question("2", &["x", "y"], 0));
        let hash = split_hash(&[a.clone(), b.clone()]);
        let hidden = BenchmarkQuestion { reference: QuestionReference::Hidden, ..a.clone() };
        let texts = BenchmarkQuestion { reference: QuestionReference::Texts(vec!["x".to_owned()]), ..a.clone() };
        for other in [
            vec![b.clone(), a.clone()],
            vec![a.clone()],
            vec![question("1", &["x", "y"], 1), b.clone()],
            vec![question("1", &["xy", ""], 0), b.clone()],
            vec![hidden, b.clone()],
            vec![texts, b.clone()],
        ] {
            assert_ne!(split_hash(&other), hash);
        }
        // The type is no part of the split: descriptions group questions as they like.
        assert_eq!(split_hash(&[BenchmarkQuestion { kind: "k".to_owned(), ..a }, b]), hash);
    }

    #[test]
    fn a_record_of_another_format_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(EvaluationRecord::read(dir.path()).expect_err("no file").kind(), Kind::Unreadable);
        std::fs::write(dir.path().join(EVALUATION), r#"{"format": "vidense-evaluation-9"}"#).expect("ours");
        let error = EvaluationRecord::read(dir.path()).expect_err("another format").to_string();
        assert!(error.contains("unknown variant `vidense-evaluation-9`") && error.contains("; hint: a directory that"));
        let coverage = CoverageRecord { videos: 4, missing: vec!["v/a".to_owned()] };
        assert_eq!(coverage.percent(), 75.0);
    }
}
