//! Signals that end a run: the first one drains it, the second aborts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vidense::exec::Stop;

use super::output;

/// Ctrl-C, SIGTERM and SIGHUP are heard from now on.
///
/// # Errors
/// When the system does not let us.
pub fn stop_on(stop: &Stop) -> anyhow::Result<()> {
    let stop = stop.clone();
    let told = Arc::new(AtomicBool::new(false));
    ctrlc::set_handler(move || {
        if !stop.request() && !told.swap(true, Ordering::Relaxed) {
            output::note("finishing what is under way; once more ends at once");
        }
    })?;
    Ok(())
}
