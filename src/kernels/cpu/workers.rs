//! Sequences of many small parallel operations on the thread pool, whose threads spin between operations.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rayon::Yield;

/// Time for which an idle thread spins.
const SPIN: Duration = Duration::from_millis(1);

/// Runs `run` on a thread of the pool while the pool's other threads spin, so that each parallel operation in it begins
/// at once. From a thread outside the pool each operation would be handed over, and threads that are idle for some
/// microseconds would sleep and have to be woken.
pub fn on_workers<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    let spinning = || {
        let _spin_guard = SpinGuard::begin();
        let _owner_guard = OwnerGuard { before: IS_OWNER.replace(true) };
        run()
    };
    match rayon::current_thread_index() {
        Some(_) => spinning(),
        None => rayon::scope(|_| spinning()),
    }
}

thread_local! {
    /// Whether this thread is inside [`on_workers`]: it then waits for its own operations and does not spin for others.
    static IS_OWNER: Cell<bool> = const { Cell::new(false) };
}

/// Restores [`IS_OWNER`] when dropped, also by a panic.
struct OwnerGuard {
    before: bool,
}

impl Drop for OwnerGuard {
    fn drop(&mut self) {
        IS_OWNER.set(self.before);
    }
}

/// Keeps the pool's other threads spinning until dropped.
struct SpinGuard {
    is_over: Arc<AtomicBool>,
}

impl SpinGuard {
    fn begin() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let theirs = is_over.clone();
        rayon::spawn_broadcast(move |_| {
            if !IS_OWNER.get() {
                spin(&theirs);
            }
        });
        Self { is_over }
    }
}

impl Drop for SpinGuard {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Executes the pool's jobs, and spins for [`SPIN`] without one.
fn spin(is_over: &AtomicBool) {
    let mut last = Instant::now();
    while !is_over.load(Ordering::Relaxed) && last.elapsed() < SPIN {
        match rayon::yield_now() {
            Some(Yield::Executed) => last = Instant::now(),
            Some(Yield::Idle) | None => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_calls_stay_on_the_same_thread() {
        let index = on_workers(|| (rayon::current_thread_index(), on_workers(rayon::current_thread_index)));
        assert!(index.0.is_some() && index.0 == index.1);
    }

    #[test]
    fn a_panic_does_not_leave_its_thread_an_owner() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.install(|| on_workers(|| panic!("meant")))));
        assert!(panicked.is_err() && !pool.install(|| IS_OWNER.get()));
    }

    #[test]
    fn nested_parallel_operations_end() {
        use rayon::prelude::*;
        let sum = |n: u64| on_workers(|| (0..n).into_par_iter().map(|i| on_workers(|| i)).sum::<u64>());
        let sums: Vec<u64> = (0..200).into_par_iter().map(sum).collect();
        assert!(sums.iter().enumerate().all(|(n, sum)| *sum == (n * n.saturating_sub(1) / 2) as u64));
    }
}
