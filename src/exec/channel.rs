//! The two ends of an edge, which measure how long their stage waits at them.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, select};

use super::Stop;
use super::stage::{Clock, Wait};

/// Nobody wants the item, or the run is given up: the stage ends, and that is no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// Where a stage's items come from.
#[derive(Debug)]
pub struct Inlet<T> {
    pub(super) items: Receiver<T>,
    pub(super) stop: Stop,
    /// Of the thread that reads; an edge that is not yet connected has none.
    pub(super) clock: Option<Arc<Clock>>,
}

/// Where a stage's items go.
#[derive(Debug)]
pub struct Outlet<T> {
    pub(super) items: Sender<T>,
    pub(super) stop: Stop,
    pub(super) clock: Arc<Clock>,
    /// Whether its stage counts what it sends, having nothing to receive.
    pub(super) counts: bool,
}

impl<T> Inlet<T> {
    /// The next item; none once all senders are gone, or the run is given up.
    pub fn recv(&self) -> Option<T> {
        self.waiting(|| self.take())
    }

    /// The next item as `take` gets it; the time until it returns is waiting time.
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

    /// As [`Self::recv`], without a clock.
    pub(super) fn take(&self) -> Option<T> {
        // An item that is there does not outrun an abort.
        if self.stop.is_aborted() {
            return None;
        }
        select! {
            recv(self.items) -> item => item.ok(),
            recv(self.stop.aborted()) -> _ => None,
        }
    }

    /// An item that has come already.
    pub fn recv_now(&self) -> Option<T> {
        let item = if self.stop.is_aborted() { None } else { self.items.try_recv().ok() };
        if let (Some(_), Some(clock)) = (&item, &self.clock) {
            clock.count();
        }
        item
    }
}

impl<T> Inlet<T> {
    /// The next item, if it comes until then; the time until it does is waiting time.
    pub fn recv_until(&self, deadline: Instant) -> Option<T> {
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
    /// Hands an item on, waiting until there is room.
    ///
    /// # Errors
    /// [`Closed`] when nobody wants it.
    pub fn send(&self, item: T) -> Result<(), Closed> {
        let sent = self.waiting(|| self.give(item));
        if self.counts && sent.is_ok() {
            self.clock.count();
        }
        sent
    }

    /// Runs `give`; the time until it returns is waiting time.
    pub(super) fn waiting(&self, give: impl FnOnce() -> Result<(), Closed>) -> Result<(), Closed> {
        self.clock.wait(Wait::Output, give)
    }

    /// As [`Self::send`], without a clock.
    pub(super) fn give(&self, item: T) -> Result<(), Closed> {
        if self.stop.is_aborted() {
            return Err(Closed);
        }
        select! {
            send(self.items, item) -> sent => sent.map_err(|_| Closed),
            recv(self.stop.aborted()) -> _ => Err(Closed),
        }
    }

    /// The wish to end the run, for what waits on something other than a channel.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Whether the run is given up: what takes long looks now and then.
    pub fn is_aborted(&self) -> bool {
        self.stop.is_aborted()
    }

    /// Whether a source should make nothing new.
    pub fn is_draining(&self) -> bool {
        self.stop.is_draining()
    }
}
