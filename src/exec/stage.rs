//! Accounting of a stage: spans and sums of the time its threads work and wait.
//!
//! All time that a thread does not wait at a channel counts as work.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Number of threads of a stage. With several threads, `Scope::stage` sends items in any order, `Scope::map_in_order`
/// in the order of its input.
pub type Threads = NonZeroUsize;

/// Name, threads and buffer of a stage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StageConfig<'n> {
    /// Name of the stage and of its threads.
    pub(super) name: &'n str,
    /// Number of threads.
    pub(super) n_threads: Threads,
    /// Number of items that the channel behind the stage buffers.
    pub(super) capacity: usize,
}

impl<'n> StageConfig<'n> {
    /// Configures a stage.
    pub(crate) fn new(name: &'n str, n_threads: Threads, capacity: usize) -> Self {
        Self { name, n_threads, capacity }
    }
}

/// Reason of a thread's wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Waiting for an item.
    Input,
    /// Waiting for room in a channel.
    Output,
}

/// Interval of work of one thread, between two waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<'a> {
    /// Name of the stage.
    pub stage: &'a str,
    /// Index of the thread in its stage.
    pub thread: usize,
    /// Begin, since the begin of the run.
    pub begin: Duration,
    /// End, since the begin of the run.
    pub end: Duration,
}

/// Callback for every span, called from all threads.
pub type OnSpan = dyn Fn(Span<'_>) + Send + Sync;

/// Report of one stage of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageReport {
    /// Name of the stage.
    pub name: String,
    /// Number of threads.
    pub n_threads: usize,
    /// Number of items received; of a source, sent.
    pub n_items: u64,
    /// Time at work, summed over threads.
    pub busy: Duration,
    /// Time waiting for items, summed over threads.
    pub waiting_for_input: Duration,
    /// Time waiting for room, summed over threads.
    pub waiting_for_output: Duration,
}

impl StageReport {
    /// Returns the fraction of the wall time that the threads worked, 0 to 1.
    pub fn utilisation(&self, wall: Duration) -> f64 {
        let available = wall.as_secs_f64() * self.n_threads as f64;
        if available > 0.0 { (self.busy.as_secs_f64() / available).min(1.0) } else { 0.0 }
    }
}

/// Clock of one thread of a stage: all time not spent waiting is work.
pub(super) struct Clock {
    stage: String,
    thread: usize,
    run_begin: Instant,
    on_span: Option<std::sync::Arc<OnSpan>>,
    n_items: AtomicU64,
    /// Nanoseconds, as are the next two.
    waiting_for_input: AtomicU64,
    waiting_for_output: AtomicU64,
    busy: AtomicU64,
    /// End of the thread's last wait, in nanoseconds since the run began; [`IDLE`] while it waits.
    busy_since: AtomicU64,
}

/// Value of `busy_since` while the thread does not work.
const IDLE: u64 = u64::MAX;

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.stage, self.thread)
    }
}

impl Clock {
    pub(super) fn new(stage: &str, thread: usize, run_begin: Instant, on_span: Option<std::sync::Arc<OnSpan>>) -> Self {
        Self {
            stage: stage.to_owned(),
            thread,
            run_begin,
            on_span,
            n_items: AtomicU64::new(0),
            waiting_for_input: AtomicU64::new(0),
            waiting_for_output: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            busy_since: AtomicU64::new(IDLE),
        }
    }

    fn now(&self) -> u64 {
        nanoseconds(self.run_begin.elapsed())
    }

    /// Starts the first span of the thread.
    pub(super) fn begin(&self) {
        self.busy_since.store(self.now(), Ordering::Relaxed);
    }

    /// Ends the current span: the thread ends, or begins to wait.
    pub(super) fn pause(&self) -> u64 {
        let (begin, end) = (self.busy_since.swap(IDLE, Ordering::Relaxed), self.now());
        self.busy.fetch_add(end.saturating_sub(begin), Ordering::Relaxed);
        if let Some(on_span) = self.on_span.as_ref().filter(|_| end > begin) {
            let (begin, end) = (Duration::from_nanos(begin), Duration::from_nanos(end));
            on_span(Span { stage: &self.stage, thread: self.thread, begin, end });
        }
        end
    }

    /// Runs `wait`, and counts its time under `reason`.
    pub(super) fn wait<T>(&self, reason: Wait, wait: impl FnOnce() -> T) -> T {
        let begin = self.pause();
        let result = wait();
        let end = self.now();
        let sum = match reason {
            Wait::Input => &self.waiting_for_input,
            Wait::Output => &self.waiting_for_output,
        };
        sum.fetch_add(end.saturating_sub(begin), Ordering::Relaxed);
        self.busy_since.store(end, Ordering::Relaxed);
        result
    }

    /// Returns the nanoseconds of the current span.
    fn current_span(&self) -> u64 {
        self.now().saturating_sub(self.busy_since.load(Ordering::Relaxed))
    }

    pub(super) fn count(&self) {
        self.n_items.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the sums over a stage's threads.
    pub(super) fn report(name: &str, clocks: &[std::sync::Arc<Self>]) -> StageReport {
        let sum = |of: fn(&Self) -> &AtomicU64| clocks.iter().map(|clock| of(clock).load(Ordering::Relaxed)).sum();
        StageReport {
            name: name.to_owned(),
            n_threads: clocks.len(),
            n_items: sum(|clock| &clock.n_items),
            busy: Duration::from_nanos(
                sum(|clock| &clock.busy) + clocks.iter().map(|clock| clock.current_span()).sum::<u64>(),
            ),
            waiting_for_input: Duration::from_nanos(sum(|clock| &clock.waiting_for_input)),
            waiting_for_output: Duration::from_nanos(sum(|clock| &clock.waiting_for_output)),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
