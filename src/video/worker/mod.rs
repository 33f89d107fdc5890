//! Reading in a process of its own: a codec that crashes or hangs takes that process with it, and nothing else.
//!
//! A [`Worker`] starts the process when it is first needed and keeps it for the next video; one that died is replaced.
//! The process is this program again, told to [`serve`]. It lives as long as its standard input is open, so it does not
//! outlive whoever started it, however that ended.

#[cfg(debug_assertions)]
mod fault;
mod protocol;
mod serve;

#[cfg(debug_assertions)]
pub(super) use fault::strike_inside;

use std::ffi::OsString;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

pub use protocol::Request;
pub use serve::serve;

use self::protocol::Told;
use super::limits::Halt;
use super::{Bounds, Event, Flow, FrameRequest, Patience, ReadReport};
use crate::error::{Error, Kind};
use crate::video::error::{LONGER_STALL_LIMIT, halted, time_limit};

/// Between two chances of the consumer to say [`Flow::Stop`].
const PATIENCE: Duration = Duration::from_millis(100);
/// Longest time between two signs of life of a decoding process.
const SIGN: Duration = Duration::from_millis(300);
/// A process that keeps its own time limit says so itself; one that does not is ended so much later.
const GRACE: Duration = Duration::from_secs(2);

/// How decoding is kept apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// The program that serves.
    pub program: PathBuf,
    /// What it is told.
    pub arguments: Vec<OsString>,
    /// How long it may give no sign of life.
    pub stall: Duration,
}

/// A process that decodes, if one is running.
#[derive(Debug)]
pub struct Worker<'i> {
    isolation: &'i Isolation,
    running: Option<Running>,
    n_restarts: u64,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Closed to end the process.
    requests: Option<ChildStdin>,
    replies: Receiver<io::Result<Told>>,
    reader: Option<JoinHandle<()>>,
}

/// Why a process is of no more use.
enum Broken {
    /// It ended.
    Ended(ExitStatus),
    /// It lives, but not for us.
    Silent(Error),
}

impl<'i> Worker<'i> {
    /// A worker whose process is not started.
    pub fn new(isolation: &'i Isolation) -> Self {
        Self { isolation, running: None, n_restarts: 0 }
    }

    /// Processes that had to be replaced.
    pub fn n_restarts(&self) -> u64 {
        self.n_restarts
    }

    /// As [`super::read_frames`], in the process. [`Event::Waiting`] comes while nothing else does.
    ///
    /// A process that was killed from outside is no fault of the video, which is then tried once more.
    ///
    /// # Errors
    /// As [`super::read_frames`]; besides, when the process crashes, hangs, or cannot be started.
    pub fn read_frames(
        &mut self,
        path: &Path,
        (frames, bounds): (&FrameRequest, &Bounds),
        emit: &mut dyn FnMut(Event) -> Flow,
    ) -> Result<ReadReport, Error> {
        let request = Request::new(path, frames, &bounds.limits);
        let mut was_killed = false;
        loop {
            let running = match &mut self.running {
                Some(running) => running,
                None => {
                    let spawned = Running::spawn(self.isolation).map_err(|source| no_process(path, source))?;
                    self.running.insert(spawned)
                }
            };
            let error = match running.read((path, &request), (self.isolation.stall, &bounds.halt), emit) {
                Ok(Some(end)) => return end,
                // The process is in the middle of what nobody wants.
                Ok(None) => {
                    self.running = None;
                    if bounds.halt.patience() == Patience::Full {
                        return Ok(ReadReport::default());
                    }
                    return Err(halted(path));
                }
                Err(Broken::Ended(status)) if is_killed(status) && !was_killed => {
                    was_killed = true;
                    None
                }
                Err(Broken::Ended(status)) => Some(crashed(path, &describe(status))),
                Err(Broken::Silent(error)) => Some(error),
            };
            self.running = None;
            self.n_restarts += 1;
            if let Some(error) = error {
                return Err(error);
            }
            // A moment for whoever ends all of this program's processes to end this one too.
            std::thread::sleep(10 * PATIENCE);
            if emit(Event::Restart) == Flow::Stop {
                return Ok(ReadReport::default());
            }
        }
    }
}

impl Running {
    fn spawn(isolation: &Isolation) -> io::Result<Self> {
        let mut command = Command::new(&isolation.program);
        command.args(&isolation.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A Ctrl-C is for whoever started it.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let (requests, output) = (child.stdin.take(), child.stdout.take());
        let mut output = BufReader::with_capacity(1 << 16, output.ok_or(io::ErrorKind::BrokenPipe)?);
        let (sender, replies) = bounded(1);
        let reader = Builder::new().name("replies".to_owned()).spawn(move || {
            loop {
                let told = Told::read(&mut output).transpose();
                let Some(told) = told else { return };
                let is_last = told.is_err();
                if sender.send(told).is_err() || is_last {
                    return;
                }
            }
        });
        // Dropped on the way out, it takes the process with it.
        let mut running = Self { child, requests, replies, reader: None };
        running.reader = Some(reader?);
        Ok(running)
    }

    /// The end of a reading, or none if the consumer wants no more.
    fn read(
        &mut self,
        (path, request): (&Path, &Request),
        (stall, halt): (Duration, &Halt),
        emit: &mut dyn FnMut(Event) -> Flow,
    ) -> Result<Option<Result<ReadReport, Error>>, Broken> {
        let Some(requests) = &mut self.requests else { return Err(self.ended()) };
        if request.write(requests).is_err() {
            return Err(self.ended());
        }
        let limit = request.limits.time;
        let (mut waited, mut silent) = (Duration::ZERO, Duration::ZERO);
        loop {
            let start = Instant::now();
            let told = self.replies.recv_timeout(PATIENCE);
            // When all of this program was stopped for a while, that is nobody's fault.
            let step = start.elapsed().min(2 * PATIENCE);
            waited += step;
            silent += step;
            let event = match told {
                Ok(Ok(Told::End(end))) => return Ok(Some(end)),
                Ok(Ok(Told::Event(event))) => {
                    silent = Duration::ZERO;
                    event
                }
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => Event::Waiting,
            };
            if let Some(limit) = limit.filter(|limit| waited > *limit + GRACE) {
                return Err(Broken::Silent(time_limit(path, limit)));
            }
            if silent > stall {
                return Err(Broken::Silent(hung(path, stall)));
            }
            // A run that drains waits for signs of life only, and they come several times a second.
            let gives_up = halt.gives_up(silent.saturating_sub(SIGN));
            if gives_up || emit(event) == Flow::Stop {
                return Ok(None);
            }
        }
    }

    /// How the process ended, that closed its output or broke its word.
    fn ended(&mut self) -> Broken {
        self.requests = None;
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) => return Broken::Ended(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => break,
            }
        }
        let _ = self.child.kill();
        match self.child.wait() {
            Ok(status) => Broken::Ended(status),
            Err(_) => Broken::Ended(ExitStatus::default()),
        }
    }
}

impl Drop for Running {
    /// Ends the process, and waits for it.
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The reader sees the end of the output, or that nobody listens.
        self.replies = crossbeam_channel::never();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Whether somebody else ended the process: no codec sends itself these.
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

/// How a process ended, in words.
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

/// Returns the error of a decoding process that gave no sign of life.
fn hung(path: &Path, limit: Duration) -> Error {
    let rule = format!("its decoder hung: no sign of life for {} s", limit.as_secs_f64());
    Error::new(Kind::Hang, rule).with_hint(LONGER_STALL_LIMIT).about(path)
}
