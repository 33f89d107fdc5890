//! The flags that keep one item from costing others: isolation, limits, the cache of visual tokens.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use bytesize::ByteSize;
use clap::{ArgAction, Args};
use vidense::pipeline::{FeatureCache, Limits};
use vidense::video::ReadLimits;
use vidense::video::worker::Isolation;

use super::output;

/// How far one item may go, and how long a read may wait.
#[derive(Args)]
pub struct LimitArgs {
    #[command(flatten)]
    items: ItemLimitArgs,
    #[command(flatten)]
    read: ReadArgs,
}

/// How far one item may go.
#[derive(Args)]
pub struct ItemLimitArgs {
    /// Decode in a process of its own, so that a crash or hang of a codec costs one item [default: true in batch, else false]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    isolate: Option<bool>,
    /// The longest that an item may be worked on, in each stage or in one of them: 90, 10m, decode=1h; may be given several
    /// times; of generate an item is an answer, whose share of the work counts [default: 1h in batch, else none]
    #[arg(long = "time-limit", value_name = "[STAGE=]TIME")]
    time_limits: Vec<String>,
    /// The most that a frame may take as RGB
    #[arg(long, value_name = "BYTES", default_value = "768MiB")]
    frame_limit: ByteSize,
}

/// How long a read may wait.
#[derive(Debug, Clone, Args)]
pub struct ReadArgs {
    /// The longest that a read may bring nothing, and that a decoder's process may give no sign of life
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    stall_limit: Duration,
}

impl ReadArgs {
    /// The limits of a single video.
    pub fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.stall = self.stall_limit;
        limits
    }

    /// The limits of a reading.
    pub fn read_limits(&self) -> ReadLimits {
        ReadLimits { stall: self.stall_limit, ..ReadLimits::default() }
    }
}

/// What holds where no flag says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Somebody looks on: no limit of time but for a read that brings nothing, and codecs are trusted.
    Attended,
    /// Nobody does.
    Unattended,
}

/// Of an item in a stage, where nobody looks on.
const UNATTENDED: Duration = Duration::from_secs(3600);

impl LimitArgs {
    /// The limits of each item.
    ///
    /// # Errors
    /// As [`ItemLimitArgs::limits`].
    pub fn limits(&self, care: Care) -> anyhow::Result<Limits> {
        self.items.limits(care, &self.read)
    }

    /// How decoding is kept apart, if it is.
    ///
    /// # Errors
    /// As [`ItemLimitArgs::isolation`].
    pub fn isolation(&self, care: Care) -> anyhow::Result<Option<Isolation>> {
        self.items.isolation(care, &self.read)
    }
}

impl ItemLimitArgs {
    /// The limits of each item, whose reads wait as `read` says.
    ///
    /// # Errors
    /// When a limit is none, or of no stage.
    pub fn limits(&self, care: Care, read: &ReadArgs) -> anyhow::Result<Limits> {
        let mut limits = read.limits();
        limits.frame_bytes = self.frame_limit.as_u64();
        if care == Care::Unattended {
            limits = limits.with_time(UNATTENDED);
        }
        let wrong = |text: &str, cause: String| anyhow::anyhow!("--time-limit {text}: {cause}");
        // One for all stages holds where there is none of the stage's own, in whatever order they stand.
        for text in self.time_limits.iter().filter(|text| !text.contains('=')) {
            limits = limits.with_time(duration(text).map_err(|cause| wrong(text, cause))?);
        }
        for text in &self.time_limits {
            let Some((stage, time)) = text.split_once('=') else { continue };
            let time = duration(time).map_err(|cause| wrong(text, cause))?;
            limits.set_time(stage, time).map_err(|error| wrong(text, error.to_string()))?;
        }
        Ok(limits)
    }

    /// How decoding is kept apart, if it is.
    ///
    /// # Errors
    /// When this program cannot be found again.
    pub fn isolation(&self, care: Care, read: &ReadArgs) -> anyhow::Result<Option<Isolation>> {
        if !self.isolate.unwrap_or(care == Care::Unattended) {
            return Ok(None);
        }
        // This very program, also once its file was replaced by a newer one.
        let itself = Path::new("/proc/self/exe");
        let program = if itself.exists() { itself.to_owned() } else { std::env::current_exe()? };
        let arguments = vec![OsString::from("decode-worker")];
        Ok(Some(Isolation { program, arguments, stall: read.stall_limit }))
    }
}

/// Where visual tokens are kept.
#[derive(Args)]
pub struct CacheArgs {
    /// Where visual tokens are kept for later questions [default: $VIDENSE_CACHE, else vidense/features in the user's cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// How large that directory may grow; those go first that were not used for longest
    #[arg(long, value_name = "BYTES", default_value = "20GiB")]
    cache_limit: ByteSize,
    /// Neither keep visual tokens nor look for them
    #[arg(long, conflicts_with = "cache")]
    no_cache: bool,
}

impl CacheArgs {
    /// The cache for what `made_by` stands for; none where it is not wanted, or, which is told, not possible.
    pub fn open(&self, made_by: String) -> Option<FeatureCache> {
        if self.no_cache {
            return None;
        }
        let opened = cache_directory(self.cache.as_deref()).and_then(|dir| {
            FeatureCache::open(&dir, self.cache_limit.as_u64(), made_by).with_context(|| format!("{}", dir.display()))
        });
        match opened {
            Ok(cache) => Some(cache),
            Err(error) => {
                output::warning(&format!("visual tokens are not kept: {error:#}; hint: --cache DIR"));
                None
            }
        }
    }
}

/// The directory of visual tokens: the one that is named, or the user's.
///
/// # Errors
/// When there is no such place.
pub fn cache_directory(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let users = || {
        let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
        cache.map(|cache| cache.join("vidense").join("features"))
    };
    let found = named.map(Path::to_owned).or_else(|| variable("VIDENSE_CACHE")).or_else(users);
    found.context("neither --cache nor $VIDENSE_CACHE nor $HOME says where")
}

/// Reads `90`, `1.5`, `10m`, `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let seconds =
        text.parse::<f64>().ok().map(|seconds| Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string()));
    let time = seconds.unwrap_or_else(|| humantime::parse_duration(text).map_err(|error| error.to_string()))?;
    if time.is_zero() { Err("a limit of nothing".to_owned()) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_words() {
        for (text, seconds) in [("90", 90.0), ("0.5", 0.5), ("10m", 600.0), ("1h 30m", 5400.0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "0", "-1", "x", "NaN", "inf", "1e99"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
