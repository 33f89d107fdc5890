//! How far one reading may go: in time, in memory, in threads; and how it gets at frames. None of it changes a frame; a
//! limit that is reached is an error.
//!
//! FFmpeg asks [`Spent`] from within long calls whether to give up: when the time is over, when a call brings nothing
//! for too long, or when the [`Halt`] of whoever reads says so.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, VariantNames};

use super::error;
use super::reader::{Event, Flow};
use crate::choice;
use crate::error::{Error, Kind};

/// Time without progress after which a reading is given up, where nothing else is asked for.
const STALL: Duration = Duration::from_secs(60);
/// Time that one call may wait once a run drains: what waits for data is then not worth finishing.
const DRAINING_STALL: Duration = Duration::from_millis(400);
/// Time that FFmpeg has to return once a call is to be given up.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes of an RGB frame where nothing else is asked for: 268 million pixels. No real picture is larger.
const FRAME_BYTES: u64 = 3 << 28;
/// Bytes of a pixel in RGB.
const RGB: u64 = 3;

/// How frames are got at. The frames are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, EnumString, VariantNames)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = unknown_access)]
pub enum Access {
    /// By seeking where that saves much and the packets show no damage, else straight.
    #[default]
    Auto,
    /// From front to back, all of it: the only way to know of every frame that it decodes.
    Straight,
    /// By seeking wherever the packets show no damage.
    Seek,
}

fn unknown_access(name: &str) -> Error {
    choice::unknown_name("access to frames", name, Access::VARIANTS)
}

/// How far one reading may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadLimits {
    /// Of demuxing and decoding; the consumer's own time is left out. Default: none.
    pub time: Option<Duration>,
    /// Of one call that brings nothing: FFmpeg waits for data that does not come. Default: 60 s.
    pub stall: Duration,
    /// The most that a frame may take as RGB, in bytes. Default: 768 MiB.
    pub frame_bytes: u64,
    /// Threads of the decoder; 0 is one for each core. Default: `0`.
    pub threads: usize,
    /// How frames are got at. Default: `auto`.
    pub access: Access,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self { time: None, stall: STALL, frame_bytes: FRAME_BYTES, threads: 0, access: Access::Auto }
    }
}

impl ReadLimits {
    /// Pixels that a frame may have.
    pub(super) fn frame_pixels(&self) -> u64 {
        self.frame_bytes / RGB
    }

    /// Refuses a frame over the limit.
    pub(super) fn check_frame(&self, path: &Path, width: u32, height: u32) -> Result<(), Error> {
        let bytes = u64::from(width) * u64::from(height) * RGB;
        if bytes <= self.frame_bytes {
            return Ok(());
        }
        let limit = self.frame_bytes;
        let rule = format!("frames of {width} x {height} take {bytes} bytes as RGB, over the limit of {limit}");
        Err(Error::new(Kind::FrameSize, rule).with_hint("a higher --frame-limit").about(path))
    }
}

/// Readiness to go on with a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Patience {
    /// Until the limits are reached.
    #[default]
    Full,
    /// While data comes: the run drains, and what waits is given up.
    WhileMoving,
    /// No time: the run is given up.
    Exhausted,
}

/// A way to end a reading early, asked from within FFmpeg's calls. Default: never.
#[derive(Clone, Default)]
pub struct Halt(Option<Arc<dyn Fn() -> Patience + Send + Sync>>);

impl Halt {
    /// A reading that goes on as long as `patience` says.
    pub fn new(patience: impl Fn() -> Patience + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(patience)))
    }

    pub(super) fn patience(&self) -> Patience {
        self.0.as_ref().map_or(Patience::Full, |patience| patience())
    }

    /// Whether what brought nothing for `silent` is to be given up.
    pub(super) fn gives_up(&self, silent: Duration) -> bool {
        match self.patience() {
            Patience::Full => false,
            Patience::WhileMoving => silent > DRAINING_STALL,
            Patience::Exhausted => true,
        }
    }
}

