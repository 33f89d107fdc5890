//! Responses as OpenAI defines them: completions, chunks of a stream, token counts, models; beside OpenAI's members one
//! of our own, `vidense`, with the frames and times of the answer.

use serde::Serialize;

use super::ApiError;
use crate::engine::FinishReason;
use crate::pipeline::{Answer, FrameStamp};

/// Members that every chunk of one answer has.
#[derive(Debug, Clone)]
pub struct CompletionHead {
    /// Id of the answer.
    pub id: String,
    /// Time of the answer, in seconds since 1970.
    pub created: u64,
    /// Name of the model.
    pub model: String,
}

/// A whole answer.
#[derive(Debug, Serialize)]
pub struct CompletionObject {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: [Choice; 1],
    usage: Usage,
    vidense: VidenseDetails,
}

/// The one choice of an answer.
#[derive(Debug, Serialize)]
pub struct Choice {
    index: usize,
    message: AssistantMessage,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

/// Message of the assistant.
#[derive(Debug, Serialize)]
pub struct AssistantMessage {
    role: &'static str,
    content: String,
}

/// Part of an answer that is streamed.
#[derive(Debug, Serialize)]
pub struct CompletionChunk {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChunkChoice>,
    /// Token counts: `null` before the end where they come at the end, else absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vidense: Option<VidenseDetails>,
}

/// The one choice of a chunk.
#[derive(Debug, Serialize)]
pub struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

/// Text that a chunk adds.
#[derive(Debug, Default, Serialize)]
pub struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// Token counts of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt, text and visual.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub completion_tokens: usize,
    /// Tokens of both.
    pub total_tokens: usize,
    /// Kinds of the prompt's tokens.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// Kinds of a prompt's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// Tokens whose keys and values were computed for an earlier request.
    pub cached_tokens: usize,
    /// Visual tokens.
    pub multimodal_tokens: MultimodalTokens,
}

/// Visual tokens by their modality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MultimodalTokens {
    /// Tokens of videos and images.
    pub video: usize,
}

/// Members of our own.
#[derive(Debug, Clone, Serialize)]
pub struct VidenseDetails {
    /// Frames of each medium.
    pub frames: Vec<Vec<FrameStamp>>,
    /// Times of the request.
    pub timings_ms: RequestTimings,
    /// Warnings about the media, such as damage that was passed over.
    pub warnings: Vec<String>,
}

/// Times of a request, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct RequestTimings {
    /// From the request to the beginning of its work.
    pub queued: f64,
    /// Decoding and encoding of its media.
    pub encode: f64,
    /// Share of the engine's steps that read the prompt.
    pub prefill: f64,
    /// Share of the engine's steps that generated the answer.
    pub generate: f64,
    /// From the request to the end of its answer.
    pub total: f64,
}

/// List of the served models.
#[derive(Debug, Serialize)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
}

/// A served model.
#[derive(Debug, Serialize)]
pub struct ModelCard {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: String,
    parent: Option<()>,
    max_model_len: usize,
    permission: [(); 0],
}

/// Returns OpenAI's word for the end of an answer.
pub fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

impl Usage {
    /// Returns the token counts of an answer.
    pub fn of(answer: &Answer) -> Self {
        let (prompt_tokens, completion_tokens) =
            (answer.prompt_tokens.0 + answer.visual_tokens.0, answer.token_ids.len());
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails {
                cached_tokens: answer.reused.0,
                multimodal_tokens: MultimodalTokens { video: answer.visual_tokens.0 },
            },
        }
    }
}

impl CompletionHead {
    /// Makes the response of a whole answer.
    pub fn completion(self, answer: &Answer, vidense: VidenseDetails) -> CompletionObject {
        let Self { id, created, model } = self;
        let message = AssistantMessage { role: "assistant", content: answer.text.clone() };
        let finish_reason = finish_word(answer.finish_reason);
        let choices = [Choice { index: 0, message, logprobs: None, finish_reason }];
        CompletionObject { id, object: "chat.completion", created, model, choices, usage: Usage::of(answer), vidense }
    }

    /// Makes the first chunk, which names the role.
    pub fn first_chunk(&self) -> CompletionChunk {
        self.chunk(Delta { role: Some("assistant"), content: Some(String::new()) }, None)
    }

    /// Makes a chunk of text.
    pub fn text_chunk(&self, text: String) -> CompletionChunk {
        self.chunk(Delta { role: None, content: Some(text) }, None)
    }

    /// Makes the chunk that ends the answer.
    pub fn last_chunk(&self, answer: &Answer, vidense: VidenseDetails) -> CompletionChunk {
        let chunk = self.chunk(Delta::default(), Some(finish_word(answer.finish_reason)));
        CompletionChunk { vidense: Some(vidense), ..chunk }
    }

    /// Makes the chunk of the token counts, which has no choice.
    pub fn usage_chunk(&self, answer: &Answer) -> CompletionChunk {
        let chunk = self.chunk(Delta::default(), None);
        CompletionChunk { choices: Vec::new(), usage: Some(Some(Usage::of(answer))), ..chunk }
    }

    fn chunk(&self, delta: Delta, finish_reason: Option<&'static str>) -> CompletionChunk {
        let Self { id, created, model } = self.clone();
        let choices = vec![ChunkChoice { index: 0, delta, logprobs: None, finish_reason }];
        CompletionChunk { id, object: "chat.completion.chunk", created, model, choices, usage: None, vidense: None }
    }
}

impl CompletionChunk {
    /// Says that the token counts come at the end.
    #[must_use]
    pub fn before_usage(self) -> Self {
        Self { usage: Some(None), ..self }
    }
}

impl ModelList {
    /// Makes the list of the names of one model; `root` is its directory or hub id.
    pub fn of(names: &[String], root: &str, model: ModelFacts) -> Self {
        let card = |name: &String| ModelCard {
            id: name.clone(),
            object: "model",
            created: model.created,
            owned_by: "vidense",
            root: root.to_owned(),
            parent: None,
            max_model_len: model.context,
            permission: [],
        };
        Self { object: "list", data: names.iter().map(card).collect() }
    }

    /// Returns the model of a name.
    ///
    /// # Errors
    /// [`ErrorStatus::NotFound`](super::ErrorStatus) for a name that is not served.
    pub fn into_card(self, name: &str) -> Result<ModelCard, ApiError> {
        let names: Vec<String> = self.data.iter().map(|card| card.id.clone()).collect();
        let found = self.data.into_iter().find(|card| card.id == name);
        found.ok_or_else(|| ApiError::unknown_model(name, &names))
    }
}

/// Facts of a served model.
#[derive(Debug, Clone, Copy)]
pub struct ModelFacts {
    /// Time of loading, in seconds since 1970.
    pub created: u64,
    /// Positions of its context.
    pub context: usize,
}
