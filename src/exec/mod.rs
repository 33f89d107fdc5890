//! Executor: stages on named threads, joined by bounded channels. Independent of videos and models.
//!
//! `run` opens a scope; `Scope::source`, `Scope::stage`, `Scope::map_in_order` and `Scope::here` add stages to it. A
//! stage is a function from an `Inlet` to an `Outlet`, or from item to item. A stage ends when its inlet is
//! closed or its outlet has no receiver; neither is an error. Failed items travel on as values; only a panic fails a
//! run, and its error names the stage.
//!
//! Between a source and a blocked sink there are at most as many items as the capacities of the edges, one per thread,
//! and one more per thread but the first of a stage that keeps the order. Called by [`pipeline`](crate::pipeline).

mod channel;
mod control;
mod order;
mod run;
mod stage;
mod stop;
#[cfg(test)]
mod tests;

pub(crate) use channel::{Closed, Inlet, Outlet};
pub use control::{Monitor, RunControl};
pub(crate) use run::{lock, panic_message, run};
pub(crate) use stage::StageConfig;
pub use stage::{OnSpan, Span, StageReport, Threads};
pub use stop::Stop;
