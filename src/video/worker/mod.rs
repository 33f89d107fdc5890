//! Isolation: reading in a separate process, so that a codec that crashes or hangs ends that process alone.
//!
//! A [`Worker`] starts the process when it is first needed and keeps it for the next videos; a dead process is
//! replaced. The process is this program with a subcommand that calls [`serve`]. It ends when its standard input
//! closes, so it does not outlive its parent.

#[cfg(debug_assertions)]
mod fault;
mod protocol;
mod serve;

#[cfg(debug_assertions)]
pub(super) use fault::inject_on_open;

use std::ffi::OsString;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

pub use protocol::DecodeRequest;
pub use serve::serve;

use self::protocol::DecodeReply;
use super::limits::Halt;
use super::{Bounds, Flow, FrameRequest, Patience, ReadEvent, ReadReport};
use crate::error::{Error, Kind};
use crate::video::error::{LONGER_STALL_LIMIT, halted, time_limit};

/// Time between two events, each of which may return [`Flow::Stop`].
const PATIENCE: Duration = Duration::from_millis(100);
/// Longest time between two replies of a healthy process.
const SIGN: Duration = Duration::from_millis(300);
/// Time after its limit until a process that does not enforce the limit itself is ended.
const GRACE: Duration = Duration::from_secs(2);

/// Isolation of decoding in a process, and the limit of its silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// Program that serves requests.
    pub program: PathBuf,
    /// Arguments of the program.
    pub arguments: Vec<OsString>,
    /// Time without a reply after which the process is ended.
    pub stall: Duration,
}

/// Client of a decoding process, which is started on demand.
#[derive(Debug)]
pub struct Worker<'i> {
    isolation: &'i Isolation,
    running: Option<WorkerProcess>,
    n_restarts: u64,
}

#[derive(Debug)]
struct WorkerProcess {
    child: Child,
    /// Standard input of the process; closed to end the process.
    requests: Option<ChildStdin>,
    replies: Receiver<io::Result<DecodeReply>>,
    reader: Option<JoinHandle<()>>,
}

/// Limits of a reading in the process.
struct ReplyLimits<'h> {
    time: Option<Duration>,
    /// Time without a reply.
    stall: Duration,
    halt: &'h Halt,
}

/// Failure of a process.
enum WorkerFailure {
    /// The process ended.
    Ended(ExitStatus),
    /// The process is over its limits.
    Silent(Error),
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
        let request = DecodeRequest::new(path, frames, &bounds.limits);
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
            let error = match running.read(path, &request, &limits, emit) {
                Ok(Some(end)) => return end,
                // The process is in the middle of an unwanted reading.
                Ok(None) => {
                    self.running = None;
                    if bounds.halt.patience() == Patience::Full {
                        return Ok(ReadReport::default());
                    }
                    return Err(halted(path));
                }
                Err(WorkerFailure::Ended(status)) if is_killed(status) && !was_killed => {
                    was_killed = true;
                    None
                }
                Err(WorkerFailure::Ended(status)) => Some(crashed(path, &describe(status))),
                Err(WorkerFailure::Silent(error)) => Some(error),
            };
            self.running = None;
            self.n_restarts += 1;
            if let Some(error) = error {
                return Err(error);
            }
            // If all processes of this program are being ended, time for this one to be ended too.
            std::thread::sleep(10 * PATIENCE);
            if emit(ReadEvent::Restart) == Flow::Stop {
                return Ok(ReadReport::default());
            }
        }
    }
}