impl std::fmt::Debug for Halt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Halt").field(&self.patience()).finish()
    }
}

/// Reasons to end a reading early: its limits, and the reader's request to stop.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// How far it may go.
    pub limits: ReadLimits,
    /// Whether it is still wanted.
    pub halt: Halt,
}

impl From<&ReadLimits> for Bounds {
    fn from(limits: &ReadLimits) -> Self {
        Self { limits: *limits, halt: Halt::default() }
    }
}

impl From<&Bounds> for Bounds {
    fn from(bounds: &Bounds) -> Self {
        bounds.clone()
    }
}

/// Why a reading was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GivenUp {
    Time,
    Stall,
    Halt,
}

/// The time that a reading has taken. FFmpeg asks it, from within long calls, whether to give up.
#[derive(Debug)]
pub(super) struct Spent {
    begin: Instant,
    /// Others once a scan is read on.
    bounds: RwLock<Bounds>,
    /// Nanoseconds that passed with the consumer.
    elsewhere: AtomicU64,
    /// Nanoseconds from `begin` to the start of the current call.
    call: AtomicU64,
    /// Whether FFmpeg is in a call that may wait for data.
    is_inside: AtomicBool,
    /// Nanoseconds from `begin` to when the current call was seen to be over its limit from outside; 0 before that.
    seen_over: AtomicU64,
    /// Set once FFmpeg was told to give up: what it returns afterwards is no end of the file.
    given_up: OnceLock<GivenUp>,
}

impl Spent {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            begin: Instant::now(),
            bounds: RwLock::new(bounds),
            elsewhere: AtomicU64::new(0),
            call: AtomicU64::new(0),
            is_inside: AtomicBool::new(false),
            seen_over: AtomicU64::new(0),
            given_up: OnceLock::new(),
        })
    }

    pub(super) fn limits(&self) -> ReadLimits {
        self.with_bounds(|bounds| bounds.limits)
    }

    fn with_bounds<R>(&self, ask: impl FnOnce(&Bounds) -> R) -> R {
        ask(&self.bounds.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes on within other bounds after a pause that does not count.
    pub(super) fn resume(&self, bounds: Bounds, pause: Duration) {
        *self.bounds.write().unwrap_or_else(PoisonError::into_inner) = bounds;
        self.elsewhere.fetch_add(nanoseconds(pause), Ordering::Relaxed);
        self.begin_call();
    }

    /// Time that was not the consumer's.
    pub(super) fn worked(&self) -> Duration {
        self.since(&self.elsewhere)
    }

    /// Marks the start of a call that may wait for data.
    pub(super) fn begin_call(&self) {
        self.call.store(nanoseconds(self.begin.elapsed()), Ordering::Relaxed);
    }

    /// As [`Self::begin_call`], for a call of FFmpeg that lasts as long as what is returned.
    pub(super) fn enter(&self) -> Inside<'_> {
        self.begin_call();
        self.seen_over.store(0, Ordering::SeqCst);
        self.is_inside.store(true, Ordering::SeqCst);
        Inside(self)
    }

    /// The error of a call that goes on although it should have been given up for a while; asked from outside.
    pub(super) fn stuck(&self, path: &Path) -> Option<Error> {
        let reason = self.reason().filter(|_| self.is_inside.load(Ordering::SeqCst))?;
        let now = nanoseconds(self.begin.elapsed());
        let seen = self.seen_over.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst).err()?;
        (now.saturating_sub(seen) > nanoseconds(GRACE)).then(|| self.error(reason, path))
    }

    /// Whether the current call is to be given up; FFmpeg's interrupt callback.
    pub(super) fn is_over(&self) -> bool {
        if let Some(reason) = self.reason() {
            self.given_up.get_or_init(|| reason);
        }
        self.given_up.get().is_some()
    }

    fn reason(&self) -> Option<GivenUp> {
        let in_call = self.since(&self.call);
        if self.with_bounds(|bounds| bounds.halt.gives_up(in_call)) {
            Some(GivenUp::Halt)
        } else if self.is_time_over() {
            Some(GivenUp::Time)
        } else {
            (in_call > self.limits().stall).then_some(GivenUp::Stall)
        }
    }

    fn is_time_over(&self) -> bool {
        self.limits().time.is_some_and(|limit| self.worked() > limit)
    }

    fn since(&self, nanoseconds: &AtomicU64) -> Duration {
        self.begin.elapsed().saturating_sub(Duration::from_nanos(nanoseconds.load(Ordering::Relaxed)))
    }

    /// An error once a call was given up, or the time is over. A slow frame is no stall: only FFmpeg's own waiting is.
    pub(super) fn check(&self, path: &Path) -> Result<(), Error> {
        let reason = self.given_up.get().copied().or_else(|| self.is_time_over().then_some(GivenUp::Time));
        reason.map_or(Ok(()), |reason| Err(self.error(reason, path)))
    }

    fn error(&self, reason: GivenUp, path: &Path) -> Error {
        let limits = self.limits();
        match reason {
            GivenUp::Halt => error::halted(path),
            GivenUp::Stall => {
                let rule = format!("reading stalled: no data for {} s", limits.stall.as_secs_f64());
                Error::new(Kind::Stall, rule).with_hint(error::LONGER_STALL_LIMIT).about(path)
            }
            GivenUp::Time => error::time_limit(path, limits.time.unwrap_or_default()),
        }
    }
}

