//! Conversation as a client sends it: turns of text and media, and the conditions of the answer.
//!
//! Plain data: [`Asking`](super::Asking) makes a prompt of it, first with the media as expected, before a video is
//! read, then with the encoded videos.

use crate::language::SamplingConfig;
use crate::spec::Plan;
use crate::units::Tokens;

/// Part of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatContent {
    /// Text.
    Text(String),
    /// Index of a medium among those of the conversation.
    Medium(usize),
}

/// Question with its answer. The last turn has no answer, or the beginning of the answer to continue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatTurn {
    /// Parts of the question, in the client's order.
    pub question: Vec<ChatContent>,
    /// Answer.
    pub answer: Option<String>,
}

/// Conversation that ends with the question to answer. `M` is an [`ExpectedMedium`], or a reference to an
/// [`EncodedVideo`](super::EncodedVideo).
#[derive(Debug, Clone, Copy)]
pub struct ChatPrompt<'c, M> {
    /// System text, in place of the plan's.
    pub system: Option<&'c str>,
    /// Turns in time order; at least one.
    pub turns: &'c [ChatTurn],
    /// Media, in the order of their indices.
    pub media: &'c [M],
}

/// Facts of a medium that decide the length of its prompt, known before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedMedium {
    /// Number of frames that will be sampled.
    pub n_frames: usize,
    /// Width and height of a single still image; `None` for a video.
    pub image: Option<(u32, u32)>,
}

/// Conditions of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerOptions {
    /// Sampling of each token.
    pub sampling: SamplingConfig,
    /// Maximum number of tokens of the answer.
    pub max_new_tokens: usize,
    /// Strings that end the answer, beside those of the template.
    pub stop: Vec<String>,
}

impl AnswerOptions {
    /// Returns the options of a plan.
    pub fn of(plan: &Plan) -> Self {
        let generate = &plan.generate;
        Self { sampling: generate.sampling, max_new_tokens: generate.max_new_tokens, stop: Vec::new() }
    }
}

/// Token counts of a prompt that fits the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptSize {
    /// Text tokens.
    pub text: Tokens,
    /// Visual tokens.
    pub visual: Tokens,
    /// Tokens that the answer may have: as many as asked for, or as fit the context.
    pub answer: Tokens,
}
