//! Registry of the files that this process reads, for calls of FFmpeg that neither return nor ask whether to give up.
//!
//! Only the end of the process ends such a call, and the program decides that: it asks [`stuck_read`] from time
//! to time. A reading in a process of its own needs none of this.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::limits::Spent;
use crate::error::Error;

static READINGS: Mutex<Vec<OpenReading>> = Mutex::new(Vec::new());

/// A file that is read.
struct OpenReading {
    path: PathBuf,
    spent: Weak<Spent>,
}

/// Adds a reading, until its `spent` goes.
pub(super) fn register(path: &Path, spent: &Arc<Spent>) {
    let mut readings = READINGS.lock().unwrap_or_else(PoisonError::into_inner);
    readings.retain(|reading| reading.spent.strong_count() > 0);
    readings.push(OpenReading { path: path.to_owned(), spent: Arc::downgrade(spent) });
}

/// Returns the error of a reading whose call of FFmpeg should have been given up for a second and did not return. To be
/// asked several times a second: that second begins when a call is first seen to be over its limit.
pub fn stuck_read() -> Option<Error> {
    let readings = READINGS.lock().unwrap_or_else(PoisonError::into_inner);
    readings.iter().find_map(|reading| reading.spent.upgrade()?.stuck(&reading.path))
}
