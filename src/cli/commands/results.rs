//! `vidense results merge|export|report`: what batches wrote, joined, as a table, as a page.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use vidense::batch::export::{TableFormat, export, export_to};
use vidense::batch::store::{ANSWERS, SESSIONS, StoredResults as Stored, TIMINGS};
use vidense::batch::{merge, report};
use vidense::files::output::check_not_input;

use crate::cli::output;

/// Join the results of several machines, or make a table or a page of them
#[derive(Args)]
pub struct Results {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Merge(Merge),
    Export(Export),
    Report(Report),
}

/// Join results of parts of an archive; tell what overlaps, and what is missing
#[derive(Args)]
struct Merge {
    /// Directories that vidense batch wrote
    #[arg(required = true)]
    parts: Vec<PathBuf>,
    /// Where the joined results are to be
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Write results as a table: a row an answer or failure, typed columns
#[derive(Args)]
struct Export {
    /// A directory that vidense batch wrote
    results: PathBuf,
    /// parquet, csv, jsonl [default: as the name of --out ends]
    #[arg(long, value_name = "FORMAT")]
    format: Option<TableFormat>,
    /// The table's file [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Write report.html anew: thumbnails, answers, failures, filters
#[derive(Args)]
struct Report {
    /// A directory that vidense batch wrote
    results: PathBuf,
}

impl Results {
    /// Runs the command.
    ///
    /// # Errors
    /// When results cannot be read, joined or written.
    pub fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::Merge(merge) => merge.run(),
            Action::Export(export) => export.run(),
            Action::Report(Report { results }) => Ok(output::path(&report::write(&results)?)?),
        }
    }
}

impl Merge {
    fn run(self) -> anyhow::Result<()> {
        let merged = merge::merge(&self.parts, &self.out)?;
        report::write(&self.out)?;
        output::line(&format!(
            "{}: {} lines added, {} overlap",
            output::printable(&self.out.to_string_lossy()),
            merged.n_lines,
            merged.n_overlaps
        ))?;
        for conflict in &merged.conflicts {
            output::warning(&format!("answered differently in two parts, the first answer stays: {conflict}"));
        }
        for gap in &merged.gaps {
            output::warning(&format!("a gap: {gap}"));
        }
        match merged.conflicts.len() + merged.gaps.len() {
            0 => Ok(()),
            n_failed => Err(crate::cli::SomeFailed { n_failed }.into()),
        }
    }
}

impl Export {
    fn run(self) -> anyhow::Result<()> {
        let results = Stored::open(&self.results)?;
        let ending = self.out.as_ref().and_then(|path| path.extension()).and_then(|ending| ending.to_str());
        let format = match (self.format, ending) {
            (Some(format), _) => format,
            (None, Some(ending)) => ending.parse()?,
            (None, None) => anyhow::bail!("the table's format is wanted; hint: --format parquet, csv or jsonl"),
        };
        let Some(path) = &self.out else {
            return match export_to(&results, format, &mut std::io::stdout().lock()) {
                Err(error) if error.is_broken_pipe() => Ok(()),
                exported => Ok(exported.map(drop)?),
            };
        };
        let inputs = [ANSWERS, TIMINGS, SESSIONS].map(|name| self.results.join(name));
        check_not_input(path, inputs.iter().map(PathBuf::as_path))?;
        let n_rows = export(&results, format, path)?;
        output::note(&format!("{}: {n_rows} rows", path.display()));
        Ok(())
    }
}
