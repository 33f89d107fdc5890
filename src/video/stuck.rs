//! Registry of the files that this process reads, for calls of FFmpeg that neither return nor call the interrupt
//! callback.
//!
//! Only the end of the process ends such a call, and the program decides that: it polls [`stuck_read`]. A reading in a
//! process of its own does not need the registry.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::timer::ReadTimer;
use crate::error::Error;

static READINGS: Mutex<Vec<OpenReading>> = Mutex::new(Vec::new());

/// A file that is being read.
struct OpenReading {
    path: PathBuf,
    timer: Weak<ReadTimer>,
}

/// Adds a reading, until its `timer` is dropped.
pub(super) fn register(path: &Path, timer: &Arc<ReadTimer>) {
    let mut readings = READINGS.lock().unwrap_or_else(PoisonError::into_inner);
    readings.retain(|reading| reading.timer.strong_count() > 0);
    readings.push(OpenReading { path: path.to_owned(), timer: Arc::downgrade(timer) });
}

/// Returns the error of a reading whose call of FFmpeg has been over its limit for a second without returning. Call it
/// several times a second: that second begins when a call is first seen over its limit.
pub fn stuck_read() -> Option<Error> {
    let readings = READINGS.lock().unwrap_or_else(PoisonError::into_inner);
    readings.iter().find_map(|reading| reading.timer.upgrade()?.stuck(&reading.path))
}
