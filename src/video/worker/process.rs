//! Decoding process as its parent sees it: its start, its requests and replies, its end.
//!
//! A process leads a process group of its own, which ends with it: no process that a taken-over decoder started in the
//! group outlives the reading. Whether a process is kept or replaced is the [`Worker`](super::Worker)'s decision.

use std::ffi::OsString;
use std::io::{self, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::protocol::{DecodeOutcome, DecodeReply, DecodeRequest};
use super::{Isolation, crashed, hung};
use crate::error::Error;
use crate::video::error::time_limit;
use crate::video::limits::Halt;
use crate::video::{Flow, ReadEvent};

/// Time between two events, each of which may return [`Flow::Stop`].
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// Longest time between two replies of a healthy process.
const SIGN: Duration = Duration::from_millis(300);
/// Time after its limit until a process that does not enforce the limit itself is ended.
const GRACE: Duration = Duration::from_secs(2);
/// Number of times that a process may begin one reading again. The reader does so once or twice.
const MAX_RESTARTS: usize = 8;
/// Environment variables that a process keeps: where its libraries are. Any other may be a secret of the parent.
const ENVIRONMENT: [&str; 6] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
    "SYSTEMROOT",
    // Fault injection of the tests, of which a release build knows nothing.
    "VIDENSE_FAULT",
];
/// Variable of glibc's number of arenas, each of which reserves address space.
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "2");

/// A running process.
#[derive(Debug)]
pub(super) struct WorkerProcess {
    child: Child,
    /// Exit status, once the process has ended and is no longer to be signalled.
    status: Option<ExitStatus>,
    /// Standard input of the process; closed to end the process.
    requests: Option<ChildStdin>,
    replies: Receiver<io::Result<DecodeReply>>,
    /// Bytes of a frame of the current request at most.
    frame_bytes: Arc<AtomicU64>,
    reader: Option<JoinHandle<()>>,
}

/// Limits of a reading in the process.
pub(super) struct ReplyLimits<'h> {
    pub(super) time: Option<Duration>,
    /// Time without a reply.
    pub(super) stall: Duration,
    pub(super) halt: &'h Halt,
}

/// Failure of a process.
pub(super) enum WorkerFailure {
    /// The process ended.
    Ended(ExitStatus),
    /// The process is over its limits.
    OverLimit(Error),
}

impl WorkerProcess {
    /// Starts a process.
    pub(super) fn spawn(isolation: &Isolation) -> io::Result<Self> {
        let mut command = Command::new(&isolation.program);
        let confinement = isolation.confinement();
        command.args(&isolation.arguments).args(confinement.arguments());
        command.env_clear().envs(environment());
        if confinement.memory.is_some() {
            command.env(ARENAS.0, ARENAS.1);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Ctrl-C is the parent's.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let (requests, output) = (child.stdin.take(), child.stdout.take());
        let mut output = BufReader::with_capacity(1 << 16, output.ok_or(io::ErrorKind::BrokenPipe)?);
        let (sender, replies) = bounded(1);
        let frame_bytes = Arc::new(AtomicU64::new(0));
        let limit = frame_bytes.clone();
        let reader = Builder::new().name("replies".to_owned()).spawn(move || {
            loop {
                let Some(reply) = DecodeReply::read(&mut output, || limit.load(Ordering::Relaxed)).transpose() else {
                    return;
                };
                let is_last = reply.is_err();
                if sender.send(reply).is_err() || is_last {
                    return;
                }
            }
        });
        // If the thread fails to start, dropping `running` ends the process.
        let mut running = Self { child, status: None, requests, replies, frame_bytes, reader: None };
        running.reader = Some(reader?);
        Ok(running)
    }

    /// Sends a request and emits its events. Returns the end of the reading, or `None` if the consumer stopped it.
    pub(super) fn read(
        &mut self,
        path: &Path,
        request: &DecodeRequest,
        limits: &ReplyLimits<'_>,
        emit: &mut dyn FnMut(ReadEvent) -> Flow,
    ) -> Result<Option<Result<DecodeOutcome, Error>>, WorkerFailure> {
        let Some(requests) = &mut self.requests else { return Err(self.ended()) };
        self.frame_bytes.store(request.limits.frame_bytes, Ordering::Relaxed);
        if request.write(requests).is_err() {
            return Err(self.ended());
        }
        let (mut waited, mut silent) = (Duration::ZERO, Duration::ZERO);
        let mut counted = CountedEvents { max_frames: request.max_frames(), n_frames: 0, n_restarts: 0 };
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
                    if let Err(rule) = counted.add(&event) {
                        return Err(WorkerFailure::OverLimit(crashed(path, rule, None)));
                    }
                    event
                }
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => ReadEvent::Waiting,
            };
            if let Some(limit) = limits.time.filter(|limit| waited > *limit + GRACE) {
                return Err(WorkerFailure::OverLimit(time_limit(path, limit)));
            }
            if silent > limits.stall {
                return Err(WorkerFailure::OverLimit(hung(path, limits.stall)));
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
        while Instant::now() < deadline && !self.has_exited() {
            std::thread::sleep(Duration::from_millis(1));
        }
        WorkerFailure::Ended(self.end().unwrap_or_default())
    }

