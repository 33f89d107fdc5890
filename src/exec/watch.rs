//! What may be wanted of a run from outside: its end, its spans, and how it stands.

use std::sync::{Arc, Mutex};

use super::run::lock;
use super::stage::{Clock, OnSpan};
use super::{StageReport, Stop};

/// How a run is watched. One is good for one run.
#[derive(Clone, Default)]
pub struct RunControl {
    /// The wish to end it.
    pub stop: Stop,
    /// Hears of every stretch of work.
    pub on_span: Option<Arc<OnSpan>>,
    /// Tells what its stages did so far.
    pub monitor: Monitor,
}

impl RunControl {
    /// A run that ends when `stop` says so.
    pub fn until(stop: &Stop) -> Self {
        Self { stop: stop.clone(), ..Self::default() }
    }

    /// The same, whose spans are heard.
    #[must_use]
    pub fn with_spans(self, on_span: Option<Arc<OnSpan>>) -> Self {
        Self { on_span, ..self }
    }
}

/// The stages of a run, in the order in which they were put into it; may be asked at any time, from any thread.
#[derive(Clone, Default)]
pub struct Monitor {
    stages: Arc<Mutex<Vec<Watched>>>,
}

/// A stage's name, and the clocks of its threads.
type Watched = (String, Vec<Arc<Clock>>);

impl Monitor {
    /// What each stage did so far.
    pub fn reports(&self) -> Vec<StageReport> {
        let stages = lock(&self.stages);
        stages.iter().map(|(name, clocks)| Clock::report(name, clocks)).collect()
    }

    pub(super) fn add(&self, name: &str, clocks: &[Arc<Clock>]) {
        lock(&self.stages).push((name.to_owned(), clocks.to_vec()));
    }
}