/// A call of FFmpeg that has not returned.
#[must_use = "the call ends where this is dropped"]
pub(super) struct Inside<'s>(&'s Spent);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.is_inside.store(false, Ordering::SeqCst);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A reading's consumer, and the limits that it set.
pub(super) struct Watch<'e> {
    pub(super) limits: ReadLimits,
    pub(super) spent: Arc<Spent>,
    emit: &'e mut dyn FnMut(Event) -> Flow,
}

impl<'e> Watch<'e> {
    pub(super) fn new(bounds: Bounds, emit: &'e mut dyn FnMut(Event) -> Flow) -> Self {
        Self { limits: bounds.limits, spent: Spent::new(bounds), emit }
    }

    /// Goes on with a reading that was paused, for another consumer and within other bounds.
    pub(super) fn resume(
        (spent, pause): (Arc<Spent>, Duration),
        bounds: Bounds,
        emit: &'e mut dyn FnMut(Event) -> Flow,
    ) -> Self {
        let limits = bounds.limits;
        spent.resume(bounds, pause);
        Self { limits, spent, emit }
    }

    /// Tells the consumer, whose time does not count.
    pub(super) fn emit(&mut self, event: Event) -> Flow {
        let start = Instant::now();
        let flow = (self.emit)(event);
        self.spent.elsewhere.fetch_add(nanoseconds(start.elapsed()), Ordering::Relaxed);
        self.spent.begin_call();
        flow
    }

