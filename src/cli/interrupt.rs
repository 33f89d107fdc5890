//! Signals that end a run: the first one drains it, the second aborts it. And reads that nothing ends but the end of the
//! process: they are looked for all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vidense::error::{Error, Kind};
use vidense::exec::Stop;
use vidense::video::stuck_read;

use super::{Stopped, output};

/// Time that an aborted run has to end by itself. What is stuck longer, in a read that nothing can interrupt, ends with the process;
/// results are written line by line, and none is lost.
const AFTER_ABORT: Duration = Duration::from_secs(3);
/// The exit code of a run that was stopped.
const STOPPED: i32 = 1;
/// The exit code of a command that a read has stuck.
const STUCK: i32 = 2;
/// Time between two looks for a read that is stuck.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Whether a signal asked for the end.
static IS_ASKED: AtomicBool = AtomicBool::new(false);

/// Ctrl-C, SIGTERM and SIGHUP are heard from now on.
///
/// # Errors
/// When the system does not let us.
pub fn stop_on(stop: &Stop) -> anyhow::Result<()> {
    let stop = stop.clone();
    let told = Arc::new(AtomicBool::new(false));
    ctrlc::set_handler(move || {
        IS_ASKED.store(true, Ordering::SeqCst);
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

/// Ends the process once FFmpeg neither returns from a read that is over its limit nor asks whether to. What was kept so
/// far is whole, as after any other end. Without a thread for it, nothing is looked for.
pub fn end_if_stuck() {
    let _ = std::thread::Builder::new().name("stuck reads".to_owned()).spawn(|| {
        loop {
            std::thread::sleep(LOOK_EVERY);
            if let Some(error) = stuck_read() {
                end_stuck(error);
            }
        }
    });
}

fn end_stuck(error: Error) -> ! {
    let is_stop = error.kind() == Kind::Halted && IS_ASKED.load(Ordering::SeqCst);
    output::error(&error.into());
    if is_stop {
        output::error(&Stopped.into());
        std::process::exit(STOPPED);
    }
    output::note(
        "FFmpeg does not return from this file, which ends the command; hint: `run` with --isolate, and `batch`, read \
         each file in a process of its own",
    );
    std::process::exit(STUCK);
}
