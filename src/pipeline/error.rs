//! Errors between a video and an answer.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytesize::ByteSize;
use candle_core::Tensor;

use super::run::GENERATE;
use crate::engine::EngineError;
use crate::error::Error;
use crate::exec::{ExecError, panic_message};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A failure of a lower layer.
    #[error(transparent)]
    Lower(#[from] crate::error::Error),
    /// A stage panicked, which is a defect of this program, or got no thread.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// One item made a stage panic, which is a defect of this program; the stage goes on with the next one.
    #[error("a defect of this program: {message}; hint: report it with the file")]
    Panic {
        /// What the panic said.
        message: String,
    },
    /// A stage took too long over one item.
    #[error("it took longer than the limit of {} s; hint: a longer --time-limit {stage}=", limit.as_secs_f64())]
    TimeLimit {
        /// The stage.
        stage: &'static str,
        /// Its limit.
        limit: Duration,
    },
    /// A request that the engine refused or gave up.
    #[error(transparent)]
    Engine(EngineError),
    /// The device has no memory for an operation, however small it was made.
    #[error(
        "{source}; the device has {} left, and it is {what}; hint: a smaller --kv-memory, a smaller model, half precision \
         (--dtype bf16), or --quant q8_0",
        free.map_or("an unknown amount of memory".to_owned(), |free| ByteSize::b(free).display().iec().to_string())
    )]
    OutOfMemory {
        /// The failure.
        source: Box<PipelineError>,
        /// Bytes that are left, if the device tells.
        free: Option<u64>,
        /// The operation's input.
        what: String,
    },
    /// The run was ended before its only video was done.
    #[error("stopped before the video was done")]
    Nothing,
}

impl PipelineError {
    /// The kind of failure in one word, by which failures are counted.
    pub fn kind(&self) -> &str {
        match self {
            Self::Lower(error) => error.kind().word(),
            Self::Exec(_) | Self::Panic { .. } => "defect",
            Self::TimeLimit { .. } => "time_limit",
            Self::Engine(EngineError::OverBudget { .. }) => "kv_memory",
            Self::Engine(EngineError::OutOfMemory { .. }) => "device_memory",
            Self::OutOfMemory { .. } => "device_memory",
            Self::Engine(_) => "stopped",
            Self::Nothing => "stopped",
        }
    }

    /// Returns whether an operation failed because its device is out of memory.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::OutOfMemory { .. } => true,
            Self::Lower(error) => error.kind().is_out_of_memory(),
            _ => false,
        }
    }

    /// Adds the sizes of one image and of the free memory, if the device is out of memory.
    pub(super) fn with_memory_of(self, image: Option<&Tensor>, free: Option<u64>) -> Self {
        if !self.is_out_of_memory() {
            return self;
        }
        let what = image.map_or("nothing".to_owned(), |image| format!("one image of {:?}", image.dims()));
        Self::OutOfMemory { source: Box::new(self), free, what }
    }
}

impl From<EngineError> for PipelineError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Compute(source) => {
                Error::compute("answering")(candle_core::Error::msg(source.to_string())).into()
            }
            EngineError::Panic(message) => Self::Panic { message },
            EngineError::TimeLimit(limit) => Self::TimeLimit { stage: GENERATE, limit },
            other => Self::Engine(other),
        }
    }
}

/// Runs the work on one item so that a panic fails that item alone. All that the item owned is dropped with it.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, PipelineError>) -> Result<T, PipelineError> {
    let panicked = |payload: Box<dyn Any + Send>| PipelineError::Panic { message: panic_message(&*payload) };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| Err(panicked(payload)))
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
        assert_eq!(error.kind(), "defect");
    }
}
