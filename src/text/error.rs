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
    /// A file of settings that cannot be understood.
    #[error("{path}: {cause}")]
    Settings {
        /// The file.
        path: PathBuf,
        /// The cause, in words.
        cause: String,
    },
    /// The tokenizer refused a text.
    #[error("the tokenizer cannot encode the prompt: {cause}")]
    Encode {
        /// Its words.
        cause: String,
    },
    /// An image token with two ids.
    #[error(
        "{path}: image_token_index: {config} is not the id of `{token}` in the tokenizer, {tokenizer}; \
         hint: the tokenizer's files belong to another checkpoint"
    )]
    ImageToken {
        /// The `config.json`.
        path: PathBuf,
        /// The token's text.
        token: String,
        /// The id in the `config.json`.
        config: u32,
        /// The id in the tokenizer.
        tokenizer: u32,
    },
    /// A prompt whose words contain the placeholder of the image.
    #[error(
        "the prompt contains `{token}` beside the video's own; this checkpoint's tokenizer reads each as an image; \
         hint: write it otherwise in the question, for example with spaces"
    )]
    Placeholder {
        /// The placeholder.
        token: String,
    },
    /// Times of frames that cannot be written.
    #[error(
        "prompt.timestamps (--timestamps) {rule}; hint: none, or a strategy that keeps frames apart, such as concat"
    )]
    Timestamps {
        /// The rule, in words.
        rule: &'static str,
    },
    /// A template that does not exist.
    #[error("template `{name}` is not known; hint: {known}")]
    UnknownTemplate {
        /// As given.
        name: String,
        /// Those that are.
        known: String,
    },
    /// A checkpoint without a template of its own.
    #[error("template `checkpoint`: the checkpoint has no chat template; hint: {known}")]
    NoOwnTemplate {
        /// The templates that are built in.
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
    /// A checkpoint's own chat template that cannot be used.
    #[error("{origin}: chat template: {cause}; hint: --template with one of {known}")]
    ChatTemplate {
        /// The file, and the key in it.
        origin: String,
        /// The cause, in words.
        cause: String,
        /// The templates that are built in.
        known: String,
    },
}
