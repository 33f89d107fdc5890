//! Results of an evaluation in the files that lmms-eval 0.7.3 writes with `--log_samples`: a line for each question,
//! and the means.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::document::{TaskDocument, documents};
use super::results::{LmmsResults, sanitized};
use super::{FAILED, SCORE, check_task_name};
use crate::batch::store::{ANSWERS, RecordOutcome, StoredResults};
use crate::error::{About as _, Error, Kind, Result};
use crate::eval::benchmark::{
    AnswerStatus, EVALUATION, EvaluationRecord, Measure, RUN, SCORED, ScoredAnswer, split_hash,
};
use crate::eval::export::ExportedBenchmark;
use crate::eval::judge::read_scored;
use crate::files::Durability;
use crate::files::output::{OutputFile, create_directory, replace};

/// Maximum number of characters of an error in a response, as in lmms-eval.
const MAX_ERROR: usize = 200;

/// Finished evaluation.
#[derive(Debug)]
pub struct ExportedEvaluation {
    /// Directory.
    pub dir: PathBuf,
    /// Record.
    pub record: EvaluationRecord,
    /// Scored answers, in the order of the data set.
    pub answers: Vec<ScoredAnswer>,
    /// Time at which the record was written.
    pub ended: DateTime<Utc>,
}

impl ExportedEvaluation {
    /// Reads the directory that `eval BENCHMARK.yaml --out` wrote.
    ///
    /// # Errors
    /// A missing or unreadable file, or scored answers that are not those of the record.
    pub fn read(dir: &Path) -> Result<Self> {
        let record = EvaluationRecord::read(dir)?;
        record.check_scored(dir)?;
        let path = dir.join(EVALUATION);
        let written = std::fs::metadata(&path).and_then(|meta| meta.modified()).map_err(Error::io(&path))?;
        Ok(Self { dir: dir.to_owned(), record, answers: read_scored(&dir.join(SCORED))?, ended: written.into() })
    }

    /// Refuses an evaluation of other questions, prompts or metrics than those of the benchmark.
    fn check(&self, benchmark: &ExportedBenchmark<'_>) -> Result<()> {
        let (here, spec) = (&self.record, benchmark.spec);
        let questions = benchmark.questions.get(..here.questions);
        let differing = match () {
            () if questions.is_none_or(|questions| split_hash(questions) != here.split_hash) => "questions",
            () if here.spec.prompt != spec.prompt => "prompts",
            () if here.spec.metrics != spec.metrics => "metrics",
            () => return Ok(()),
        };
        let rule = format!("its {differing} are not those of the benchmark");
        Err(Error::invalid(rule).with_hint("the description and data of that evaluation").about(&self.dir))
    }

    /// Returns the index of each answer's question.
    fn indices(&self, benchmark: &ExportedBenchmark<'_>) -> Result<Vec<usize>> {
        let mut questions = benchmark.questions.iter().take(self.record.questions).enumerate();
        let find = |answer: &ScoredAnswer| {
            let found = questions.find(|(_, question)| question.id == answer.question_id).map(|(index, _)| index);
            let rule = || Error::invalid("not a question of the benchmark, or not in its order");
            found.ok_or_else(|| rule().about(format!("question `{}`", answer.question_id)).about(self.dir.join(SCORED)))
        };
        self.answers.iter().map(find).collect()
    }
}

/// Line of the samples: lmms-eval's fields, then the outcome.
#[derive(Serialize)]
struct AnswerSample<'a> {
    doc_id: usize,
    target: &'a str,
    filtered_resps: String,
    token_counts: [Option<TokenCounts>; 1],
    doc_hash: &'a str,
    #[serde(flatten)]
    scores: BTreeMap<&'a str, f64>,
    input: &'a str,
    status: AnswerStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Numbers of tokens of a question.
#[derive(Debug, Clone, Copy, Serialize)]
struct TokenCounts {
    input_tokens: usize,
    output_tokens: usize,
    reasoning_tokens: usize,
}

