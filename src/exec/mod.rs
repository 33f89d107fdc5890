//! Stages on threads, joined by bounded channels. It knows nothing of videos or models.
//!
//! [`run`] opens a scope; [`Scope::source`], [`Scope::stage`], [`Scope::map_in_order`] and [`Scope::here`] put stages
//! into it. A stage is a function from an [`Inlet`] to an [`Outlet`], or from item to item: it ends when its inlet is
//! closed, or when nobody wants what it makes, and neither is an error. Items that fail travel on as values; only a
//! panic fails a run, and it is told with the stage's name.
//!
//! Between a source and a blocked sink there are never more items than the capacities of the edges, one for each
//! thread, and one more for each thread but the first of a stage that keeps the order.

mod channel;
mod order;
mod run;
mod stage;
mod stop;
#[cfg(test)]
mod tests;
mod watch;

pub use channel::{Closed, Inlet, Outlet};
pub(crate) use run::lock;
pub use run::{ExecError, Scope, panic_message, run};
pub use stage::{OnSpan, Span, StageReport, Threads};
pub use stop::Stop;
pub use watch::{Monitor, RunControl};
