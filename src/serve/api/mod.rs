//! OpenAI's chat completions as vLLM extends them: bodies of requests, responses, chunks of a stream, errors.
//!
//! Plain data without sockets. A body is read strictly: a key that is not understood is refused by name, and so is a
//! known key with a value that this server does not carry out.

mod call;
mod content;
mod error;
mod fields;
mod frames;
mod json;
mod line;
mod messages;
mod response;
mod sampling;
#[cfg(test)]
mod tests;

pub use call::ChatCall;
pub use error::{ApiError, ErrorStatus};
pub use line::{LineCall, LineId, failure_without_id};
pub use response::{
    AssistantMessage, Choice, ChunkChoice, CompletionChunk, CompletionHead, CompletionObject, Delta, ModelCard,
    ModelFacts, ModelList, MultimodalTokens, PromptTokensDetails, RequestTimings, Usage, VidenseDetails, finish_word,
};
