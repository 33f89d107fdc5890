//! What can be wrong with a tokenizer or a template.

use std::path::PathBuf;

/// Why text could not be handled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A directory without a tokenizer.
    #[error("{dir}: no tokenizer here; expected tokenizer.json or tokenizer.model")]
    NoTokenizer {
        /// The directory.
        dir: PathBuf,
    },
    /// A file that cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A file that is not what its name says.
    #[error("{path}: not a usable tokenizer: {cause}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        cause: String,
    },
    /// The tokenizer refused a text.
    #[error("the tokenizer cannot encode the prompt: {cause}")]
    Encode {
        /// Its words.
        cause: String,
    },
    /// A template that does not exist.
    #[error("template `{name}` is not known; hint: {known}")]
    UnknownTemplate {
        /// As given.
        name: String,
        /// Those that are.
        known: String,
    },
    /// A checkpoint's own prompt format without a place for the question, the answer or the image.
    #[error("prompt_format of the checkpoint has no {missing}: {format:?}")]
    PromptFormat {
        /// As in the file.
        format: String,
        /// The missing mark.
        missing: &'static str,
    },
}
