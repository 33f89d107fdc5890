//! `vidense eval`: scores of a model on a file of questions, or on a benchmark's split; `vidense eval compare`: two
//! runs; `vidense eval judge`: scores of open answers by a language model; `vidense eval report`: a page.

mod asking;
mod benchmark;
mod compare;
mod export;
mod flags;
mod judge;
mod matrix;
mod questions;
mod report;
mod score;
mod table;

use std::fs::File;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use vidense::error::{About as _, Error};
use vidense::eval::matrix::is_matrix;
use vidense::files::output::create_growing;
use vidense::pipeline::FeatureCache;
use vidense::pipeline::features::identity;

use self::compare::CompareRuns;
use self::export::ExportBenchmark;
use self::flags::BenchmarkArgs;
use self::judge::JudgeCommand;
use self::report::EvaluationReport;
use self::score::ScoreDocuments;
use crate::cli::args::PlanArgs;
use crate::cli::limits::ItemLimitArgs;
use crate::cli::session::Session;

/// Ask every question of a file or of a benchmark, and score the answers
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Eval {
    #[command(subcommand)]
    subcommand: Option<EvalSubcommand>,
    /// Questions as JSON objects, one a line or in an array, or as a table (.csv, .tsv): video, question, answer, type,
    /// question_id; or the description of a benchmark's split (.yaml), with --data; or a matrix of pipelines (.yaml
    /// with the key matrix), with --out
    #[arg(required = true)]
    questions: Option<PathBuf>,
    #[command(flatten)]
    benchmark: BenchmarkArgs,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    items: ItemLimitArgs,
    /// Value that overrides that of a matrix's pipeline, such as model=DIR; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Directory of the cache of visual tokens, for later runs [default: no cache; of a matrix, cache in --out]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Size limit of that directory; the least recently used entries are evicted
    #[arg(long, value_name = "BYTES", default_value = "20GiB", requires = "cache")]
    cache_limit: ByteSize,
    /// Number of questions that are asked [default: all]
    #[arg(long, value_name = "N", value_parser = n_questions)]
    limit: Option<usize>,
    /// File of JSON lines, one for each question with its answer
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Print one JSON object in place of the table
    #[arg(long)]
    json: bool,
    /// Print the time of each stage, and the bottleneck
    #[arg(long)]
    timings: bool,
}

#[derive(Subcommand)]
enum EvalSubcommand {
    Compare(CompareRuns),
    Judge(JudgeCommand),
    Report(EvaluationReport),
    Export(ExportBenchmark),
    Score(ScoreDocuments),
}

impl Eval {
    /// Runs the command.
    ///
    /// # Errors
    /// When a file cannot be read, the model cannot be opened, or a question failed.
    pub fn run(self) -> anyhow::Result<()> {
        match self.subcommand {
            Some(EvalSubcommand::Compare(compare)) => return compare.run(),
            Some(EvalSubcommand::Judge(judge)) => return judge.run(),
            Some(EvalSubcommand::Report(report)) => return report.run(),
            Some(EvalSubcommand::Export(export)) => return export.run(),
            Some(EvalSubcommand::Score(score)) => return score.run(),
            None => {}
        }
        let questions = self.questions.clone().unwrap_or_default();
        let extension = questions.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let is_yaml = matches!(extension.to_ascii_lowercase().as_str(), "yaml" | "yml");
        if is_yaml && is_matrix(&questions)? {
            return self.run_matrix(&questions);
        }
        if let Some(set) = self.sets.first() {
            let error = Error::invalid("a flag of matrices").with_hint("a flag of its own, such as --model");
            return Err(error.about(format!("--set {set}")).into());
        }
        match is_yaml {
            true => self.run_benchmark(&questions),
            false => self.run_questions(&questions),
        }
    }

    fn features(&self, dir: &Path, session: &Session) -> anyhow::Result<FeatureCache> {
        let made_by = identity(&session.model)?;
        Ok(FeatureCache::open(dir, self.cache_limit.as_u64(), made_by).about(dir)?)
    }
}

fn n_questions(text: &str) -> Result<usize, Error> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| Error::invalid("expected a number of at least 1"))
}

/// Creates the file of answers.
fn create(path: &Path) -> anyhow::Result<File> {
    Ok(create_growing(path).about(path)?)
}

/// Returns the name of the file of answers for messages.
fn shown(path: &Option<PathBuf>) -> std::path::Display<'_> {
    path.as_deref().unwrap_or(Path::new("answers")).display()
}
