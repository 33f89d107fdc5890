//! Signals that end a run (the first drains it, the second aborts it) or a command with temporary files, and the watch
//! for stuck reads, which end only with the process.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vidense::error::{Error, Kind};
use vidense::exec::Stop;
use vidense::video::stuck_read;

use super::{Stopped, output};

/// Time that an aborted run has to end by itself. A read that cannot be interrupted ends with the process; results are
/// written line by line, and none is lost.
const AFTER_ABORT: Duration = Duration::from_secs(3);
/// Exit code of a run that was stopped.
const STOPPED: i32 = 1;
/// Exit code of a command with a stuck read.
const STUCK: i32 = 2;
/// Exit code of a command that a signal ended: that of a shell for an interrupted process.
const INTERRUPTED: i32 = 130;
/// Interval of the watch for stuck reads.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// Set once a signal has asked for the end.
static IS_SIGNALLED: AtomicBool = AtomicBool::new(false);

/// Directory that is removed when the process ends otherwise than by returning.
static TEMPORARY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Lets Ctrl-C, SIGTERM and SIGHUP end the process after the removal of a directory.
///
/// # Errors
/// When the handler cannot be installed.
pub fn remove_on_signal(directory: &Path) -> anyhow::Result<()> {
    *TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory.to_owned());
    ctrlc::set_handler(|| {
        remove_temporary();
        std::process::exit(INTERRUPTED);
    })?;
    Ok(())
}

fn remove_temporary() {
    if let Some(directory) = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // The process ends in any case.
        let _ = std::fs::remove_dir_all(directory);
    }
}

/// Handles Ctrl-C, SIGTERM and SIGHUP from now on.
///
/// # Errors
/// When the handler cannot be installed.
pub fn stop_on(stop: &Stop) -> anyhow::Result<()> {
    let stop = stop.clone();
    let is_announced = Arc::new(AtomicBool::new(false));
    ctrlc::set_handler(move || {
        IS_SIGNALLED.store(true, Ordering::SeqCst);
        if stop.request() {
            end_after_abort();
        } else if !is_announced.swap(true, Ordering::Relaxed) {
            output::note("finishing the work in progress; a second signal ends at once");
        }
    })?;
    Ok(())
}

/// Ends the process unless it ends by itself; if no thread can be started, only by itself.
fn end_after_abort() {
    let _ = std::thread::Builder::new().name("abort".to_owned()).spawn(|| {
        std::thread::sleep(AFTER_ABORT);
        std::process::exit(STOPPED);
    });
}

/// Starts the watch that ends the process once FFmpeg neither returns from a read over its time limit nor calls its
/// interrupt callback. Results so far are complete, as after any other end. If no thread can be started, there is no
/// watch.
pub fn end_if_stuck() {
    let _ = std::thread::Builder::new().name("stuck reads".to_owned()).spawn(|| {
        loop {
            std::thread::sleep(WATCH_INTERVAL);
            if let Some(error) = stuck_read() {
                end_stuck(error);
            }
        }
    });
}

fn end_stuck(error: Error) -> ! {
    let is_stop = error.kind() == Kind::Halted && IS_SIGNALLED.load(Ordering::SeqCst);
    output::error(&error.into());
    remove_temporary();
    if is_stop {
        output::error(&Stopped.into());
        std::process::exit(STOPPED);
    }
    let note = Error::invalid("FFmpeg does not return from this file, which ends the command");
    let hint = "`run` with --isolate, and `batch`, read each file in a process of its own";
    output::note(&note.with_hint(hint).to_string());
    std::process::exit(STUCK);
}
