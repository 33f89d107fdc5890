//! `vidense cache stats|clear`: the cache of visual tokens.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use serde::Serialize;
use vidense::error::Error;
use vidense::pipeline::features::{CacheStats, cache_stats, clear_cache};

use crate::cli::limits::cache_directory;
use crate::cli::output;

/// Show or clear the cache of visual tokens, which later questions about a video reuse
#[derive(Args)]
pub struct Cache {
    #[command(subcommand)]
    action: CacheAction,
    /// Directory of the cache [default: $VIDENSE_CACHE, else vidense/features in the user's cache]
    #[arg(long, value_name = "DIR", global = true)]
    cache: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum CacheAction {
    /// Print the number of entries, and their size
    Stats,
    /// Remove all entries
    Clear,
}

#[derive(Serialize)]
struct StatsObject {
    dir: String,
    entries: u64,
    bytes: u64,
    /// Seconds since 1970.
    oldest: Option<u64>,
}

impl Cache {
    /// Runs the command.
    ///
    /// # Errors
    /// When no directory is known, or an entry cannot be removed.
    pub fn run(self) -> anyhow::Result<()> {
        let dir = cache_directory(self.cache.as_deref())?;
        let (stats, word) = match self.action {
            CacheAction::Stats => (cache_stats(&dir), "holds"),
            CacheAction::Clear => (clear_cache(&dir).map_err(Error::io(&dir))?, "held"),
        };
        let CacheStats { n_entries, bytes, oldest } = stats;
        if self.json {
            let seconds = |time: std::time::SystemTime| {
                time.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
            };
            let dir = dir.display().to_string();
            return output::json(&StatsObject { dir, entries: n_entries, bytes, oldest: oldest.map(seconds) });
        }
        let oldest = oldest.map_or(String::new(), |time| {
            format!("; least recently used: {}", humantime::format_rfc3339_seconds(time))
        });
        let shown = dir.to_string_lossy();
        output::line(&format!(
            "{} {word} {n_entries} entries, {}{oldest}",
            output::printable(&shown),
            ByteSize(bytes)
        ))?;
        Ok(())
    }
}
