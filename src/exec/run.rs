//! Running stages: threads are named and joined, and panics become errors. Called by [`pipeline`](crate::pipeline).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope as ThreadScope};
use std::time::Instant;

use crossbeam_channel::bounded;

use super::order::ItemOrder;
use super::stage::Clock;
use super::{Inlet, Outlet, RunControl, StageConfig, StageReport};
use crate::error::{Error, Kind};

/// Scope of a run, to which stages are added.
pub(crate) struct Scope<'scope, 'env> {
    threads: &'scope ThreadScope<'scope, 'env>,
    shared: Arc<ScopeShared>,
}

struct ScopeShared {
    control: RunControl,
    begin: Instant,
    failure: Mutex<Option<Error>>,
}

/// Runs the stages that `build` adds to its scope, and waits for all of them.
///
/// # Errors
/// The first panic of a stage. The other stages are then stopped, and every thread has ended.
pub(crate) fn run<'env, R>(
    control: &RunControl,
    build: impl for<'scope> FnOnce(&Scope<'scope, 'env>) -> R,
) -> Result<(R, Vec<StageReport>), Error> {
    let shared = Arc::new(ScopeShared { control: control.clone(), begin: Instant::now(), failure: Mutex::new(None) });
    let result = std::thread::scope(|threads| {
        let scope = Scope { threads, shared: shared.clone() };
        let built = catch_unwind(AssertUnwindSafe(|| build(&scope)));
        if let Err(payload) = &built {
            shared.fail(panicked("run", &**payload));
        }
        built
    });
    let result = match (lock(&shared.failure).take(), result) {
        (None, Ok(result)) => result,
        (Some(failure), _) => return Err(failure),
        (None, Err(payload)) => resume_unwind(payload),
    };
    Ok((result, control.monitor.reports()))
}

impl<'scope> Scope<'scope, '_> {
    /// Adds a stage that produces items. Its channel buffers up to `capacity` items.
    pub(crate) fn source<T: Send + 'scope>(
        &self,
        name: &str,
        capacity: usize,
        body: impl FnOnce(&Outlet<T>) + Send + 'scope,
    ) -> Inlet<T> {
        let (sender, receiver) = bounded(capacity);
        let clock = self.clocks(name, 1).remove(0);
        let outlet =
            Outlet { items: sender, stop: self.shared.control.stop.clone(), clock: clock.clone(), counts: true };
        self.spawn(name, clock, move || body(&outlet));
        Inlet { items: receiver, stop: self.shared.control.stop.clone(), clock: None }
    }

    /// Adds a stage that maps items to items; its threads share its inlet.
    pub(crate) fn stage<T: Send + 'scope, U: Send + 'scope>(
        &self,
        config: StageConfig<'_>,
        input: Inlet<T>,
        body: impl Fn(&Inlet<T>, &Outlet<U>) + Send + Sync + 'scope,
    ) -> Inlet<U> {
        let StageConfig { name, n_threads, capacity } = config;
        let (sender, receiver) = bounded(capacity);
        let body = Arc::new(body);
        for clock in self.clocks(name, n_threads.get()) {
            let stop = || self.shared.control.stop.clone();
            let inlet = Inlet { items: input.items.clone(), stop: stop(), clock: Some(clock.clone()) };
            let outlet = Outlet { items: sender.clone(), stop: stop(), clock: clock.clone(), counts: false };
            let body = body.clone();
            self.spawn(name, clock, move || body(&inlet, &outlet));
        }
        Inlet { items: receiver, stop: self.shared.control.stop.clone(), clock: None }
    }

    /// Adds a stage that maps each item to one item, and sends the results in the order of the items. At most one
    /// result per thread but the first is buffered.
    pub(crate) fn map_in_order<T: Send + 'scope, U: Send + 'scope>(
        &self,
        config: StageConfig<'_>,
        input: Inlet<T>,
        map: impl Fn(T) -> U + Send + Sync + 'scope,
    ) -> Inlet<U> {
        let order = ItemOrder::new(config.n_threads);
        self.stage(config, input, move |inlet, outlet| order.run(inlet, outlet, &map))
    }

    /// Runs a last stage on the caller's thread: returns when its inlet is closed, or `body` returns.
    pub(crate) fn here<T, R>(&self, name: &str, mut input: Inlet<T>, body: impl FnOnce(&Inlet<T>) -> R) -> R {
        let clock = self.clocks(name, 1).remove(0);
        input.clock = Some(clock.clone());
        clock.begin();
        let outcome = catch_unwind(AssertUnwindSafe(|| body(&input)));
        clock.pause();
        outcome.unwrap_or_else(|payload| {
            self.shared.fail(panicked(name, &*payload));
            drop(input);
            resume_unwind(payload)
        })
    }

    /// Creates the clocks of a new stage's threads, and registers them with the monitor.
    fn clocks(&self, name: &str, n_threads: usize) -> Vec<Arc<Clock>> {
        let shared = &self.shared;
        let clock = |i| Arc::new(Clock::new(name, i, shared.begin, shared.control.on_span.clone()));
        let clocks: Vec<_> = (0..n_threads).map(clock).collect();
        shared.control.monitor.add(name, &clocks);
        clocks
    }

    fn spawn(&self, name: &str, clock: Arc<Clock>, body: impl FnOnce() + Send + 'scope) {
        let (shared, stage) = (self.shared.clone(), name.to_owned());
        let guarded = move || {
            clock.begin();
            // A stage owns its channel ends: unwinding closes them, and nothing else of the stage is seen again.
            let outcome = catch_unwind(AssertUnwindSafe(body));
            clock.pause();
            if let Err(payload) = outcome {
                shared.fail(panicked(&stage, &*payload));
            }
        };
        if let Err(error) = Builder::new().name(name.to_owned()).spawn_scoped(self.threads, guarded) {
            self.shared.fail(Error::new(Kind::Defect, format!("the stage `{name}` got no thread: {error}")));
        }
    }
}

impl ScopeShared {
    /// Records the first failure, and aborts the run.
    fn fail(&self, failure: Error) {
        lock(&self.failure).get_or_insert(failure);
        self.control.stop.abort();
    }
}

/// Returns the error of a stage that panicked.
fn panicked(stage: &str, payload: &(dyn Any + Send)) -> Error {
    Error::new(Kind::Defect, format!("the stage `{stage}` panicked: {}", panic_message(payload)))
}

/// Locks a mutex, ignoring poisoning: the guarded values are consistent after every statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the message of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
