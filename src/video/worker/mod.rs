//! Isolation: reading in a separate process, so that a codec that crashes or hangs ends that process alone.
//!
//! A [`Worker`] starts the process when it is first needed and keeps it for the next videos; a dead process is
//! replaced. The process is this program with a subcommand that calls [`serve`]. It ends when its standard input
//! closes, so it does not outlive its parent.

mod confine;
#[cfg(debug_assertions)]
mod fault;
#[cfg(target_os = "linux")]
mod landlock;
mod process;
mod protocol;
mod serve;

#[cfg(debug_assertions)]
pub(super) use fault::inject_on_open;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;

pub use confine::Confinement;
pub use protocol::DecodeRequest;
pub use serve::serve;

use self::process::{PATIENCE, ReplyLimits, WorkerFailure, WorkerProcess, describe, is_killed};
use self::protocol::DecodeOutcome;
use super::{Bounds, Flow, FrameRequest, Patience, ReadEvent, ReadReport, ReadingForecast};
use crate::error::{Error, Kind};
use crate::video::error::{LONGER_STALL_LIMIT, halted};

/// Lifetime of a decoding process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProcessLifetime {
    /// The process serves one reading after the other.
    #[default]
    Kept,
    /// Each reading has a process of its own, which a codec that an earlier video took over cannot reach.
    OneReading,
}

/// Isolation of decoding in a process, and the limit of its silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// Program that serves requests.
    pub program: PathBuf,
    /// Arguments of the program; those of its [`Confinement`] follow.
    pub arguments: Vec<OsString>,
    /// Time without a reply after which the process is ended.
    pub stall: Duration,
    /// Lifetime of a process.
    pub lifetime: ProcessLifetime,
    /// Bytes of address space of a process at most, which is more than the memory that it uses: libraries and stacks of
    /// threads count. Under 512 MiB a process may not start.
    pub memory: Option<u64>,
}

impl Isolation {
    /// Returns the confinement of a process.
    fn confinement(&self) -> Confinement {
        Confinement { memory: self.memory, lifetime: self.lifetime }
    }
}

/// Client of a decoding process, which is started on demand.
#[derive(Debug)]
pub struct Worker<'i> {
    isolation: &'i Isolation,
    running: Option<WorkerProcess>,
    n_restarts: u64,
}

impl<'i> Worker<'i> {
    /// Makes a worker whose process is not started.
    pub fn new(isolation: &'i Isolation) -> Self {
        Self { isolation, running: None, n_restarts: 0 }
    }

    /// Number of processes that had to be replaced.
    pub fn n_restarts(&self) -> u64 {
        self.n_restarts
    }

    /// Reads frames like [`super::read_frames`], in the process. [`ReadEvent::Waiting`] is emitted while there is no
    /// reply.
    ///
    /// A process that was killed from outside is not the fault of the video, which is then retried once.
    ///
    /// # Errors
    /// See [`super::read_frames`]; and when the process crashes, hangs, or cannot be started.
    pub fn read_frames(
        &mut self,
        path: &Path,
        frames: &FrameRequest,
        bounds: &Bounds,
        emit: &mut dyn FnMut(ReadEvent) -> Flow,
    ) -> Result<ReadReport, Error> {
        let request = DecodeRequest::read_frames(path, frames, &bounds.limits);
        match self.run(&request, bounds, emit)? {
            Some(DecodeOutcome::Report(report)) => Ok(report),
            Some(DecodeOutcome::Forecast(_)) => Err(crashed(path, "a reply to another request", self.isolation.memory)),
            None => Ok(ReadReport::default()),
        }
    }

    /// Scans the packets of a video in the process, without decoding.
    ///
    /// # Errors
    /// See [`super::scan`] and [`super::Scanned::n_sampled`]; and when the process crashes, hangs, or cannot be
    /// started.
    pub fn probe(&mut self, path: &Path, frames: &FrameRequest, bounds: &Bounds) -> Result<ReadingForecast, Error> {
        let request = DecodeRequest::probe(path, frames, &bounds.limits);
        match self.run(&request, bounds, &mut |_| Flow::Continue)? {
            Some(DecodeOutcome::Forecast(forecast)) => Ok(forecast),
            Some(DecodeOutcome::Report(_)) => Err(crashed(path, "a reply to another request", self.isolation.memory)),
            None => Err(halted(path)),
        }
    }

    /// Sends a request and emits its events. Returns `None` if the consumer stopped the reading.
    fn run(
        &mut self,
        request: &DecodeRequest,
        bounds: &Bounds,
        emit: &mut dyn FnMut(ReadEvent) -> Flow,
    ) -> Result<Option<DecodeOutcome>, Error> {
        let path = &*request.path();
        let limits = ReplyLimits { time: bounds.limits.time, stall: self.isolation.stall, halt: &bounds.halt };
        let mut was_killed = false;
        loop {
            let running = match &mut self.running {
                Some(running) => running,
                None => {
                    let spawned = WorkerProcess::spawn(self.isolation).map_err(|source| no_process(path, source))?;
                    self.running.insert(spawned)
                }
            };
            let error = match running.read(path, request, &limits, emit) {
                Ok(Some(end)) => {
                    self.running.take_if(|_| self.isolation.lifetime == ProcessLifetime::OneReading);
                    return end.map(Some);
                }
                // The process is in the middle of an unwanted reading.
                Ok(None) => {
                    self.running = None;
                    return if bounds.halt.patience() == Patience::Full { Ok(None) } else { Err(halted(path)) };
                }
                Err(WorkerFailure::Ended(status)) if is_killed(status) && !was_killed => {
                    was_killed = true;
                    None
                }
                Err(WorkerFailure::Ended(status)) => Some(crashed(path, &describe(status), self.isolation.memory)),
                Err(WorkerFailure::OverLimit(error)) => Some(error),
            };
            self.running = None;
            self.n_restarts += 1;
            if let Some(error) = error {
                return Err(error);
            }
            // If all processes of this program are being ended, time for this one to be ended too.
            std::thread::sleep(10 * PATIENCE);
            if emit(ReadEvent::Restart) == Flow::Stop {
                return Ok(None);
            }
        }
    }
}

/// Returns the error of a decoding process that did not start.
fn no_process(path: &Path, source: io::Error) -> Error {
    Error::new(Kind::NoProcess, format!("no decoder process: {source}")).with_cause(source).about(path)
}

/// Returns the error of a decoding process that ended, perhaps for want of `memory`.
fn crashed(path: &Path, cause: &str, memory: Option<u64>) -> Error {
    let within = memory.map(|bytes| format!(" within its limit of {} of memory", ByteSize(bytes)));
    let error = Error::new(Kind::Crash, format!("its decoder crashed ({cause}){}", within.unwrap_or_default()));
    error.with_hint("`ffmpeg -i` may repair the file").about(path)
}

/// Returns the error of a decoding process that stopped replying.
fn hung(path: &Path, limit: Duration) -> Error {
    let rule = format!("its decoder hung: no sign of life for {} s", limit.as_secs_f64());
    Error::new(Kind::Hang, rule).with_hint(LONGER_STALL_LIMIT).about(path)
}
