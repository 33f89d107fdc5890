//! Control of a run from outside: its stop signal, a callback for spans, and a monitor of its stages.

use std::sync::{Arc, Mutex};

use super::run::lock;
use super::stage::{Clock, OnSpan};
use super::{StageReport, Stop};

/// Stop signal, span callback and monitor of one run. Not reusable for another run.
#[derive(Clone, Default)]
pub struct RunControl {
    /// Stop signal.
    pub stop: Stop,
    /// Callback for every span of work.
    pub on_span: Option<Arc<OnSpan>>,
    /// Monitor of the stages.
    pub monitor: Monitor,
}

impl RunControl {
    /// Creates the control of a run with the given stop signal.
    pub fn until(stop: &Stop) -> Self {
        Self { stop: stop.clone(), ..Self::default() }
    }

    /// Sets the callback for spans.
    #[must_use]
    pub fn with_spans(self, on_span: Option<Arc<OnSpan>>) -> Self {
        Self { on_span, ..self }
    }
}

/// Monitor of a run's stages, in the order in which they were added. Readable at any time, from any thread.
#[derive(Clone, Default)]
pub struct Monitor {
    stages: Arc<Mutex<Vec<StageClocks>>>,
}

/// Name of a stage, and the clocks of its threads.
type StageClocks = (String, Vec<Arc<Clock>>);

impl Monitor {
    /// Returns the report of each stage so far.
    pub fn reports(&self) -> Vec<StageReport> {
        let stages = lock(&self.stages);
        stages.iter().map(|(name, clocks)| Clock::report(name, clocks)).collect()
    }

    pub(super) fn add(&self, name: &str, clocks: &[Arc<Clock>]) {
        lock(&self.stages).push((name.to_owned(), clocks.to_vec()));
    }
}
