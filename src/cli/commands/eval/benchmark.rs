//! `vidense eval BENCHMARK.yaml --data DIR`: scores on a split of a benchmark.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use vidense::error::{About as _, Error};
use vidense::eval::benchmark::{
    AnswerScorer, AnswerStatus, BenchmarkRun, BenchmarkSpec, BenchmarkTasks, ScoredAnswer, read_benchmark, submission,
};
use vidense::eval::dataset::DatasetQuestions;
use vidense::eval::metrics::WordNet;
use vidense::exec::{RunControl, Stop};
use vidense::files::Durability;
use vidense::files::output::{check_not_input, replace};
use vidense::pipeline::VideoOptions;
use vidense::spec::{Document, Plan};

use super::Eval;
use super::table::{ScoreReport, print_table};
use crate::cli::limits::Supervision;
use crate::cli::session::Session;
use crate::cli::{SomeFailed, interrupt, output, progress, timings};

/// Flags of a benchmark.
#[derive(Args)]
pub(super) struct BenchmarkArgs {
    /// Directory of the benchmark's files and videos, to which the paths of its description are relative
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
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

fn percent(text: &str) -> Result<f64, Error> {
    let value = text.trim_end_matches('%').parse().ok().filter(|value: &f64| (0.0..=100.0).contains(value));
    value.ok_or_else(|| Error::invalid("expected a number from 0 to 100"))
}

impl BenchmarkArgs {
    /// Refuses the flags for a file of questions.
    ///
    /// # Errors
    /// The first flag that is set.
    pub(super) fn refuse(&self) -> anyhow::Result<()> {
        let Self { data, min_coverage, wordnet, submission } = self;
        let set = [
            ("--data", data.is_some()),
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

/// Everything that is known before a model is loaded.
struct PreparedBenchmark {
    spec: BenchmarkSpec,
    dataset: DatasetQuestions,
    tasks: BenchmarkTasks,
    wordnet: Option<WordNet>,
}

impl Eval {
    /// Asks the questions of a benchmark.
    ///
    /// # Errors
    /// When a file cannot be read, videos are missing, the model cannot be opened, or a question failed.
    pub(super) fn run_benchmark(&self, description: &Path) -> anyhow::Result<()> {
        let prepared = self.prepare(description)?;
        let PreparedBenchmark { spec, dataset, tasks, wordnet } = &prepared;
        let scorer = AnswerScorer { measures: &spec.metrics, wordnet: wordnet.as_ref() };
        let mut answers: Vec<Option<ScoredAnswer>> = vec![None; dataset.questions.len()];
        let mut file = self.answers.as_deref().map(super::create).transpose()?;
        let mut record = |index: usize, answer: ScoredAnswer| -> anyhow::Result<()> {
            if let Some(file) = &mut file {
                let written = writeln!(file, "{}", serde_json::to_string(&answer)?);
                written.map_err(|error| anyhow::anyhow!("{}: {error}", super::shown(&self.answers)))?;
            }
            answers[index] = Some(answer);
            Ok(())
        };
        for &index in &tasks.missing {
            record(index, scorer.missing(&dataset.questions[index]))?;
        }
        self.ask(&prepared, &scorer, &mut record)?;
        let n_left = answers.iter().filter(|answer| answer.is_none()).count();
        let answers: Vec<ScoredAnswer> = answers.into_iter().flatten().collect();
        if let Some(path) = self.benchmark.submission.as_deref().filter(|_| n_left == 0) {
            let made = serde_json::to_vec_pretty(&submission(&spec.format, &dataset.questions, &answers)?)?;
            replace(path, &made, Durability::Synced).about(path)?;
        }
        let report = ScoreReport::new(spec, dataset, tasks, &answers);
        if self.json {
            output::json(&report)?
        } else {
            print_table(&report)?
        }
        if n_left > 0 {
            output::warning(&format!("stopped: {n_left} of {} questions were not asked", dataset.questions.len()));
        }
        let n_failed = answers.iter().filter(|answer| answer.status == AnswerStatus::Failed).count() + n_left;
        if n_failed > 0 { Err(SomeFailed { n_failed }.into()) } else { Ok(()) }
    }

    /// Reads the description, the questions and WordNet, and looks up the videos.
    fn prepare(&self, description: &Path) -> anyhow::Result<PreparedBenchmark> {
        let spec = read_benchmark(description)?;
        let Some(data) = self.benchmark.data.as_deref() else {
            return Err(Error::invalid("a benchmark needs --data DIR")
                .about(description)
                .with_hint(spec.source)
                .into());
        };
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
        Ok(PreparedBenchmark { spec, dataset, tasks, wordnet })
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
    fn benchmark_plan(&self, spec: &BenchmarkSpec) -> anyhow::Result<Plan> {
        let mut plan = self.plan.plan()?;
        if spec.prompt.system.is_some() {
            if plan.prompt.system.is_some() {
                return Err(Error::invalid("the benchmark's prompt sets the system text").about("--system").into());
            }
            plan.prompt.system.clone_from(&spec.prompt.system);
        }
        plan.prompt.answer.clone_from(&spec.prompt.answer);
        Ok(plan)
    }

    /// Asks about the videos that are there.
    fn ask(
        &self,
        prepared: &PreparedBenchmark,
        scorer: &AnswerScorer<'_>,
        record: &mut dyn FnMut(usize, ScoredAnswer) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let PreparedBenchmark { spec, dataset, tasks, .. } = prepared;
        if tasks.videos.is_empty() {
            return Ok(());
        }
        let plan = self.benchmark_plan(spec)?;
        // Without a first question: a damaged first video fails alone.
        let session = Session::open(plan, &Document::empty())?;
        let bar = progress::asking(dataset.questions.len() - tasks.missing.len());
        let stop = Stop::new();
        interrupt::stop_on(&stop)?;
        let begin = Instant::now();
        let isolation = self.items.isolation(Supervision::Attended, self.plan.read())?;
        let features = self.cache.as_deref().map(|dir| self.features(dir, &session)).transpose()?;
        let options = VideoOptions {
            limits: self.items.limits(Supervision::Attended, self.plan.read())?,
            isolation: isolation.as_ref(),
            features: features.as_ref(),
            ..session.video_options()
        };
        let control = RunControl::until(&stop);
        let run = BenchmarkRun { asking: session.model.asking(), videos: &tasks.videos, options, control: &control };
        let report = run.run(&mut |index, answer| {
            let question = &dataset.questions[index];
            bar.inc(1);
            match answer {
                Ok(given) => record(index, scorer.answered(question, given)),
                Err(error) => {
                    let video = question.video.shown();
                    bar.suspend(|| output::warning(&format!("{video}: {error} (in the stage {})", error.stage)));
                    record(index, scorer.failed(question, error.to_string()))
                }
            }
        });
        bar.finish_and_clear();
        let report = report??;
        if self.timings {
            timings::print(&report, begin.elapsed());
        }
        Ok(())
    }
}
