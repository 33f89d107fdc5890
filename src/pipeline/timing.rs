//! Times of the steps from a video to an answer. Written to JSON and to the results of a batch.

use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

/// Busy time of each step. Decoding and preprocessing overlap with encoding, so the parts may exceed the total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Loading the model.
    #[serde(serialize_with = "milliseconds")]
    pub load: Duration,
    /// Demuxing, decoding and converting to RGB.
    #[serde(serialize_with = "milliseconds")]
    pub decode: Duration,
    /// Padding, resizing and normalising.
    #[serde(serialize_with = "milliseconds")]
    pub preprocess: Duration,
    /// The vision tower with the connector's fusion.
    #[serde(serialize_with = "milliseconds")]
    pub encode: Duration,
    /// The projector and the temporal aggregation.
    #[serde(serialize_with = "milliseconds")]
    pub connect: Duration,
    /// The prompt through the language model.
    #[serde(serialize_with = "milliseconds")]
    pub prefill: Duration,
    /// The answer's tokens.
    #[serde(serialize_with = "milliseconds")]
    pub generate: Duration,
    /// Wall time from the start of the command to the answer.
    #[serde(serialize_with = "milliseconds")]
    pub total: Duration,
}

/// Runs a function and adds its time to a sum.
pub(crate) fn timed<T>(sum: &mut Duration, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    *sum += start.elapsed();
    result
}

fn milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1e6).round() / 1e3)
}