    /// An error once the time is over.
    pub(super) fn check(&self, path: &Path) -> Result<(), Error> {
        self.spent.check(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_brings_nothing_is_given_up() {
        let path = Path::new("a.m3u8");
        let limits = ReadLimits { stall: Duration::from_millis(30), ..ReadLimits::default() };
        let spent = Spent::new(Bounds::from(&limits));
        assert!(!spent.is_over() && spent.check(path).is_ok());
        std::thread::sleep(Duration::from_millis(40));
        // Not asked from within a call, it says nothing; a new call has its own time.
        assert!(spent.check(path).is_ok());
        spent.begin_call();
        assert!(!spent.is_over());
        std::thread::sleep(Duration::from_millis(40));
        assert!(spent.is_over());
        let error = spent.check(path).expect_err("it waited beyond the limit").to_string();
        assert_eq!(
            error,
            "a.m3u8: reading stalled: no data for 0.03 s; hint: a longer --stall-limit, if the disk is that slow"
        );
    }

    #[test]
    fn a_call_that_does_not_return_is_stuck_a_while_after_its_limit() {
        let path = Path::new("a.mpd");
        let limits = ReadLimits { stall: Duration::ZERO, ..ReadLimits::default() };
        let spent = Spent::new(Bounds::from(&limits));
        let pause = || std::thread::sleep(GRACE + Duration::from_millis(50));
        // Outside of a call nothing is.
        assert!(spent.stuck(path).is_none());
        pause();
        assert!(spent.stuck(path).is_none());
        let inside = spent.enter();
        std::thread::sleep(Duration::from_millis(1));
        assert!(spent.stuck(path).is_none());
        pause();
        assert_eq!(spent.stuck(path).expect("it did not return").kind(), Kind::Stall);
        // Being asked from outside gives nothing up, and the next call has its own time.
        assert!(spent.check(path).is_ok());
        drop(inside);
        assert!(spent.stuck(path).is_none());
        let _inside = spent.enter();
        assert!(spent.stuck(path).is_none());
    }

    #[test]
    fn a_halt_ends_what_waits_and_at_last_everything() {
        let path = Path::new("a.m3u8");
        let patience = Arc::new(std::sync::Mutex::new(Patience::WhileMoving));
        let asked = patience.clone();
        let halt = Halt::new(move || *asked.lock().expect("no panic"));
        let spent = Spent::new(Bounds { halt, ..Bounds::default() });
        assert!(!spent.is_over());
        *patience.lock().expect("no panic") = Patience::Exhausted;
        assert!(spent.is_over());
        assert_eq!(spent.check(path).expect_err("it is given up").kind(), Kind::Halted);
        let halt = Halt::new(|| Patience::WhileMoving);
        assert!(!halt.gives_up(DRAINING_STALL) && halt.gives_up(2 * DRAINING_STALL));
        assert!(!Halt::default().gives_up(Duration::MAX));
    }

    #[test]
    fn the_consumers_time_does_not_count() {
        let limit = Duration::from_millis(40);
        let mut slow = |_| {
            std::thread::sleep(Duration::from_millis(60));
            Flow::Continue
        };
        let limits = ReadLimits { time: Some(limit), ..ReadLimits::default() };
        let mut watch = Watch::new(Bounds::from(&limits), &mut slow);
        assert_eq!(watch.emit(Event::Waiting), Flow::Continue);
        assert!(watch.spent.elsewhere.load(Ordering::Relaxed) >= 60_000_000);
        std::thread::sleep(Duration::from_millis(60));
        let error = watch.check(Path::new("a.mp4")).expect_err("it slept beyond the limit").to_string();
        assert_eq!(error, "a.mp4: reading took longer than the limit of 0.04 s; hint: a longer --time-limit decode=");
    }

    #[test]
    fn a_pause_does_not_count_and_what_follows_has_bounds_of_its_own() {
        let path = Path::new("a.mp4");
        let limits = |time| ReadLimits { time, stall: Duration::from_millis(30), ..ReadLimits::default() };
        let mut ignore = |_| Flow::Continue;
        let first = Watch::new(Bounds::from(&limits(None)), &mut ignore);
        let (spent, paused) = (first.spent.clone(), Instant::now());
        std::thread::sleep(Duration::from_millis(60));
        let limit = Duration::from_secs(20);
        let bounds = Bounds::from(&limits(Some(limit)));
        let resumed = Watch::resume((spent.clone(), paused.elapsed()), bounds, &mut ignore);
        // Neither the wait, longer than a stall, nor its time is held against the reading.
        assert!(!spent.is_over() && resumed.check(path).is_ok());
        assert!(spent.worked() < spent.begin.elapsed().saturating_sub(Duration::from_millis(59)));
        assert_eq!((resumed.limits.time, spent.limits().time), (Some(limit), Some(limit)));
        // What is asked whether to go on is the new reader.
        let halt = Halt::new(|| Patience::Exhausted);
        spent.resume(Bounds { halt, ..Bounds::default() }, Duration::ZERO);
        assert!(spent.is_over());
        assert_eq!(resumed.check(path).expect_err("it is given up").kind(), Kind::Halted);
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
