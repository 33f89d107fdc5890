//! `vidense batch status DIR`: how a batch stands, from another terminal, or after it ended.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use vidense::batch::ResultCounts;
use vidense::batch::Snapshot;
use vidense::batch::store::{LockHolder, StoredResults, holder};
use vidense::batch::summary::read_status;

use super::devices::part_dirs;
use super::tell;
use crate::cli::output;

/// Tell how a batch stands that runs elsewhere, or ran
#[derive(Args)]
pub struct Status {
    /// The results
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
    /// When there are no results.
    pub fn run(self) -> anyhow::Result<()> {
        let parts = part_dirs(&self.results);
        if parts.is_empty() {
            return self.tell(&self.results);
        }
        // What was shared among devices is told part by part.
        parts.iter().try_for_each(|part| {
            if !self.json {
                output::line(&format!("{}:", output::printable(&part.to_string_lossy())))?;
            }
            self.tell(part)
        })
    }

    fn tell(&self, dir: &Path) -> anyhow::Result<()> {
        let results = StoredResults::open(dir)?;
        let (holder, session) = (holder(dir), read_status(dir));
        let held = ResultCounts::of(&results.state);
        if self.json {
            return output::json(&StatusObject { running: holder.is_some(), holder, results: held, session });
        }
        match &holder {
            Some(holder) => output::line(&format!("running: {holder}"))?,
            None => output::line("not running; the command that began it goes on")?,
        }
        output::line(&format!("{} answers, {} failures", held.answers, held.failed))?;
        for (category, n) in &held.failed_by {
            output::line(&format!("  {n} {category}"))?;
        }
        if let Some(session) = session {
            let word = if holder.is_some() { "now" } else { "at last" };
            output::line(&format!("{word}: {} {}", tell::behind(&session), tell::line(&session)))?;
        }
        Ok(())
    }
}
