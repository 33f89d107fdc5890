//! `vidense eval BENCHMARK.yaml --data DIR`: scores on a split of a benchmark.

use std::path::{Path, PathBuf};

use clap::Args;
use vidense::batch::Shard;
use vidense::batch::store::StoredResults;
use vidense::error::{About as _, Error};
use vidense::eval::benchmark::{
    AnswerScorer, AnswerStatus, BenchmarkSpec, BenchmarkTasks, EvaluatedSplit, EvaluationRecord, ScoredAnswer,
    ScoredResults, check_results_prompt, read_answers, read_benchmark, submission,
};
use vidense::eval::dataset::DatasetQuestions;
use vidense::eval::metrics::WordNet;
use vidense::eval::report;
use vidense::files::Durability;
use vidense::files::output::{check_not_input, create_directory, replace};
use vidense::spec::Plan;

use super::Eval;
use super::asking::RunDirectory;
use super::table::{ScoreReport, print_table};
use crate::cli::{SomeFailed, output};

/// File of the scored answers in the directory of an evaluation.
const SCORED: &str = "scored.jsonl";

/// Flags of a run, which mean nothing where results are only scored. A group cannot stand for its flags: a default value
/// in it hides that another of them is given.
const RUNNING: [&str; 39] = [
    "shard",
    "retry_failed",
    "cache",
    "cache_limit",
    "timings",
    "sets",
    "model",
    "vision_tower",
    "llm",
    "quant",
    "kv_dtype",
    "device",
    "dtype",
    "vision_device",
    "vision_dtype",
    "allow_unused",
    "frames",
    "sample",
    "access",
    "stream",
    "start",
    "end",
    "image_rate",
    "stall_limit",
    "temporal",
    "single_image",
    "template",
    "system",
    "timestamps",
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "seed",
    "kv_memory",
    "isolate",
    "time_limits",
    "frame_limit",
];

/// Flags of a benchmark.
#[derive(Args)]
pub(super) struct BenchmarkArgs {
    /// Directory of the benchmark's files and videos, to which the paths of its description are relative
    #[arg(long, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// Directory of the evaluation, new or to be resumed: run/ as vidense batch writes it, scored.jsonl, evaluation.json,
    /// report.html and report.md; of a matrix, a directory for each cell, and the table [default: none, a stopped run
    /// begins anew]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Part I of the videos, of N parts that together are the benchmark: 0/3, 1/3, 2/3; vidense results merge joins
    /// their run/ directories
    #[arg(long, value_name = "I/N", default_value = "0/1", hide_default_value = true, requires = "out")]
    pub(super) shard: Shard,
    /// Retry earlier failures
    #[arg(long, requires = "out")]
    pub(super) retry_failed: bool,
    /// Score these results of vidense batch or eval, and ask nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = RUNNING)]
    results: Option<PathBuf>,
    /// Share of the videos that must be there; above it, questions about missing videos count as wrong [default: 100]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    min_coverage: Option<f64>,
    /// Directory of WordNet's database files (dict), for WUPS
    #[arg(long, value_name = "DIR")]
    wordnet: Option<PathBuf>,
    /// File in the benchmark's own format for its server or official script (EgoSchema, LongVideoBench, MLVU,
    /// Video-MME)
    #[arg(long, value_name = "FILE")]
    submission: Option<PathBuf>,
}

/// Parses a percentage from 0 to 100, with or without its sign.
pub(super) fn percent(text: &str) -> Result<f64, Error> {
    let value = text.trim_end_matches('%').parse().ok().filter(|value: &f64| (0.0..=100.0).contains(value));
    value.ok_or_else(|| Error::invalid("expected a number from 0 to 100"))
}

impl BenchmarkArgs {
    /// Refuses the flags for a file of questions.
    ///
    /// # Errors
    /// The first flag that is set.
    pub(super) fn refuse(&self) -> anyhow::Result<()> {
        let Self { data, out, shard, retry_failed, results, min_coverage, wordnet, submission } = self;
        let set = [
            ("--data", data.is_some()),
            ("--out", out.is_some()),
            ("--shard", *shard != Shard::default()),
            ("--retry-failed", *retry_failed),
            ("--results", results.is_some()),
            ("--min-coverage", min_coverage.is_some()),
            ("--wordnet", wordnet.is_some()),
            ("--submission", submission.is_some()),
        ];
        match set.iter().find(|(_, is_set)| *is_set) {
            Some((flag, _)) => {
                let error = Error::invalid("a flag of benchmarks, not of files of questions").about(*flag);
                Err(error.with_hint("a description such as evals/egoschema-subset.yaml").into())
            }
            None => Ok(()),
        }
    }
}

