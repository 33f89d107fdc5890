//! Errors between a video and an answer: those of the stages' own, and hints for those of the engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytesize::ByteSize;
use candle_core::Tensor;

use super::run::GENERATE;
use crate::error::{Error, Kind};
use crate::exec::panic_message;

/// Adds the sizes of one image and of the free memory, if the device is out of memory.
pub(super) fn with_memory_of(error: Error, image: Option<&Tensor>, free: Option<u64>) -> Error {
    if !error.kind().is_out_of_memory() {
        return error;
    }
    let input = image.map_or("nothing".to_owned(), |image| format!("one image of {:?}", image.dims()));
    let free =
        free.map_or("an unknown amount of memory".to_owned(), |free| ByteSize::b(free).display().iec().to_string());
    let rule = format!("{}; the device has {free} left, and it is {input}", error.statement());
    let hint = "a smaller --kv-memory, a smaller model, half precision (--dtype bf16), or --quant q8_0";
    Error::new(Kind::DeviceMemory, rule).with_hint(hint)
}

/// Returns the error of a stage that took too long over one item.
pub(super) fn time_limit(stage: &str, limit: Duration) -> Error {
    let rule = format!("it took longer than the limit of {} s", limit.as_secs_f64());
    Error::new(Kind::TimeLimit, rule).with_hint(longer(stage))
}

fn longer(stage: &str) -> String {
    format!("a longer --time-limit {stage}=")
}

/// Returns the error of a run that ended before its only video was done.
pub(super) fn stopped() -> Error {
    Error::new(Kind::Stopped, "stopped before the video was done")
}

/// Adds to an error of the engine the hints that its caller knows.
pub(super) fn of_engine(error: Error) -> Error {
    match error.kind() {
        Kind::Compute | Kind::OutOfMemory => error.about("answering"),
        Kind::Defect => error.with_hint(REPORT),
        Kind::TimeLimit => error.with_hint(longer(GENERATE)),
        _ => error,
    }
}

/// Hint for a defect of this program.
const REPORT: &str = "report it with the file";

/// Runs the work on one item so that a panic fails that item alone. All that the item owned is dropped with it.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        let rule = format!("a defect of this program: {}", panic_message(&*payload));
        Err(Error::new(Kind::Defect, rule).with_hint(REPORT))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_fails_its_item_alone() {
        let run = |text: &str| guarded(|| Ok(text.parse::<u32>().unwrap_or_else(|_| panic!("{text} is none"))));
        assert_eq!(run("7").expect("a number"), 7);
        let error = run("x").expect_err("a panic");
        assert_eq!(error.to_string(), "a defect of this program: x is none; hint: report it with the file");
        assert_eq!(error.kind(), Kind::Defect);
    }
}
