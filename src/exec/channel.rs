//! Inlet and outlet: the two ends of a bounded channel between stages. Both measure how long their stage waits.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, select};

use super::Stop;
use super::stage::{Clock, Wait};

/// The receiver is gone or the run is aborted: the stage ends, without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

/// Receiving end of a channel between stages.
#[derive(Debug)]
pub(crate) struct Inlet<T> {
    pub(super) items: Receiver<T>,
    pub(super) stop: Stop,
    /// Clock of the receiving thread; `None` until the channel is connected to a stage.
    pub(super) clock: Option<Arc<Clock>>,
}

/// Sending end of a channel between stages.
#[derive(Debug)]
pub(crate) struct Outlet<T> {
    pub(super) items: Sender<T>,
    pub(super) stop: Stop,
    pub(super) clock: Arc<Clock>,
    /// Whether sent items are counted: those of a source, which receives nothing.
    pub(super) counts: bool,
}

impl<T> Inlet<T> {
    /// Waits for the next item; returns `None` once all senders are gone or the run is aborted.
    pub(crate) fn recv(&self) -> Option<T> {
        self.waiting(|| self.take())
    }

    /// Receives by `take`, and counts the time until it returns as waiting time.
    pub(super) fn waiting<R>(&self, take: impl FnOnce() -> Option<R>) -> Option<R> {
        let item = match &self.clock {
            Some(clock) => clock.wait(Wait::Input, take),
            None => take(),
        };
        if let (Some(_), Some(clock)) = (&item, &self.clock) {
            clock.count();
        }
        item
    }

    /// Waits for the next item without the clock.
    pub(super) fn take(&self) -> Option<T> {
        // An abort comes before an item that is ready.
        if self.stop.is_aborted() {
            return None;
        }
        select! {
            recv(self.items) -> item => item.ok(),
            recv(self.stop.aborted()) -> _ => None,
        }
    }

    /// Returns the next item if one is ready.
    pub(crate) fn recv_now(&self) -> Option<T> {
        let item = if self.stop.is_aborted() { None } else { self.items.try_recv().ok() };
        if let (Some(_), Some(clock)) = (&item, &self.clock) {
            clock.count();
        }
        item
    }
}

impl<T> Inlet<T> {
    /// Waits for the next item until `deadline`; the time counts as waiting time.
    pub(crate) fn recv_until(&self, deadline: Instant) -> Option<T> {
        self.waiting(|| {
            if self.stop.is_aborted() {
                return None;
            }
            select! {
                recv(self.items) -> item => item.ok(),
                recv(self.stop.aborted()) -> _ => None,
                recv(crossbeam_channel::at(deadline)) -> _ => None,
            }
        })
    }
}

impl<T> Outlet<T> {
    /// Sends an item, waiting for room in the channel.
    ///
    /// # Errors
    /// [`Closed`] when the receiver is gone or the run is aborted.
    pub(crate) fn send(&self, item: T) -> Result<(), Closed> {
        let sent = self.waiting(|| self.give(item));
        if self.counts && sent.is_ok() {
            self.clock.count();
        }
        sent
    }

    /// Sends by `give`, and counts the time until it returns as waiting time.
    pub(super) fn waiting(&self, give: impl FnOnce() -> Result<(), Closed>) -> Result<(), Closed> {
        self.clock.wait(Wait::Output, give)
    }

    /// Sends an item without the clock.
    pub(super) fn give(&self, item: T) -> Result<(), Closed> {
        if self.stop.is_aborted() {
            return Err(Closed);
        }
        select! {
            send(self.items, item) -> sent => sent.map_err(|_| Closed),
            recv(self.stop.aborted()) -> _ => Err(Closed),
        }
    }

    /// Stop signal of the run, for stages that wait on something other than a channel.
    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Returns whether the run is aborted. Long operations poll this.
    pub(crate) fn is_aborted(&self) -> bool {
        self.stop.is_aborted()
    }

    /// Returns whether sources should send nothing new.
    pub(crate) fn is_draining(&self) -> bool {
        self.stop.is_draining()
    }
}
