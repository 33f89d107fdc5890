//! Signals that end a run: the first one drains it, the second aborts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vidense::exec::Stop;

use super::output;

/// Time that an aborted run has to end by itself. What is stuck longer, in a read that nothing can interrupt, ends with the process;
/// results are written line by line, and none is lost.
const AFTER_ABORT: Duration = Duration::from_secs(3);
/// The exit code of a run that was stopped.
const STOPPED: i32 = 1;

/// Ctrl-C, SIGTERM and SIGHUP are heard from now on.
///
/// # Errors
/// When the system does not let us.
pub fn stop_on(stop: &Stop) -> anyhow::Result<()> {
    let stop = stop.clone();
    let told = Arc::new(AtomicBool::new(false));
    ctrlc::set_handler(move || {
        if stop.request() {
            end_after_abort();
        } else if !told.swap(true, Ordering::Relaxed) {
            output::note("finishing what is under way; once more ends at once");
        }
    })?;
    Ok(())
}

/// Ends the process unless it ends by itself. Without a thread for it, it does.
fn end_after_abort() {
    let _ = std::thread::Builder::new().name("abort".to_owned()).spawn(|| {
        std::thread::sleep(AFTER_ABORT);
        std::process::exit(STOPPED);
    });
}
