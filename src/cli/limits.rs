//! Flags of isolation and limits, by which an item cannot affect others, and of the cache of visual tokens.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::{ArgAction, Args};
use vidense::error::{About as _, Error};
use vidense::pipeline::{FeatureCache, Limits};
use vidense::video::ReadLimits;
use vidense::video::worker::{Isolation, ProcessLifetime};

use super::output;

/// Flags of the limits of an item and of reading.
#[derive(Args)]
pub struct LimitArgs {
    #[command(flatten)]
    items: ItemLimitArgs,
    #[command(flatten)]
    read: ReadArgs,
}

/// Flags of the limits of an item.
#[derive(Args)]
pub struct ItemLimitArgs {
    /// Decode in a separate process, so that a crash or hang of a codec fails a single item [default: true in batch
    /// and for benchmarks of eval, else false]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    isolate: Option<bool>,
    /// Time limit of an item, in each stage or in a named stage: 90, 10m, decode=1h; may be given several times; in the
    /// stage generate an item is an answer, whose share of the work counts [default: 1h in batch and for
    /// benchmarks of eval, else none]
    #[arg(long = "time-limit", value_name = "[STAGE=]TIME")]
    time_limits: Vec<String>,
    /// Memory limit of a frame as RGB
    #[arg(long, value_name = "BYTES", default_value = "768MiB")]
    frame_limit: ByteSize,
}

/// Flag of the limit of a read.
#[derive(Debug, Clone, Args)]
pub struct ReadArgs {
    /// Time limit of a read that receives no data, and of a decoding process without a sign of life
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    stall_limit: Duration,
}

impl ReadArgs {
    /// Returns the limits of a single video.
    pub fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.stall = self.stall_limit;
        limits
    }

    /// Returns the limits of reading.
    pub fn read_limits(&self) -> ReadLimits {
        ReadLimits { stall: self.stall_limit, ..ReadLimits::default() }
    }
}

/// Supervision of a command, which sets the defaults of limits and isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supervision {
    /// A person watches: no time limit but that of stalled reads, and codecs run in this process.
    Attended,
    /// No person watches: an hour for each item, and codecs run in separate processes.
    Unattended,
}

/// Time limit of an item in a stage of an unattended command.
const UNATTENDED_LIMIT: Duration = Duration::from_secs(3600);

/// Address space of a process that decodes a downloaded video at most.
const DOWNLOAD_MEMORY: ByteSize = ByteSize::gib(4);

/// Returns the isolation of a command that decodes downloaded videos: a process for each reading, with a limit of
/// memory.
pub fn isolation_of_downloads(isolation: Isolation) -> Isolation {
    let memory = Some(DOWNLOAD_MEMORY.as_u64());
    Isolation { lifetime: ProcessLifetime::OneReading, memory, ..isolation }
}

impl LimitArgs {
    /// Returns the limits of each item.
    ///
    /// # Errors
    /// As [`ItemLimitArgs::limits`].
    pub fn limits(&self, supervision: Supervision) -> anyhow::Result<Limits> {
        self.items.limits(supervision, &self.read)
    }

    /// Returns the isolation of decoding, if it is isolated.
    ///
    /// # Errors
    /// As [`ItemLimitArgs::isolation`].
    pub fn isolation(&self, supervision: Supervision) -> anyhow::Result<Option<Isolation>> {
        self.items.isolation(supervision, &self.read)
    }
}