impl BenchmarkArgs {
    /// Refuses the flags for a matrix.
    ///
    /// # Errors
    /// The first flag that is set.
    pub(super) fn refuse_for_matrix(&self) -> anyhow::Result<()> {
        let set = [
            ("--shard", self.shard != Shard::default()),
            ("--results", self.results.is_some()),
            ("--submission", self.submission.is_some()),
        ];
        match set.iter().find(|(_, is_set)| *is_set) {
            Some((flag, _)) => Err(Error::invalid("a flag of one benchmark, not of a matrix").about(*flag).into()),
            None => Ok(()),
        }
    }
}

/// Everything that is known before a model is loaded.
pub(super) struct PreparedBenchmark {
    pub(super) spec: BenchmarkSpec,
    pub(super) data: PathBuf,
    pub(super) dataset: DatasetQuestions,
    pub(super) tasks: BenchmarkTasks,
    pub(super) wordnet: Option<WordNet>,
}

impl Eval {
    /// Asks the questions of a benchmark that its results do not answer yet, and scores the answers.
    ///
    /// # Errors
    /// When a file cannot be read, videos are missing, the model cannot be opened, or a question failed.
    pub(super) fn run_benchmark(&self, description: &Path) -> anyhow::Result<()> {
        let mut prepared = self.prepare(description)?;
        let (stored, _temporary) = match &self.benchmark.results {
            Some(dir) => {
                let stored = StoredResults::open(dir)?;
                prepared.dataset.notes.extend(check_results_prompt(&stored, &prepared.spec));
                (stored, None)
            }
            None => {
                let dir = RunDirectory::of(self.benchmark.out.as_deref())?;
                self.ask(&prepared, dir.path())?;
                (StoredResults::open(dir.path())?, Some(dir))
            }
        };
        let PreparedBenchmark { spec, data, dataset, tasks, wordnet } = &mut prepared;
        let scorer = AnswerScorer { measures: &spec.metrics, wordnet: wordnet.as_ref() };
        let answers = read_answers(dataset, tasks, data, &ScoredResults { results: &stored, scorer })?;
        let n_questions = answers.len();
        let answers: Vec<ScoredAnswer> = answers.into_iter().flatten().collect();
        let n_left = n_questions - answers.len();
        if n_left > 0 && self.benchmark.shard != Shard::default() {
            return self.conclude_shard(&answers);
        }
        if n_left > 0 {
            dataset.notes.push(format!("{n_left} of {n_questions} questions were not asked, and are not counted"));
        }
        self.write_answers(spec, dataset, &answers)?;
        if let Some(out) = &self.benchmark.out {
            let split = EvaluatedSplit { description, spec, dataset, coverage: &tasks.coverage };
            EvaluationRecord::new(split, &stored)?.write(out)?;
            report::write(out)?;
        }
        let report = ScoreReport::new(spec, dataset, tasks, &answers);
        if self.json {
            output::json(&report)?
        } else {
            print_table(&report)?
        }
        let n_failed = n_failed(&answers) + n_left;
        if n_failed > 0 { Err(SomeFailed { n_failed }.into()) } else { Ok(()) }
    }

    /// Ends the run of a part of the benchmark, which has no scores of its own.
    fn conclude_shard(&self, answers: &[ScoredAnswer]) -> anyhow::Result<()> {
        let (shard, n) = (self.benchmark.shard, answers.len());
        output::note(&format!(
            "shard {shard}: {n} questions done; join the run directories of all shards by `vidense results merge`, and \
             score them by --results"
        ));
        let n_failed = n_failed(answers);
        if n_failed > 0 { Err(SomeFailed { n_failed }.into()) } else { Ok(()) }
    }

    /// Writes the scored answers, and the submission of a whole run.
    fn write_answers(
        &self,
        spec: &BenchmarkSpec,
        dataset: &DatasetQuestions,
        answers: &[ScoredAnswer],
    ) -> anyhow::Result<()> {
        if let Some(out) = &self.benchmark.out {
            write_scored(out, answers)?;
        }
        if let Some(path) = &self.answers {
            replace(path, &lines_of(answers)?, Durability::Synced).about(path)?;
        }
        if let Some(path) = self.benchmark.submission.as_deref().filter(|_| answers.len() == dataset.questions.len()) {
            let made = serde_json::to_vec_pretty(&submission(&spec.format, &dataset.questions, answers)?)?;
            replace(path, &made, Durability::Synced).about(path)?;
        }
        Ok(())
    }

    /// Reads the description and what it names.
    fn prepare(&self, description: &Path) -> anyhow::Result<PreparedBenchmark> {
        let spec = read_benchmark(description)?;
        let Some(data) = self.benchmark.data.as_deref() else {
            return Err(Error::invalid("a benchmark needs --data DIR")
                .about(description)
                .with_hint(spec.source)
                .into());
        };
        self.prepare_split(spec, data, description)
    }

