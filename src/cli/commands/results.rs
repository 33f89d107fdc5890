//! `vidense results merge|export|report`: results of batches, merged, as a table, as a page.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use vidense::batch::export::{TableFormat, export, export_to};
use vidense::batch::store::{ANSWERS, SESSIONS, StoredResults, TIMINGS};
use vidense::batch::{merge, report};
use vidense::error::Error;
use vidense::files::output::check_not_input;

use crate::cli::output;

/// Merge the results of several machines, or export them as a table or a page
#[derive(Args)]
pub struct ResultsCommand {
    #[command(subcommand)]
    action: ResultsAction,
}

#[derive(Subcommand)]
enum ResultsAction {
    Merge(MergeResults),
    Export(Export),
    Report(Report),
}

/// Merge results of parts of an archive, and report overlaps and gaps
#[derive(Args)]
struct MergeResults {
    /// Directories of results that vidense batch wrote
    #[arg(required = true)]
    parts: Vec<PathBuf>,
    /// Directory of the merged results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Write results as a table with typed columns, one row for each answer or failure
#[derive(Args)]
struct Export {
    /// Directory of results that vidense batch wrote
    results: PathBuf,
    /// Format: parquet, csv, jsonl [default: by the extension of --out]
    #[arg(long, value_name = "FORMAT")]
    format: Option<TableFormat>,
    /// File of the table [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Write report.html again: thumbnails, answers, failures, filters
#[derive(Args)]
struct Report {
    /// Directory of results that vidense batch wrote
    results: PathBuf,
}

impl ResultsCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When results cannot be read, merged or written.
    pub fn run(self) -> anyhow::Result<()> {
        match self.action {
            ResultsAction::Merge(merge) => merge.run(),
            ResultsAction::Export(export) => export.run(),
            ResultsAction::Report(Report { results }) => Ok(output::path(&report::write(&results)?)?),
        }
    }
}

impl MergeResults {
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
        let results = StoredResults::open(&self.results)?;
        let extension = self.out.as_ref().and_then(|path| path.extension()).and_then(|extension| extension.to_str());
        let format = match (self.format, extension) {
            (Some(format), _) => format,
            (None, Some(extension)) => extension.parse()?,
            (None, None) => {
                let error = Error::invalid("unknown format of the table");
                return Err(error.with_hint("--format parquet, csv or jsonl").into());
            }
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
