//! What can be wrong with a model.

use std::path::PathBuf;

use bytesize::ByteSize;

use super::Placement;
use crate::device::free_memory;
use crate::error::is_out_of_memory;
use crate::units::Tokens;

/// Why a model could not be described, loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A failure of a lower layer.
    #[error(transparent)]
    Lower(#[from] crate::error::Error),
    /// A file that cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A file that is no JSON.
    #[error("{path}: not JSON: {cause}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        cause: String,
    },
    /// A key of `config.json` with an unusable value.
    #[error("{path}: {key}: {value} is not usable; {rule}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The key, with dots.
        key: String,
        /// Its value, as JSON.
        value: String,
        /// What it should be, or what else is needed.
        rule: String,
    },
    /// Parts that do not go together.
    #[error("{path}: {rule}")]
    Combination {
        /// The checkpoint.
        path: PathBuf,
        /// What does not, both values, and a hint.
        rule: String,
    },
    /// More tokens than the model's context.
    #[error(
        "{strategy}: {visual_words} = {visual} visual tokens + {text} for the prompt = {total}, \
         over the model's context of {context}{hint}"
    )]
    OverBudget {
        /// The temporal strategy.
        strategy: String,
        /// How the visual tokens come about.
        visual_words: String,
        /// Visual tokens.
        visual: Tokens,
        /// Tokens of the prompt's text.
        text: Tokens,
        /// Both.
        total: Tokens,
        /// The context.
        context: Tokens,
        /// What would fit; begins with `; hint: `.
        hint: String,
    },
    /// Frames that make no image for the tower.
    #[error("{path}: {rule}")]
    Frames {
        /// The video.
        path: PathBuf,
        /// Why not.
        rule: String,
    },
    /// A strategy that cannot work on the model's frames.
    #[error("temporal {rule}")]
    Strategy {
        /// The strategy, and what it needs.
        rule: String,
    },
    /// A single image that the model cannot take as its plan says.
    #[error("single_image {rule}")]
    SingleImage {
        /// The way, and the reason.
        rule: String,
    },
    /// A strategy that leaves nothing of a video.
    #[error("{strategy}: {visual_words} = no visual token; hint: a stride of at most {longest}")]
    NoVisualTokens {
        /// The temporal strategy.
        strategy: String,
        /// How the visual tokens come about.
        visual_words: String,
        /// Tokens of a frame.
        longest: usize,
    },
    /// Parts of a checkpoint that change the answers and are not used.
    #[error("{path}: {what} that are not used ({n}): {names}; hint: --allow-unused loads the model without them")]
    Unused {
        /// The checkpoint, or the file in it.
        path: PathBuf,
        /// Kind of part, such as `tensors`.
        what: &'static str,
        /// Number of parts.
        n: usize,
        /// The names of the first of them.
        names: String,
    },
    /// Weights that the device has no memory for.
    #[error(
        "{name}: {n_parameters} parameters in {dtype} take {}, and the device has {} left: {source}; hint: half precision \
         (--dtype bf16), --quant q8_0 or q4_k, or the vision encoder elsewhere (--vision-device cpu)",
        ByteSize::b(*bytes).display().iec(),
        free.map_or("an unknown amount of memory".to_owned(), |free| ByteSize::b(free).display().iec().to_string())
    )]
    Memory {
        /// The model.
        name: String,
        /// Its parameters.
        n_parameters: usize,
        /// The precision.
        dtype: &'static str,
        /// Bytes of the weights in that precision.
        bytes: u64,
        /// Bytes that the device has left, if it tells.
        free: Option<u64>,
        /// Candle's words.
        source: Box<candle_core::Error>,
    },
    /// The device or the arithmetic.
    #[error("{doing}: {source}")]
    Compute {
        /// What was being done.
        doing: &'static str,
        /// Candle's words.
        source: candle_core::Error,
    },
}

impl ModelError {
    /// The kind of failure in one word, by which failures are counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OverBudget { .. } | Self::NoVisualTokens { .. } => "token_budget",
            Self::Frames { .. } | Self::Strategy { .. } | Self::SingleImage { .. } => "frames",
            Self::Compute { .. } => "compute",
            Self::Memory { .. } => "device_memory",
            Self::Lower(error) => error.kind().word(),
            _ => "model",
        }
    }

    /// The same with the sizes, if a device had no memory for the weights of a model.
    pub(super) fn with_sizes(self, name: &str, n_parameters: usize, placement: &Placement) -> Self {
        match self {
            Self::Compute { source, .. } if is_out_of_memory(&source) => Self::Memory {
                name: name.to_owned(),
                n_parameters,
                dtype: placement.dtype.as_str(),
                bytes: n_parameters as u64 * placement.dtype.size_in_bytes() as u64,
                free: free_memory(&placement.device),
                source: Box::new(source),
            },
            other => other,
        }
    }

    /// Wraps candle's errors with what was being done.
    pub fn compute(doing: &'static str) -> impl Fn(candle_core::Error) -> Self {
        move |source| Self::Compute { doing, source: without_backtrace(source) }
    }
}

/// Candle's error without the backtrace that it prints.
pub(crate) fn without_backtrace(error: candle_core::Error) -> candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(*inner),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_without_memory_are_told_with_their_size() {
        let failed =
            |words: &str| ModelError::compute("loading the weights")(candle_core::Error::msg(words.to_owned()));
        let placement = Placement { dtype: candle_core::DType::BF16, ..Placement::cpu() };
        let error = failed("DriverError(CUDA_ERROR_OUT_OF_MEMORY)").with_sizes("org/model", 3 << 30, &placement);
        let text = error.to_string();
        assert!(
            text.starts_with("org/model: 3221225472 parameters in bf16 take 6.0 GiB, and the device has "),
            "{text}"
        );
        assert!(text.contains(" left: DriverError(CUDA_ERROR_OUT_OF_MEMORY); hint: half precision"), "{text}");
        assert_eq!(error.kind(), "device_memory");
        let other = failed("shape mismatch").with_sizes("org/model", 1, &placement).to_string();
        assert_eq!(other, "loading the weights: shape mismatch");
    }
}