impl ItemLimitArgs {
    /// Returns the limits of each item, with the limit of a read from `read`.
    ///
    /// # Errors
    /// When a limit is invalid, or its stage unknown.
    pub fn limits(&self, supervision: Supervision, read: &ReadArgs) -> anyhow::Result<Limits> {
        let mut limits = read.limits();
        limits.frame_bytes = self.frame_limit.as_u64();
        if supervision == Supervision::Unattended {
            limits = limits.with_time(UNATTENDED_LIMIT);
        }
        let wrong = |text: &str, error: Error| error.about(format!("--time-limit {text}"));
        // A limit for all stages applies to stages without a limit of their own, in any order of the flags.
        for text in self.time_limits.iter().filter(|text| !text.contains('=')) {
            limits = limits.with_time(duration(text).map_err(|error| wrong(text, error))?);
        }
        for text in &self.time_limits {
            let Some((stage, time)) = text.split_once('=') else { continue };
            let time = duration(time).map_err(|error| wrong(text, error))?;
            limits.set_time(stage, time).map_err(|error| wrong(text, error))?;
        }
        Ok(limits)
    }

    /// Returns the isolation of decoding, if it is isolated.
    ///
    /// # Errors
    /// When the path of this program is unknown.
    pub fn isolation(&self, supervision: Supervision, read: &ReadArgs) -> anyhow::Result<Option<Isolation>> {
        if !self.isolate.unwrap_or(supervision == Supervision::Unattended) {
            return Ok(None);
        }
        // This program even if its file has been replaced by a newer version.
        let itself = Path::new("/proc/self/exe");
        let program = if itself.exists() { itself.to_owned() } else { std::env::current_exe()? };
        let arguments = vec![OsString::from("decode-worker")];
        let (stall, lifetime) = (read.stall_limit, ProcessLifetime::Kept);
        Ok(Some(Isolation { program, arguments, stall, lifetime, memory: None }))
    }
}

/// Flags of the cache of visual tokens.
#[derive(Args)]
pub struct CacheArgs {
    /// Directory of the cache of visual tokens [default: $VIDENSE_CACHE, else vidense/features in the user's cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Size limit of that directory; the least recently used entries are evicted
    #[arg(long, value_name = "BYTES", default_value = "20GiB")]
    cache_limit: ByteSize,
    /// Neither read nor write the cache of visual tokens
    #[arg(long, conflicts_with = "cache")]
    no_cache: bool,
}

impl CacheArgs {
    /// Opens the cache for the identity `made_by`. Returns `None` with `--no-cache`, and with a warning where the cache
    /// cannot be opened.
    pub fn open(&self, made_by: String) -> Option<FeatureCache> {
        if self.no_cache {
            return None;
        }
        let opened = cache_directory(self.cache.as_deref())
            .and_then(|dir| FeatureCache::open(&dir, self.cache_limit.as_u64(), made_by).about(dir));
        match opened {
            Ok(cache) => Some(cache),
            Err(error) => {
                let error = error.with_hint("--cache DIR").about("visual tokens are not kept");
                output::warning(&error.to_string());
                None
            }
        }
    }
}

/// Returns the directory of visual tokens: the named one, or the user's.
///
/// # Errors
/// When no directory is known.
pub fn cache_directory(named: Option<&Path>) -> Result<PathBuf, Error> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let users = || {
        let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
        cache.map(|cache| cache.join("vidense").join("features"))
    };
    let found = named.map(Path::to_owned).or_else(|| variable("VIDENSE_CACHE")).or_else(users);
    found.ok_or_else(|| Error::invalid("no directory: neither --cache nor $VIDENSE_CACHE nor $HOME is set"))
}

/// Parses `90`, `1.5`, `10m`, `1h 30m`.
///
/// # Errors
/// For any other text, and for zero.
pub fn duration(text: &str) -> Result<Duration, Error> {
    let time = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| Error::invalid(error.to_string()))?,
        Err(_) => humantime::parse_duration(text).map_err(|error| Error::invalid(error.to_string()))?,
    };
    if time.is_zero() { Err(Error::invalid("invalid limit of zero")) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_have_units() {
        for (text, seconds) in [("90", 90.0), ("0.5", 0.5), ("10m", 600.0), ("1h 30m", 5400.0)] {
            assert_eq!(duration(text).ok(), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "0", "-1", "x", "NaN", "inf", "1e99"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