/// Writes `<model>/<date>_samples_<task>.jsonl` and `<model>/<date>_results.json`. The date is that of the evaluation,
/// in UTC.
///
/// Every answer of the evaluation is a line. The first measure of the benchmark is the metric `score`, further ones
/// have their names. A failed or missing question scores 0; its response is the text with which lmms-eval marks a
/// failed request, and its `status` says so.
///
/// # Errors
/// An evaluation of other questions, prompts or metrics; a task name other than of letters, digits and underscores; a
/// directory that cannot be written.
pub fn write_lmms_samples(
    benchmark: &ExportedBenchmark<'_>,
    evaluation: &ExportedEvaluation,
    task: &str,
    out: &Path,
) -> Result<()> {
    check_task_name(task)?;
    evaluation.check(benchmark)?;
    let indices = evaluation.indices(benchmark)?;
    let dir = out.join(sanitized(&evaluation.record.plan.model));
    create_directory(&dir).about(&dir)?;
    let date = evaluation.ended.format("%Y%m%d_%H%M%S").to_string();
    let (documents, tokens) = (documents(benchmark)?, token_counts(benchmark, &evaluation.dir)?);
    let mut results = LmmsResults::new(&evaluation.record, task, &date, benchmark.questions.len());
    let path = dir.join(format!("{date}_samples_{task}.jsonl"));
    let mut file = OutputFile::create(&path).map_err(Error::io(&path))?;
    for (&index, answer) in indices.iter().zip(&evaluation.answers) {
        let hash = hash_of(&documents[index])?;
        let sample = AnswerSample {
            doc_id: index,
            target: &documents[index].answer,
            filtered_resps: response(answer),
            token_counts: [tokens.get(&index).copied()],
            doc_hash: &hash,
            scores: scores(answer, &evaluation.record.spec.metrics),
            input: documents[index].question,
            status: answer.status,
            error: answer.error.as_deref(),
        };
        results.add(&hash, &sample.scores);
        let line = serde_json::to_string(&sample).map_err(|error| Error::caused_by(Kind::Invalid, error))?;
        writeln!(file, "{line}").map_err(Error::io(&path))?;
    }
    file.finish(Durability::Synced).map_err(Error::io(&path))?;
    let path = dir.join(format!("{date}_results.json"));
    replace(&path, format!("{:#}\n", results.finish()).as_bytes(), Durability::Synced).about(&path)
}

/// Returns the scores by metric; none for a question without a published answer.
fn scores<'a>(answer: &ScoredAnswer, measures: &'a [Measure]) -> BTreeMap<&'a str, f64> {
    let score = |(rank, measure): (usize, &'a Measure)| {
        let name = if rank == 0 { SCORE } else { measure.name() };
        Some((name, *answer.scores.get(measure.name())?))
    };
    measures.iter().enumerate().filter_map(score).collect()
}

/// Returns the response: an answer, or the mark of a failed request with the reason.
fn response(answer: &ScoredAnswer) -> String {
    match (answer.status, &answer.given) {
        (AnswerStatus::Answered | AnswerStatus::Unparsed, Some(given)) => given.clone(),
        (status, _) => {
            let missing = if status == AnswerStatus::Missing { "the video is missing" } else { "no answer" };
            let error = answer.error.as_deref().unwrap_or(missing).replace('\n', " ");
            let error: String = error.chars().take(MAX_ERROR).collect();
            format!("{FAILED} 0 retries] {error}")
        }
    }
}

/// Returns the SHA-256 of a document as lmms-eval prints it: Python's JSON with an indent of 2, not escaped to ASCII.
fn hash_of(document: &TaskDocument<'_>) -> Result<String> {
    let text = serde_json::to_string_pretty(document).map_err(|error| Error::caused_by(Kind::Invalid, error))?;
    Ok(sha256(text.as_bytes()))
}

/// Returns the SHA-256 in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the numbers of tokens of the answered questions, by their index; none without the directory of the run.
fn token_counts(benchmark: &ExportedBenchmark<'_>, dir: &Path) -> Result<HashMap<usize, TokenCounts>> {
    let run = dir.join(RUN);
    let mut counts = HashMap::new();
    if !run.join(ANSWERS).exists() {
        return Ok(counts);
    }
    let mut asked: HashMap<_, Vec<usize>> = HashMap::new();
    let items = benchmark.tasks.items(benchmark.questions, benchmark.data);
    for (video, item) in benchmark.tasks.videos.iter().zip(items) {
        for (index, prompt) in video.asked() {
            asked.entry(item.id.with_question(prompt)).or_default().push(index);
        }
    }
    StoredResults::open(&run)?.for_each(&mut |record| {
        if let RecordOutcome::Answered(answer) = &record.outcome {
            let input_tokens = answer.prompt_tokens.0 + answer.visual_tokens.0;
            let of = TokenCounts { input_tokens, output_tokens: answer.token_ids.len(), reasoning_tokens: 0 };
            let indices = asked.get(&record.key()).map(Vec::as_slice).unwrap_or_default();
            counts.extend(indices.iter().map(|&index| (index, of)));
        }
        Ok(())
    })?;
    Ok(counts)
}
