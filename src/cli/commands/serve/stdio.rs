//! `serve --stdio`: requests as lines of JSON on standard input, answers as lines on standard output, in any order,
//! each with the id of its request. For scripts and worker processes; the policies of the server hold.
//!
//! One thread reads lines, some threads resolve media and submit, this thread writes. A request counts as open until
//! its answer is written, and the number of open requests is bounded: a slow reader of the answers slows the requests.
//! The end of the input, or a signal, lets the open requests finish within the grace; those that do not are answered
//! with an error.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::Value;
use vidense::error::{Error, Kind};
use vidense::exec::Stop;
use vidense::serve::api::{ApiError, ChatCall, CompletionHead, ErrorStatus, LineCall, LineId, failure_without_id};
use vidense::serve::media::ResolveContext;
use vidense::serve::service::{ChatJob, JobAnswer, JobEvent};

use super::chat::{details, now};
use super::state::ReadyServer;
use super::waiting::ending;

/// Threads that parse requests and resolve their media.
const N_RESOLVERS: usize = 4;
/// Time that a reader of the answers has for a line once open requests are given up.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Interval at which waiting threads look for a signal.
const TICK: Duration = Duration::from_millis(100);
/// Scope of uuids: there is one client.
const SCOPE: &str = "stdio";

/// Server of requests on lines.
pub(super) struct StdioServer {
    pub(super) ready: ReadyServer,
    pub(super) limits: StdioLimits,
}

/// Limits of requests on lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct StdioLimits {
    /// Bytes of a line at most.
    pub(super) max_line: u64,
    /// Requests that are open at once, at most.
    pub(super) max_open: usize,
    /// Time that open requests have to end.
    pub(super) grace: LineGrace,
}

/// Time that open requests have to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineGrace {
    /// After a signal.
    pub(super) signal: Duration,
    /// After the end of the input; `None` is no limit.
    pub(super) input: Option<Duration>,
}

/// Ends of the times of [`LineGrace`] that have begun.
#[derive(Debug, Default)]
struct GraceEnds {
    signal: Option<Instant>,
    input: Option<Instant>,
}

/// A line of the input, or why it is none.
struct InputLine {
    /// Number from 1.
    number: u64,
    text: Result<Vec<u8>, ApiError>,
}

/// Flags of the end, which all threads share.
#[derive(Debug, Default)]
struct EndFlags {
    /// Set at the end of the input.
    is_read: AtomicBool,
    /// Set once open requests are given up: after the grace, or when nobody reads the answers.
    is_over: AtomicBool,
    /// Set once no more lines are taken.
    is_closed: AtomicBool,
}

/// Threads' ends of the channels, and the flags of the end.
struct LineWork<'w> {
    server: &'w StdioServer,
    lines: Receiver<InputLine>,
    answers: Sender<Value>,
    end: Arc<EndFlags>,
    stop: &'w Stop,
}

/// The writer's ends of the channels, and the flags of the end.
struct AnswerWriter<'w> {
    server: &'w StdioServer,
    answers: Receiver<Value>,
    /// One value for each open request.
    open: Receiver<()>,
    end: Arc<EndFlags>,
    stop: &'w Stop,
}

impl GraceEnds {
    /// Returns whether the open requests are to be given up.
    fn are_over(&mut self, grace: LineGrace, end: &EndFlags, stop: &Stop) -> bool {
        let now = Instant::now();
        if stop.is_draining() {
            self.signal.get_or_insert(now + grace.signal);
        }
        if let Some(time) = grace.input
            && end.is_read.load(Ordering::Acquire)
        {
            self.input.get_or_insert(now + time);
        }
        self.any_before(now)
    }

    /// Returns whether a reader has had its time for a line since `begin`, and since open requests were given up.
    fn are_long_over(&self, begin: Instant) -> bool {
        let time = Instant::now().checked_sub(LAST_LINES);
        time.is_some_and(|time| begin <= time && self.any_before(time))
    }

    fn any_before(&self, time: Instant) -> bool {
        [self.signal, self.input].into_iter().flatten().any(|end| end <= time)
    }
}

