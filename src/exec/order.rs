//! Keeps the order of items in a stage of several threads: items are numbered when received and sent by number.
//!
//! The thread with the next number sends its result and the buffered results after it; a thread with a later number
//! buffers its result and goes on, or waits while the buffer is full. This never deadlocks: the thread with the next
//! number waits for the consumer alone. Called by [`Scope::map_in_order`](super::Scope::map_in_order).

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};

use super::run::lock;
use super::{Closed, Inlet, Outlet, Threads};

/// Order of one stage's items, shared by its threads.
pub(super) struct ItemOrder<U> {
    /// Number of items received.
    received: Mutex<usize>,
    results: Mutex<OrderedResults<U>>,
    /// Notified when `next` changes or the stage is closed.
    moved: Condvar,
    /// Maximum number of buffered results.
    capacity: usize,
}

struct OrderedResults<U> {
    /// Number of the next result to send.
    next: usize,
    /// Buffered results with later numbers.
    early: BTreeMap<usize, U>,
    /// Whether nothing more is sent: the receiver is gone, or an item was lost in a panic.
    is_closed: bool,
}

impl<U> ItemOrder<U> {
    /// Creates the order of a stage before its first item.
    pub(super) fn new(n_threads: Threads) -> Self {
        let results = OrderedResults { next: 0, early: BTreeMap::new(), is_closed: false };
        let capacity = n_threads.get() - 1;
        Self { received: Mutex::new(0), results: Mutex::new(results), moved: Condvar::new(), capacity }
    }

    /// Runs one thread of the stage.
    pub(super) fn run<T>(&self, inlet: &Inlet<T>, outlet: &Outlet<U>, map: &dyn Fn(T) -> U) {
        let _closing = CloseOnPanic(self);
        while let Some((number, item)) = self.receive(inlet) {
            if self.send(number, map(item), outlet).is_err() {
                return;
            }
        }
    }

    /// Receives the next item and its number. One thread at a time waits at the inlet, so that both agree.
    fn receive<T>(&self, inlet: &Inlet<T>) -> Option<(usize, T)> {
        inlet.waiting(|| {
            let mut received = lock(&self.received);
            let item = inlet.take()?;
            let number = *received;
            *received += 1;
            Some((number, item))
        })
    }

    /// Sends a result and the buffered results after it, or buffers it for the thread that sends an earlier one.
    fn send(&self, number: usize, result: U, outlet: &Outlet<U>) -> Result<(), Closed> {
        outlet.waiting(|| {
            let waits = |results: &mut OrderedResults<U>| {
                !results.is_closed && results.next != number && results.early.len() >= self.capacity
            };
            let waited = self.moved.wait_while(lock(&self.results), waits);
            let mut results = waited.unwrap_or_else(PoisonError::into_inner);
            if results.is_closed {
                return Err(Closed);
            }
            if results.next != number {
                results.early.insert(number, result);
                return Ok(());
            }
            let mut ready = Some(result);
            while let Some(result) = ready.take() {
                // Other threads may buffer their results meanwhile.
                drop(results);
                let sent = outlet.give(result);
                if sent.is_err() {
                    self.close();
                    return sent;
                }
                results = lock(&self.results);
                results.next += 1;
                let next = results.next;
                ready = results.early.remove(&next);
                self.moved.notify_all();
            }
            Ok(())
        })
    }

    fn close(&self) {
        lock(&self.results).is_closed = true;
        self.moved.notify_all();
    }
}

/// Guard that wakes the threads that wait for a result lost in a panic.
struct CloseOnPanic<'o, U>(&'o ItemOrder<U>);

impl<U> Drop for CloseOnPanic<'_, U> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
    }
}