    /// Returns whether the process has exited. Its number stays its own until [`Self::end`].
    #[cfg(unix)]
    fn has_exited(&mut self) -> bool {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.status.is_some() || waitid(WaitId::Pid(self.group()), options).is_ok_and(|status| status.is_some())
    }

    #[cfg(not(unix))]
    fn has_exited(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Number of the process, which is that of its group.
    #[cfg(unix)]
    fn group(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Kills the process with its group, and waits for its end; later calls return the same status.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        // Before the wait: until then, no other group has this number.
        #[cfg(unix)]
        let _ = rustix::process::kill_process_group(self.group(), rustix::process::Signal::KILL);
        let _ = self.child.kill();
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for WorkerProcess {
    /// Ends the process, and waits for its end and, for a limited time, for the thread of its replies.
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.end();
        // The reader thread sees the end of the output, or a closed channel.
        self.replies = crossbeam_channel::never();
        let Some(reader) = self.reader.take() else { return };
        // A process that left the group may keep the output open: the thread then ends with that process.
        let deadline = Instant::now() + GRACE;
        while !reader.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if reader.is_finished() {
            let _ = reader.join();
        }
    }
}

/// Counts of the events of one reading: a decoder that was taken over may send any number.
struct CountedEvents {
    /// Number of frames from one restart to the next at most.
    max_frames: u64,
    n_frames: u64,
    n_restarts: usize,
}

impl CountedEvents {
    /// Counts an event.
    ///
    /// # Errors
    /// The broken rule, if the event is one too many.
    fn add(&mut self, event: &ReadEvent) -> Result<(), &'static str> {
        match event {
            ReadEvent::Frame(_) if self.n_frames == self.max_frames => {
                return Err("it sent more frames than asked for");
            }
            ReadEvent::Frame(_) => self.n_frames += 1,
            ReadEvent::Restart if self.n_restarts == MAX_RESTARTS => {
                return Err("it began the reading again and again");
            }
            ReadEvent::Restart => (self.n_frames, self.n_restarts) = (0, self.n_restarts + 1),
            ReadEvent::Expected { .. } | ReadEvent::Waiting | ReadEvent::Progress { .. } => {}
        }
        Ok(())
    }
}

/// Returns the variables of this process that a decoding process keeps.
fn environment() -> impl Iterator<Item = (&'static str, OsString)> {
    ENVIRONMENT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// Returns whether the process was ended from outside: no codec raises these signals itself.
pub(super) fn is_killed(status: ExitStatus) -> bool {
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
pub(super) fn describe(status: ExitStatus) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::FrameIndex;
    use crate::video::Frame;

    #[test]
    fn frames_and_restarts_over_their_numbers_are_refused() {
        let frame =
            || ReadEvent::Frame(Frame { index: FrameIndex(0), time: None, image: ::image::RgbImage::new(1, 1) });
        let mut counted = CountedEvents { max_frames: 2, n_frames: 0, n_restarts: 0 };
        for _ in 0..MAX_RESTARTS {
            assert_eq!([counted.add(&frame()), counted.add(&frame())], [Ok(()); 2]);
            assert_eq!(counted.add(&ReadEvent::Waiting), Ok(()));
            assert_eq!(counted.add(&ReadEvent::Restart), Ok(()));
        }
        assert_eq!(counted.add(&ReadEvent::Restart), Err("it began the reading again and again"));
        assert_eq!([counted.add(&frame()), counted.add(&frame())], [Ok(()); 2]);
        assert_eq!(counted.add(&frame()), Err("it sent more frames than asked for"));
    }

    #[cfg(unix)]
    #[test]
    fn a_process_ends_with_the_processes_that_it_started() {
        // A shell that replies once its child, which keeps the output open, runs.
        let isolation = Isolation {
            program: "/bin/sh".into(),
            arguments: ["-c", r#"sleep 600 & printf '\011\000\000\000"Waiting"'; wait"#].map(OsString::from).to_vec(),
            stall: Duration::from_secs(60),
            lifetime: super::super::ProcessLifetime::Kept,
            memory: None,
        };
        let running = WorkerProcess::spawn(&isolation).expect("a shell");
        let reply = running.replies.recv_timeout(10 * GRACE).expect("a reply").expect("a message");
        assert!(matches!(reply, DecodeReply::Event(ReadEvent::Waiting)));
        let begin = Instant::now();
        drop(running);
        assert!(begin.elapsed() < GRACE, "the output was closed by the end of the group");
    }
}