impl StdioServer {
    /// Answers the lines of standard input until it ends, a signal comes, or nobody reads the answers.
    ///
    /// # Errors
    /// A thread that does not start, and a failure of standard output other than a reader that has gone away.
    pub(super) fn run(&self, stop: &Stop) -> anyhow::Result<()> {
        let (permits, open) = bounded(self.limits.max_open.max(1));
        let (sender, lines) = bounded(0);
        let max_line = self.limits.max_line;
        let end = Arc::<EndFlags>::default();
        let of_reader = end.clone();
        // Not joined: it may wait for a line that never comes.
        Builder::new().name("input".to_owned()).spawn(move || {
            read_lines(&mut io::stdin().lock(), max_line, &LineSender { permits, sender });
            of_reader.is_read.store(true, Ordering::Release);
        })?;
        // Each permit is for one answer: a send never waits.
        let (sender, answers) = bounded(self.limits.max_open.max(1));
        std::thread::scope(|scope| {
            for _ in 0..N_RESOLVERS {
                let (lines, answers, end) = (lines.clone(), sender.clone(), end.clone());
                let work = LineWork { server: self, lines, answers, end, stop };
                Builder::new().name("resolve".to_owned()).spawn_scoped(scope, move || work.run())?;
            }
            drop((lines, sender));
            let writer = AnswerWriter { server: self, answers, open, end: end.clone(), stop };
            let outcome = writer.run();
            end.is_over.store(true, Ordering::Release);
            end.is_closed.store(true, Ordering::Release);
            outcome
        })
    }
}

impl AnswerWriter<'_> {
    /// Writes answers until all threads and jobs are done.
    fn run(&self) -> anyhow::Result<()> {
        let Self { server, answers, open, end, stop } = self;
        let (service, grace) = (&server.ready.service, server.limits.grace);
        let (output, mut ends) = (LineOutput::open()?, GraceEnds::default());
        std::thread::scope(|scope| {
            let mut writing_since: Option<Instant> = None;
            loop {
                if ends.are_over(grace, end, stop) && !end.is_over.swap(true, Ordering::AcqRel) {
                    let drain = || service.drain(Duration::ZERO);
                    Builder::new().name("drain".to_owned()).spawn_scoped(scope, drain)?;
                }
                if stop.is_draining() && open.is_empty() {
                    end.is_closed.store(true, Ordering::Release);
                }
                if let Some(begin) = writing_since {
                    match output.written.recv_timeout(TICK) {
                        Ok(Ok(())) => writing_since = None,
                        Ok(Err(error)) => return self.end_after(error),
                        Err(error) if error.is_disconnected() || ends.are_long_over(begin) => {
                            return self.end_after(not_read());
                        }
                        Err(_) => continue,
                    }
                    let _ = open.try_recv();
                }
                match answers.recv_timeout(TICK) {
                    Ok(answer) => writing_since = output.lines.send(answer).ok().map(|()| Instant::now()),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        })
    }

    /// Gives up the open requests after an error of standard output. A reader that has gone away is no failure.
    fn end_after(&self, error: io::Error) -> anyhow::Result<()> {
        self.server.ready.service.drain(Duration::ZERO);
        if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error.into()) }
    }
}

/// Returns the error of a reader that takes no lines.
fn not_read() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "standard output is not read: answers are lost")
}

/// Standard output on a thread of its own, which may wait for a reader that takes nothing.
struct LineOutput {
    /// Takes one line, then the next once it was written.
    lines: Sender<Value>,
    /// Outcome of each line.
    written: Receiver<io::Result<()>>,
}

impl LineOutput {
    /// Starts the thread, which is not joined.
    fn open() -> io::Result<Self> {
        let ((lines, to_write), (outcomes, written)) = (bounded(1), bounded(1));
        Builder::new().name("output".to_owned()).spawn(move || {
            let mut output = io::stdout().lock();
            for line in to_write {
                if outcomes.send(write_line(&mut output, &line)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { lines, written })
    }
}

/// Writes a line at once: its reader may wait for it.
fn write_line(output: &mut impl Write, line: &Value) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    output.write_all(&bytes)?;
    output.flush()
}

/// Ends of the channels of the thread that reads.
struct LineSender {
    /// Takes one value for each open request.
    permits: Sender<()>,
    sender: Sender<InputLine>,
}

/// Reads lines until the end of the input, or until nobody takes them.
fn read_lines(input: &mut impl BufRead, max_line: u64, to: &LineSender) {
    for number in 1.. {
        let text = match read_line(input, max_line) {
            Ok(None) => return,
            Ok(Some(line)) => line,
            Err(error) => {
                let error = ApiError::new(ErrorStatus::BadRequest, format!("the input is not read: {error}"));
                let _ = to.permits.send(()).map(|()| to.sender.send(InputLine { number, text: Err(error) }));
                return;
            }
        };
        // A blank line is no request.
        if text.as_ref().is_ok_and(|text| text.trim_ascii().is_empty()) {
            continue;
        }
        if to.permits.send(()).is_err() || to.sender.send(InputLine { number, text }).is_err() {
            return;
        }
    }
}

/// Reads a line without its end; `None` at the end of the input. A line over the limit is passed over, not kept.
fn read_line(input: &mut impl BufRead, max_line: u64) -> io::Result<Option<Result<Vec<u8>, ApiError>>> {
    let mut line = Vec::new();
    let n = input.by_ref().take(max_line.saturating_add(1)).read_until(b'\n', &mut line)?;
    if n == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Some(Ok(line)));
    }
    if n as u64 <= max_line {
        return Ok(Some(Ok(line)));
    }
    drop(line);
    input.skip_until(b'\n')?;
    let error = Error::new(Kind::TooLarge, format!("a line over the limit of {max_line} bytes"));
    Ok(Some(Err(error.with_hint("--max-body").into())))
}

