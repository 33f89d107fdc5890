//! `vidense eval export BENCHMARK.yaml --data DIR --to FORMAT --out DIR`: questions of a benchmark for other programs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use vidense::error::Error;
use vidense::eval::benchmark::{BenchmarkTasks, read_benchmark};
use vidense::eval::export::{ExportedBenchmark, check_new_directory, write_dataset, write_lmms_task, write_manifest};

use super::flags::percent;
use crate::cli::output;

/// Write the questions of a benchmark for vidense batch, lmms-eval or Hugging Face
///
/// Prompts are those that eval asks. Beside them, pipeline.yaml has the system text and the beginning of answers of the
/// benchmark, for a pipeline to extend.
#[derive(Args)]
pub(super) struct ExportBenchmark {
    /// Description of the benchmark's split
    benchmark: PathBuf,
    /// Directory of the benchmark's files and videos
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Format: manifest (of vidense batch, with --root DIR of the data), lmms-eval (a task directory for its model
    /// openai), or hugging-face (a data set's card and rows)
    #[arg(long, value_name = "FORMAT")]
    to: ExportFormat,
    /// Directory of the export
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of lmms-eval's task [default: vidense]
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// Share of the videos that must be there; above it, questions about missing videos are left out [default: 100]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    min_coverage: Option<f64>,
}

/// Format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    Manifest,
    LmmsEval,
    HuggingFace,
}

impl ExportBenchmark {
    /// Runs the command.
    ///
    /// # Errors
    /// When a file cannot be read, videos are missing, or the directory cannot be written.
    pub(super) fn run(self) -> anyhow::Result<()> {
        if self.task.is_some() && self.to != ExportFormat::LmmsEval {
            return Err(Error::invalid("a flag of --to lmms-eval").about("--task").into());
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
        match self.to {
            ExportFormat::Manifest => write_manifest(&exported, &self.out)?,
            ExportFormat::LmmsEval => write_lmms_task(&exported, self.task.as_deref().unwrap_or("vidense"), &self.out)?,
            ExportFormat::HuggingFace => write_dataset(&exported, &self.out)?,
        }
        dataset.notes.iter().for_each(|note| output::note(note));
        if !tasks.missing.is_empty() {
            let (n, of) = (tasks.missing.len(), dataset.questions.len());
            output::warning(&format!("{n} of {of} questions are left out: their videos are missing"));
        }
        Ok(output::path(&self.out)?)
    }
}
