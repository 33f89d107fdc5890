//! Conversions of candle's and the operating system's errors. An [`Error`] that passed through one of them keeps its
//! parts.

use std::io;

use super::{Error, Kind};

impl From<candle_core::Error> for Error {
    fn from(cause: candle_core::Error) -> Self {
        let cause = without_backtrace(cause);
        let kind = if is_out_of_memory(&cause) { Kind::OutOfMemory } else { Kind::Compute };
        match &cause {
            candle_core::Error::Io(io) if let Some(carried) = carried(io) => carried.with_kind(kind),
            _ => Self::caused_by(kind, cause),
        }
    }
}

/// Carries an error through operations of candle's: `Error::from` of the result has the same subjects, rule and hint.
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::Io(io::Error::other(error))
    }
}

impl From<io::Error> for Error {
    fn from(cause: io::Error) -> Self {
        match carried(&cause) {
            Some(carried) => carried.with_kind(Kind::Unreadable),
            None => Self::caused_by(Kind::Unreadable, cause),
        }
    }
}

/// Returns the error inside an [`io::Error::other`].
fn carried(cause: &io::Error) -> Option<Error> {
    cause.get_ref()?.downcast_ref::<Error>().cloned()
}

/// Returns candle's error without the backtrace that it prints.
fn without_backtrace(error: candle_core::Error) -> candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(*inner),
        other => other,
    }
}

/// Returns whether an operation failed for want of memory on its device, as far as the words of the driver tell.
pub(crate) fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let words = error.to_string().to_lowercase();
    ["out of memory", "out_of_memory", "alloc_failed"].iter().any(|word| words.contains(word))
}