    /// Reads the questions of a split and WordNet, and looks up the videos. `description` is the file that names them.
    pub(super) fn prepare_split(
        &self,
        spec: BenchmarkSpec,
        data: &Path,
        description: &Path,
    ) -> anyhow::Result<PreparedBenchmark> {
        let wordnet = self.wordnet(&spec)?;
        let mut dataset = spec.format.read(data)?;
        let n = dataset.questions.len();
        if let Some(expected) = spec.questions.filter(|expected| *expected != n) {
            dataset
                .notes
                .push(format!("the files have {n} questions, the split {expected}: no published result compares"));
        }
        if let Some(limit) = self.limit.filter(|limit| *limit < n) {
            dataset.questions.truncate(limit);
            dataset.notes.push(format!("only the first {limit} of {n} questions: no published result compares"));
        }
        let tasks = BenchmarkTasks::plan(&dataset.questions, &spec.prompt, data)?;
        tasks.check_coverage(self.benchmark.min_coverage.unwrap_or(100.0)).about(data)?;
        let read = || [description].into_iter().chain(dataset.files.iter().map(PathBuf::as_path));
        if let Some(path) = &self.benchmark.submission {
            // A format without a submission is refused before the run.
            submission(&spec.format, &[], &[]).about("--submission")?;
            self.check_output(path, read(), &tasks)?;
        }
        if let Some(path) = &self.answers {
            self.check_output(path, read(), &tasks)?;
        }
        Ok(PreparedBenchmark { spec, data: data.to_owned(), dataset, tasks, wordnet })
    }

    fn check_output<'a>(
        &self,
        path: &Path,
        files: impl Iterator<Item = &'a Path>,
        tasks: &'a BenchmarkTasks,
    ) -> anyhow::Result<()> {
        Ok(check_not_input(path, tasks.videos.iter().map(|video| video.path.as_path()).chain(files))?)
    }

    fn wordnet(&self, spec: &BenchmarkSpec) -> anyhow::Result<Option<WordNet>> {
        let needing = spec.metrics.iter().find(|metric| metric.needs_wordnet());
        match (&self.benchmark.wordnet, needing) {
            (Some(dir), Some(_)) => Ok(Some(WordNet::open(dir)?)),
            (None, Some(metric)) => {
                let error = Error::invalid(format!("the metric {} needs WordNet's database", metric.name()));
                Err(error.with_hint("--wordnet DIR, the directory dict of WordNet 3.0").into())
            }
            (Some(_), None) => {
                Err(Error::invalid("no metric of this benchmark needs WordNet").about("--wordnet").into())
            }
            (None, None) => Ok(None),
        }
    }

    /// Returns the plan of the flags, with the system text and the beginning of answers of the benchmark.
    pub(super) fn benchmark_plan(&self, spec: &BenchmarkSpec) -> anyhow::Result<Plan> {
        Ok(with_prompt(self.plan.plan()?, spec, "--system")?)
    }
}

/// Sets the system text and the beginning of answers of a benchmark. `own` names the plan's own system text.
pub(super) fn with_prompt(mut plan: Plan, spec: &BenchmarkSpec, own: &str) -> Result<Plan, Error> {
    if spec.prompt.system.is_some() {
        if plan.prompt.system.is_some() {
            return Err(Error::invalid("the benchmark's prompt sets the system text").about(own.to_owned()));
        }
        plan.prompt.system.clone_from(&spec.prompt.system);
    }
    plan.prompt.answer.clone_from(&spec.prompt.answer);
    Ok(plan)
}

/// Formats scored answers as lines.
fn lines_of(answers: &[ScoredAnswer]) -> anyhow::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for answer in answers {
        serde_json::to_writer(&mut lines, answer)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Writes the scored answers of an evaluation into its directory.
pub(super) fn write_scored(out: &Path, answers: &[ScoredAnswer]) -> anyhow::Result<()> {
    create_directory(out).about(out)?;
    Ok(replace(&out.join(SCORED), &lines_of(answers)?, Durability::Synced).about(out)?)
}

fn n_failed(answers: &[ScoredAnswer]) -> usize {
    answers.iter().filter(|answer| answer.status == AnswerStatus::Failed).count()
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn no_flag_of_a_run_is_ignored_where_results_are_scored() {
        let command = Eval::augment_args(clap::Command::new("eval"));
        let scoring = [
            "questions",
            "data",
            "out",
            "results",
            "min_coverage",
            "wordnet",
            "submission",
            "limit",
            "answers",
            "json",
        ];
        let unknown = command.get_arguments().map(|argument| argument.get_id().as_str());
        let unknown: Vec<&str> = unknown.filter(|id| !scoring.contains(id) && !RUNNING.contains(id)).collect();
        assert_eq!(unknown, [""; 0]);
    }
}
