//! `vidense eval export BENCHMARK.yaml --data DIR --to FORMAT --out DIR`: questions of a benchmark, or the results of
//! an evaluation, for other programs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use vidense::error::Error;
use vidense::eval::benchmark::{BenchmarkTasks, read_benchmark};
use vidense::eval::export::{
    ExportedBenchmark, ExportedEvaluation, check_new_directory, write_dataset, write_lmms_samples, write_lmms_task,
    write_manifest,
};

use super::flags::percent;
use crate::cli::output;

/// Write the questions of a benchmark, or the results of an evaluation, for other programs
///
/// Questions are for vidense batch, lmms-eval or Hugging Face. Prompts are those that eval asks. Beside them,
/// pipeline.yaml has the system text and the beginning of answers of the benchmark, for a pipeline to extend. Results
/// are in the files of lmms-eval's --log_samples.
#[derive(Args)]
pub(super) struct ExportBenchmark {
    /// Description of the benchmark's split
    benchmark: PathBuf,
    /// Directory of the benchmark's files and videos
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Format: manifest (of vidense batch, with --root DIR of the data), lmms-eval (a task directory for its model
    /// openai), hugging-face (a data set's card and rows), or lmms-eval-samples (results, with --evaluation)
    #[arg(long, value_name = "FORMAT")]
    to: ExportFormat,
    /// Directory that vidense eval BENCHMARK.yaml --out wrote, whose results are exported
    #[arg(long, value_name = "DIR")]
    evaluation: Option<PathBuf>,
    /// Directory of the export
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of lmms-eval's task [default: vidense]
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// Share of the videos that must be there; above it, questions about missing videos are left
    /// out, but not from lmms-eval-samples [default: 100]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    min_coverage: Option<f64>,
}

/// Format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    Manifest,
    LmmsEval,
    LmmsEvalSamples,
    HuggingFace,
}

impl ExportBenchmark {
    /// Runs the command.
    ///
    /// # Errors
    /// When a file cannot be read, videos are missing, or the directory cannot be written.
    pub(super) fn run(self) -> anyhow::Result<()> {
        if self.task.is_some() && !matches!(self.to, ExportFormat::LmmsEval | ExportFormat::LmmsEvalSamples) {
            return Err(Error::invalid("a flag of --to lmms-eval and --to lmms-eval-samples").about("--task").into());
        }
        check_new_directory(&self.out)?;
        let spec = read_benchmark(&self.benchmark)?;
        let dataset = spec.format.read(&self.data)?;
        let tasks = BenchmarkTasks::plan(&dataset.questions, &spec.prompt, &self.data)?;
        let covered = tasks.check_coverage(self.min_coverage.unwrap_or(100.0));
        covered.map_err(|error| match tasks.videos.is_empty() {
            true => error.about(&self.data),
            false => error.with_hint("--min-coverage PERCENT leaves out their questions").about(&self.data),
        })?;
        let inputs: Vec<PathBuf> = dataset.files.iter().chain([&self.benchmark]).cloned().collect();
        let exported = ExportedBenchmark {
            spec: &spec,
            questions: &dataset.questions,
            tasks: &tasks,
            data: &self.data,
            inputs: &inputs,
        };
        let task = self.task.as_deref().unwrap_or("vidense");
        match (self.to, &self.evaluation) {
            (ExportFormat::LmmsEvalSamples, Some(dir)) => {
                write_lmms_samples(&exported, &ExportedEvaluation::read(dir)?, task, &self.out)?;
            }
            (ExportFormat::LmmsEvalSamples, None) => return Err(flag_error("missing: samples are of an evaluation")),
            (_, Some(_)) => return Err(flag_error("a flag of --to lmms-eval-samples")),
            (ExportFormat::Manifest, None) => write_manifest(&exported, &self.out)?,
            (ExportFormat::LmmsEval, None) => write_lmms_task(&exported, task, &self.out)?,
            (ExportFormat::HuggingFace, None) => write_dataset(&exported, &self.out)?,
        }
        dataset.notes.iter().for_each(|note| output::note(note));
        if !tasks.missing.is_empty() && self.to != ExportFormat::LmmsEvalSamples {
            let (n, of) = (tasks.missing.len(), dataset.questions.len());
            output::warning(&format!("{n} of {of} questions are left out: their videos are missing"));
        }
        Ok(output::path(&self.out)?)
    }
}

/// Makes the error about the directory of an evaluation.
fn flag_error(rule: &'static str) -> anyhow::Error {
    Error::invalid(rule).about("--evaluation DIR").into()
}
