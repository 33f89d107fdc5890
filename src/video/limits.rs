//! How far one reading may go: in time, in memory, in threads; and how it gets at frames. None of it changes a frame; a limit that is
//! reached is an error.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::VideoError;
use super::reader::{Event, Flow};

/// Bytes of an RGB frame where nothing else is asked for: 268 million pixels. No real picture is larger.
const FRAME_BYTES: u64 = 3 << 28;
/// Bytes of a pixel in RGB.
const RGB: u64 = 3;

/// How frames are got at. The frames are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// By seeking where that saves much and the packets show no damage, else straight.
    #[default]
    Auto,
    /// From front to back, all of it: the only way to know of every frame that it decodes.
    Straight,
    /// By seeking wherever the packets show no damage.
    Seek,
}

impl FromStr for Access {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "straight" => Ok(Self::Straight),
            "seek" => Ok(Self::Seek),
            _ => Err(format!("`{text}` is no way to get at frames; hint: auto, straight, seek")),
        }
    }
}

/// How far one reading may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadLimits {
    /// Of demuxing and decoding; the consumer's own time is left out. Default: none.
    pub time: Option<Duration>,
    /// The most that a frame may take as RGB, in bytes. Default: 768 MiB.
    pub frame_bytes: u64,
    /// Threads of the decoder; 0 is one for each core. Default: `0`.
    pub threads: usize,
    /// How frames are got at. Default: `auto`.
    pub access: Access,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self { time: None, frame_bytes: FRAME_BYTES, threads: 0, access: Access::Auto }
    }
}

impl ReadLimits {
    /// Pixels that a frame may have.
    pub(super) fn frame_pixels(&self) -> u64 {
        self.frame_bytes / RGB
    }

    /// Refuses a frame over the limit.
    pub(super) fn check_frame(&self, path: &Path, width: u32, height: u32) -> Result<(), VideoError> {
        let bytes = u64::from(width) * u64::from(height) * RGB;
        if bytes <= self.frame_bytes {
            return Ok(());
        }
        Err(VideoError::FrameSize { path: path.to_owned(), width, height, bytes, limit: self.frame_bytes })
    }
}

/// The time that a reading has taken. FFmpeg asks it, from within long calls, whether to give up.
#[derive(Debug)]
pub(super) struct Spent {
    begin: Instant,
    /// Nanoseconds that passed with the consumer.
    elsewhere: AtomicU64,
    limit: Option<Duration>,
}

impl Spent {
    pub(super) fn new(limit: Option<Duration>) -> Arc<Self> {
        Arc::new(Self { begin: Instant::now(), elsewhere: AtomicU64::new(0), limit })
    }

    /// Whether the limit is reached.
    pub(super) fn is_over(&self) -> bool {
        let elsewhere = Duration::from_nanos(self.elsewhere.load(Ordering::Relaxed));
        self.limit.is_some_and(|limit| self.begin.elapsed().saturating_sub(elsewhere) > limit)
    }

    /// An error once the limit is reached.
    pub(super) fn check(&self, path: &Path) -> Result<(), VideoError> {
        match self.limit {
            Some(limit) if self.is_over() => Err(VideoError::TimeLimit { path: path.to_owned(), limit }),
            _ => Ok(()),
        }
    }
}

/// A reading's consumer, and the limits that it set.
pub(super) struct Watch<'e> {
    pub(super) limits: ReadLimits,
    pub(super) spent: Arc<Spent>,
    emit: &'e mut dyn FnMut(Event) -> Flow,
}

impl<'e> Watch<'e> {
    pub(super) fn new(limits: ReadLimits, emit: &'e mut dyn FnMut(Event) -> Flow) -> Self {
        Self { limits, spent: Spent::new(limits.time), emit }
    }

    /// Tells the consumer, whose time does not count.
    pub(super) fn emit(&mut self, event: Event) -> Flow {
        let start = Instant::now();
        let flow = (self.emit)(event);
        let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.spent.elsewhere.fetch_add(nanoseconds, Ordering::Relaxed);
        flow
    }

    /// An error once the time is over.
    pub(super) fn check(&self, path: &Path) -> Result<(), VideoError> {
        self.spent.check(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_consumers_time_does_not_count() {
        let limit = Duration::from_millis(40);
        let mut slow = |_| {
            std::thread::sleep(Duration::from_millis(60));
            Flow::Continue
        };
        let mut watch = Watch::new(ReadLimits { time: Some(limit), ..ReadLimits::default() }, &mut slow);
        assert_eq!(watch.emit(Event::Waiting), Flow::Continue);
        assert!(watch.spent.elsewhere.load(Ordering::Relaxed) >= 60_000_000);
        std::thread::sleep(Duration::from_millis(60));
        let error = watch.check(Path::new("a.mp4")).expect_err("it slept beyond the limit").to_string();
        assert_eq!(error, "a.mp4: reading took longer than the limit of 0.04 s; hint: a longer --time-limit decode=");
    }

    #[test]
    fn a_frame_may_take_what_the_limit_says() {
        let limits = ReadLimits { frame_bytes: 300, ..ReadLimits::default() };
        assert!(limits.check_frame(Path::new("a.mp4"), 10, 10).is_ok());
        let error = limits.check_frame(Path::new("a.mp4"), 10, 11).expect_err("330 bytes").to_string();
        assert_eq!(
            error,
            "a.mp4: frames of 10 x 11 take 330 bytes as RGB, over the limit of 300; hint: a higher --frame-limit"
        );
    }
}
