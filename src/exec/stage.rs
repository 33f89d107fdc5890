//! What a stage is called, and what its threads were busy with.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Number of threads of a stage. Of [`Scope::stage`](super::Scope::stage) on several threads, items come out in any
/// order; of [`Scope::map_in_order`](super::Scope::map_in_order), in their order.
pub type Threads = NonZeroUsize;

/// What a thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// An item.
    Input,
    /// Room for one.
    Output,
}

/// A stretch of work of one thread, between two waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<'a> {
    /// The stage.
    pub stage: &'a str,
    /// Its thread, from 0.
    pub thread: usize,
    /// Since the run began.
    pub begin: Duration,
    /// Since the run began.
    pub end: Duration,
}

/// Hears of every span, from all threads.
pub type OnSpan = dyn Fn(Span<'_>) + Send + Sync;

/// What one stage did in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageReport {
    /// Its name.
    pub name: String,
    /// Its threads.
    pub n_threads: usize,
    /// Items that it received; of a source, those that it sent.
    pub n_items: u64,
    /// Time at work, all threads together.
    pub busy: Duration,
    /// Time waiting for items.
    pub waiting_for_input: Duration,
    /// Time waiting for room.
    pub waiting_for_output: Duration,
}

impl StageReport {
    /// The share of a run's time that its threads were at work, 0 to 1.
    pub fn utilisation(&self, wall: Duration) -> f64 {
        let available = wall.as_secs_f64() * self.n_threads as f64;
        if available > 0.0 { (self.busy.as_secs_f64() / available).min(1.0) } else { 0.0 }
    }
}

/// The time of one thread of a stage: all that is no waiting is work.
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
    /// Since the run began, when the thread's last wait ended; [`IDLE`] while it waits.
    busy_since: AtomicU64,
}

/// Of a thread that is not at work.
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

    /// The thread begins.
    pub(super) fn begin(&self) {
        self.busy_since.store(self.now(), Ordering::Relaxed);
    }

    /// The thread ends, or begins to wait.
    pub(super) fn pause(&self) -> u64 {
        let (begin, end) = (self.busy_since.swap(IDLE, Ordering::Relaxed), self.now());
        self.busy.fetch_add(end.saturating_sub(begin), Ordering::Relaxed);
        if let Some(on_span) = self.on_span.as_ref().filter(|_| end > begin) {
            let (begin, end) = (Duration::from_nanos(begin), Duration::from_nanos(end));
            on_span(Span { stage: &self.stage, thread: self.thread, begin, end });
        }
        end
    }

    /// Waits, and knows what for.
    pub(super) fn wait<T>(&self, what: Wait, wait: impl FnOnce() -> T) -> T {
        let begin = self.pause();
        let result = wait();
        let end = self.now();
        let sum = match what {
            Wait::Input => &self.waiting_for_input,
            Wait::Output => &self.waiting_for_output,
        };
        sum.fetch_add(end.saturating_sub(begin), Ordering::Relaxed);
        self.busy_since.store(end, Ordering::Relaxed);
        result
    }

    /// Nanoseconds of the stretch of work that the thread is in.
    fn stretch(&self) -> u64 {
        self.now().saturating_sub(self.busy_since.load(Ordering::Relaxed))
    }

    pub(super) fn count(&self) {
        self.n_items.fetch_add(1, Ordering::Relaxed);
    }

    /// The sums of a stage's threads.
    pub(super) fn report(name: &str, clocks: &[std::sync::Arc<Self>]) -> StageReport {
        let sum = |of: fn(&Self) -> &AtomicU64| clocks.iter().map(|clock| of(clock).load(Ordering::Relaxed)).sum();
        StageReport {
            name: name.to_owned(),
            n_threads: clocks.len(),
            n_items: sum(|clock| &clock.n_items),
            busy: Duration::from_nanos(
                sum(|clock| &clock.busy) + clocks.iter().map(|clock| clock.stretch()).sum::<u64>(),
            ),
            waiting_for_input: Duration::from_nanos(sum(|clock| &clock.waiting_for_input)),
            waiting_for_output: Duration::from_nanos(sum(|clock| &clock.waiting_for_output)),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