impl LineWork<'_> {
    /// Takes lines until there are no more.
    fn run(&self) {
        while !self.end.is_closed.load(Ordering::Acquire) {
            match self.lines.recv_timeout(TICK) {
                Ok(line) => self.take(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        // Lines that were read meanwhile.
        while let Ok(line) = self.lines.try_recv() {
            self.take(line);
        }
    }

    /// Takes a line; its answer, or that of its job, goes to the writer. New requests are refused after a signal.
    fn take(&self, InputLine { number, text }: InputLine) {
        let line = match text.and_then(|text| LineCall::parse(&text, &self.server.ready.service.model().plan)) {
            Ok(line) => line,
            Err(error) => return self.send(failure_without_id(number, &error)),
        };
        let reply = LineReply { id: line.id.clone(), number };
        let submitted = match self.stop.is_draining() {
            true => Err(ending()),
            false => line.call.and_then(|call| self.submit(call, reply)),
        };
        if let Err(error) = submitted {
            self.send(line.id.failure(number, &error));
        }
    }

    /// Resolves the media of a request and submits it.
    fn submit(&self, call: ChatCall, reply: LineReply) -> Result<(), ApiError> {
        let ReadyServer { service, media: resolver, names, .. } = &self.server.ready;
        call.check_model(names)?;
        let (stop, end) = (self.stop.clone(), self.end.clone());
        let is_over = Arc::new(move || stop.is_aborted() || end.is_over.load(Ordering::Acquire));
        let context = ResolveContext { scope: SCOPE, halt: is_over.clone(), known: &|key| service.known(key) };
        let ChatCall { system, turns, media, options, .. } = call;
        let given_up = |error: Error| if is_over() { ending() } else { error.into() };
        let media = resolver.resolve_all(media, &context).map_err(given_up)?;
        let (answers, model) = (self.answers.clone(), names.first().cloned().unwrap_or_default());
        let listener = Box::new(move |event| {
            if let JobEvent::Done(outcome) = event {
                let _ = answers.send(reply.line(&model, outcome));
            }
        });
        service.submit(ChatJob { system, turns, media, options, listener })?;
        Ok(())
    }

    fn send(&self, line: Value) {
        let _ = self.answers.send(line);
    }
}

/// Line of a request that is answered.
struct LineReply {
    id: LineId,
    number: u64,
}

impl LineReply {
    /// Returns the line of an outcome.
    fn line(&self, model: &str, outcome: Result<JobAnswer, Error>) -> Value {
        match outcome {
            Ok(answer) => {
                let head =
                    CompletionHead { id: format!("chatcmpl-{}", self.number), created: now(), model: model.to_owned() };
                self.id.answer(&head.completion(&answer.answer, details(&answer)))
            }
            Err(error) => self.id.failure(self.number, &error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8], max_line: u64) -> Vec<(u64, Result<String, String>)> {
        let (permits, _open) = bounded(100);
        let (sender, lines) = bounded(100);
        read_lines(&mut io::BufReader::with_capacity(3, input), max_line, &LineSender { permits, sender });
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        lines.iter().map(|line| (line.number, line.text.map(text).map_err(|error| error.message))).collect()
    }

    #[test]
    fn lines_have_numbers_and_blank_lines_are_no_requests() {
        let ok = |number, text: &str| (number, Ok(text.to_owned()));
        assert_eq!(lines(b"a\n\n \r\nb\nc", 10), [ok(1, "a"), ok(4, "b"), ok(5, "c")]);
        assert_eq!(lines(b"", 10), []);
    }

    #[test]
    fn a_line_over_the_limit_does_not_take_the_next_one_down() {
        let long = || Err("a line over the limit of 4 bytes; hint: --max-body".to_owned());
        assert_eq!(lines(b"1234\n12345\n1\n", 4), [(1, Ok("1234".to_owned())), (2, long()), (3, Ok("1".to_owned()))]);
        assert_eq!(lines(b"123456789", 4), [(1, long())]);
        assert_eq!(lines(b"1234", 4), [(1, Ok("1234".to_owned()))]);
    }
}