impl WorkerProcess {
    fn spawn(isolation: &Isolation) -> io::Result<Self> {
        let mut command = Command::new(&isolation.program);
        command.args(&isolation.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Ctrl-C is the parent's.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let (requests, output) = (child.stdin.take(), child.stdout.take());
        let mut output = BufReader::with_capacity(1 << 16, output.ok_or(io::ErrorKind::BrokenPipe)?);
        let (sender, replies) = bounded(1);
        let reader = Builder::new().name("replies".to_owned()).spawn(move || {
            loop {
                let Some(reply) = DecodeReply::read(&mut output).transpose() else { return };
                let is_last = reply.is_err();
                if sender.send(reply).is_err() || is_last {
                    return;
                }
            }
        });
        // If the thread fails to start, dropping `running` ends the process.
        let mut running = Self { child, requests, replies, reader: None };
        running.reader = Some(reader?);
        Ok(running)
    }

    /// Sends a request and emits its events. Returns the end of the reading, or `None` if the consumer stopped it.
    fn read(
        &mut self,
        path: &Path,
        request: &DecodeRequest,
        limits: &ReplyLimits<'_>,
        emit: &mut dyn FnMut(ReadEvent) -> Flow,
    ) -> Result<Option<Result<ReadReport, Error>>, WorkerFailure> {
        let Some(requests) = &mut self.requests else { return Err(self.ended()) };
        if request.write(requests).is_err() {
            return Err(self.ended());
        }
        let (mut waited, mut silent) = (Duration::ZERO, Duration::ZERO);
        loop {
            let start = Instant::now();
            let reply = self.replies.recv_timeout(PATIENCE);
            // A longer step means that the whole program was suspended, which does not count.
            let step = start.elapsed().min(2 * PATIENCE);
            waited += step;
            silent += step;
            let event = match reply {
                Ok(Ok(DecodeReply::End(end))) => return Ok(Some(end)),
                Ok(Ok(DecodeReply::Event(event))) => {
                    silent = Duration::ZERO;
                    event
                }
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => ReadEvent::Waiting,
            };
            if let Some(limit) = limits.time.filter(|limit| waited > *limit + GRACE) {
                return Err(WorkerFailure::Silent(time_limit(path, limit)));
            }
            if silent > limits.stall {
                return Err(WorkerFailure::Silent(hung(path, limits.stall)));
            }
            // A run that drains waits only while the process replies, several times a second.
            let gives_up = limits.halt.gives_up(silent.saturating_sub(SIGN));
            if gives_up || emit(event) == Flow::Stop {
                return Ok(None);
            }
        }
    }

    /// Returns the exit status of a process that closed its output or broke the protocol.
    fn ended(&mut self) -> WorkerFailure {
        self.requests = None;
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) => return WorkerFailure::Ended(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => break,
            }
        }
        let _ = self.child.kill();
        match self.child.wait() {
            Ok(status) => WorkerFailure::Ended(status),
            Err(_) => WorkerFailure::Ended(ExitStatus::default()),
        }
    }
}

impl Drop for WorkerProcess {
    /// Ends the process, and waits for its end.
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The reader thread sees the end of the output, or a closed channel.
        self.replies = crossbeam_channel::never();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Returns whether the process was ended from outside: no codec raises these signals itself.
fn is_killed(status: ExitStatus) -> bool {
    #[cfg(unix)]
    {
        const FROM_OUTSIDE: [i32; 4] = [1, 2, 9, 15]; // SIGHUP, SIGINT, SIGKILL, SIGTERM
        std::os::unix::process::ExitStatusExt::signal(&status).is_some_and(|signal| FROM_OUTSIDE.contains(&signal))
    }
    #[cfg(not(unix))]
    {
        let _ = status;
        false
    }
}

/// Describes the end of a process.
fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = match signal {
            4 => ", SIGILL",
            6 => ", SIGABRT",
            7 => ", SIGBUS",
            8 => ", SIGFPE",
            9 => ", SIGKILL",
            11 => ", SIGSEGV",
            _ => "",
        };
        return format!("signal {signal}{name}");
    }
    status.code().map_or_else(|| "it ended".to_owned(), |code| format!("exit code {code}"))
}

/// Returns the error of a decoding process that did not start.
fn no_process(path: &Path, source: io::Error) -> Error {
    Error::new(Kind::NoProcess, format!("no decoder process: {source}")).with_cause(source).about(path)
}

/// Returns the error of a decoding process that ended.
fn crashed(path: &Path, cause: &str) -> Error {
    let error = Error::new(Kind::Crash, format!("its decoder crashed ({cause})"));
    error.with_hint("`ffmpeg -i` may repair the file").about(path)
}

/// Returns the error of a decoding process that stopped replying.
fn hung(path: &Path, limit: Duration) -> Error {
    let rule = format!("its decoder hung: no sign of life for {} s", limit.as_secs_f64());
    Error::new(Kind::Hang, rule).with_hint(LONGER_STALL_LIMIT).about(path)
}
