//! `vidense batch status DIR`: progress of a batch, from another terminal or after its end.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use vidense::batch::ResultCounts;
use vidense::batch::Snapshot;
use vidense::batch::store::{LockHolder, StoredResults, holder};
use vidense::batch::summary::read_status;
use vidense::error::Error;

use super::devices::part_dirs;
use crate::cli::{batch_messages, output};

/// Show the progress of a batch that runs elsewhere, or has ended
#[derive(Args)]
pub struct Status {
    /// Directory of the results
    results: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct StatusObject {
    running: bool,
    holder: Option<LockHolder>,
    results: ResultCounts,
    session: Option<Snapshot>,
}

impl Status {
    /// Runs the command.
    ///
    /// # Errors
    /// When there are no results in the directory.
    pub fn run(self) -> anyhow::Result<()> {
        let parts = part_dirs(&self.results);
        if parts.is_empty() {
            return self.print(&self.results);
        }
        // Results that are shared among devices are printed part by part.
        parts.iter().try_for_each(|part| {
            if !self.json {
                output::line(&format!("{}:", output::printable(&part.to_string_lossy())))?;
            }
            self.print(part)
        })
    }

    fn print(&self, dir: &Path) -> anyhow::Result<()> {
        let results = StoredResults::open(dir)?;
        let (holder, session) = (holder(dir), read_status(dir));
        let held = ResultCounts::of(&results.state);
        if self.json {
            return output::json(&StatusObject { running: holder.is_some(), holder, results: held, session });
        }
        match &holder {
            Some(holder) => output::line(&format!("running: {holder}"))?,
            None => {
                let note = Error::invalid("not running").with_hint("the command that began it resumes");
                output::line(&note.to_string())?;
            }
        }
        output::line(&format!("{} answers, {} failures", held.answers, held.failed))?;
        for (category, n) in &held.failed_by {
            output::line(&format!("  {n} {category}"))?;
        }
        if let Some(session) = session {
            let word = if holder.is_some() { "now" } else { "at last" };
            output::line(&format!(
                "{word}: {} {}",
                batch_messages::format_done(&session),
                batch_messages::format_rates(&session)
            ))?;
        }
        Ok(())
    }
}
