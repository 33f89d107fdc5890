//! `vidense eval BENCHMARK.yaml --data DIR`: scores on a split of a benchmark.

use std::path::{Path, PathBuf};

use vidense::batch::Shard;
use vidense::batch::store::StoredResults;
use vidense::error::{About as _, Error};
use vidense::eval::benchmark::{
    AnswerScorer, AnswerStatus, BenchmarkSpec, BenchmarkTasks, EvaluatedSplit, EvaluationRecord, ScoredAnswer,
    ScoredResults, check_results_prompt, read_answers, read_benchmark, scored_lines, submission, write_scored,
};
use vidense::eval::dataset::DatasetQuestions;
use vidense::eval::metrics::WordNet;
use vidense::eval::report;
use vidense::files::Durability;
use vidense::files::output::{check_not_input, replace};
use vidense::spec::Plan;

use super::Eval;
use super::asking::RunDirectory;
use super::flags::BenchmarkArgs;
use super::table::{ScoreReport, print_table};
use crate::cli::{SomeFailed, output};

/// Everything that is known before a model is loaded.
pub(super) struct PreparedBenchmark {
    /// File that names the questions.
    pub(super) description: PathBuf,
    pub(super) spec: BenchmarkSpec,
    pub(super) data: PathBuf,
    pub(super) dataset: DatasetQuestions,
    pub(super) tasks: BenchmarkTasks,
    pub(super) wordnet: Option<WordNet>,
}

impl PreparedBenchmark {
    /// Reads and scores the answers of results; `None` for a question without a record.
    ///
    /// # Errors
    /// When the results cannot be read.
    pub(super) fn answers(&self, results: &StoredResults) -> Result<Vec<Option<ScoredAnswer>>, Error> {
        let scorer = AnswerScorer { measures: &self.spec.metrics, wordnet: self.wordnet.as_ref() };
        read_answers(&self.dataset, &self.tasks, &self.data, &ScoredResults { results, scorer })
    }

    /// Writes the scored answers, the record and the report of an evaluation into its directory.
    ///
    /// # Errors
    /// When the results cannot be read, or a file cannot be written.
    pub(super) fn write_evaluation(
        &self,
        dir: &Path,
        results: &StoredResults,
        answers: &[ScoredAnswer],
    ) -> Result<(), Error> {
        let Self { description, spec, dataset, tasks, .. } = self;
        let scored_hash = &write_scored(dir, answers)?;
        let split = EvaluatedSplit { description, spec, dataset, coverage: &tasks.coverage, scored_hash };
        EvaluationRecord::new(split, results)?.write(dir)?;
        report::write(dir).map(|_| ())
    }
}

impl Eval {
    /// Asks the questions of a benchmark that its results do not answer yet, and scores the answers.
    ///
    /// # Errors
    /// When a file cannot be read, videos are missing, the model cannot be opened, or a question failed.
    pub(super) fn run_benchmark(&self, description: &Path) -> anyhow::Result<()> {
        self.check_outputs()?;
        let mut prepared = self.prepare(description)?;
        if let Some(out) = &self.benchmark.out {
            EvaluationRecord::check_directory(out, &prepared.spec)?;
        }
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
        let answers = prepared.answers(&stored)?;
        let n_questions = answers.len();
        let answers: Vec<ScoredAnswer> = answers.into_iter().flatten().collect();
        let n_left = n_questions - answers.len();
        if answers.is_empty() {
            let error =
                Error::invalid(format!("no record is of one of the {n_questions} questions of {}", prepared.spec.name));
            return Err(error.with_hint("results of the same benchmark, prompt and videos").about(stored.dir).into());
        }
        if n_left > 0 && self.benchmark.shard != Shard::default() {
            return self.conclude_shard(&answers);
        }
        if n_left > 0 {
            let note = format!("{n_left} of {n_questions} questions were not asked, and are not counted");
            prepared.dataset.notes.push(note);
        }
        if let Some(out) = &self.benchmark.out {
            prepared.write_evaluation(out, &stored, &answers)?;
        }
        let PreparedBenchmark { spec, dataset, tasks, .. } = &prepared;
        self.write_answers(spec, dataset, &answers)?;
        let report = ScoreReport::new(spec, dataset, tasks, &answers);
        if self.json {
            output::json(&report)?
        } else {
            print_table(&report)?
        }
        let n_failed = n_failed(&answers) + n_left;
        if n_failed > 0 { Err(SomeFailed { n_failed }.into()) } else { Ok(()) }
    }

    /// Refuses outputs that a part of a benchmark does not have, and two outputs in one file.
    fn check_outputs(&self) -> Result<(), Error> {
        let BenchmarkArgs { shard, submission, .. } = &self.benchmark;
        let outputs =
            [("--answers", self.answers.is_some()), ("--submission", submission.is_some()), ("--json", self.json)];
        let named = outputs.iter().find(|(_, is_set)| *is_set).filter(|_| *shard != Shard::default());
        if let Some((flag, _)) = named {
            let error = Error::invalid("a shard has no scores of its own").about(*flag);
            return Err(error.with_hint("with --results DIR, of the merged shards"));
        }
        if self.limit.is_some() && submission.is_some() {
            return Err(Error::invalid("a submission is of all questions").about("--limit"));
        }
        if self.answers.is_some() && self.answers == *submission {
            return Err(
                Error::invalid("one file for --answers and --submission").about(submission.clone().unwrap_or_default())
            );
        }
        Ok(())
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

    /// Writes the files of answers and of a submission that flags name; the submission of a whole run.
    fn write_answers(
        &self,
        spec: &BenchmarkSpec,
        dataset: &DatasetQuestions,
        answers: &[ScoredAnswer],
    ) -> anyhow::Result<()> {
        if let Some(path) = &self.answers {
            replace(path, &scored_lines(answers)?, Durability::Synced).about(path)?;
        }
        match &self.benchmark.submission {
            Some(path) if answers.len() == dataset.questions.len() => {
                let made = serde_json::to_vec_pretty(&submission(&spec.format, &dataset.questions, answers)?)?;
                replace(path, &made, Durability::Synced).about(path)?;
            }
            Some(path) => output::warning(&format!("{}: not written, since it is of all questions", path.display())),
            None => {}
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
        Ok(PreparedBenchmark {
            description: description.to_owned(),
            spec,
            data: data.to_owned(),
            dataset,
            tasks,
            wordnet,
        })
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

fn n_failed(answers: &[ScoredAnswer]) -> usize {
    answers.iter().filter(|answer| answer.status == AnswerStatus::Failed).count()
}
