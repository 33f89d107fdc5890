//! Requests of the engine: prompt, sampling, stop rules, limits, and a listener.

use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};
use crate::exec::panic_message;
use crate::language::{Decoding, PromptHistory};

/// Visual tokens with an identity: clones are the same tokens, and sequences that begin with them share their memory.
#[derive(Debug, Clone)]
pub struct Visual {
    id: u64,
    /// Index of the first row among all tokens of this identity.
    first: u32,
    /// `(V, H)`.
    embeds: Tensor,
}

impl Visual {
    /// Gives visual tokens an identity of their own.
    ///
    /// # Shapes
    /// `(V, H)`.
    pub fn new(embeds: Tensor) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), first: 0, embeds }
    }

    /// Returns the identity; never 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Some of the tokens, which keep their identity: prompts share them with prompts that show others as well.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn rows(&self, rows: Range<usize>) -> candle_core::Result<Self> {
        let embeds = self.embeds.narrow(0, rows.start, rows.len())?;
        Ok(Self { id: self.id, first: self.first + rows.start as u32, embeds })
    }

    /// Index of the first row among all tokens of its identity.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// Returns the tokens: `(V, H)`.
    pub fn embeds(&self) -> &Tensor {
        &self.embeds
    }
}

/// A part of a prompt.
#[derive(Debug, Clone)]
pub enum PromptPart {
    /// Tokens of text.
    Ids(Vec<u32>),
    /// Visual tokens.
    Visual(Visual),
}

/// When an answer ends, besides at its limit.
#[derive(Debug, Clone, Default)]
pub struct StopRules {
    /// Ids that end it.
    pub tokens: Arc<[u32]>,
    /// Texts that end it, and are not part of it.
    pub strings: Arc<[String]>,
}

/// Input of the engine: one prompt and the conditions of its answer.
pub struct Request<'l> {
    /// The prompt, part after part.
    pub prompt: Vec<PromptPart>,
    /// The prompt's ids, for rules that count them.
    pub history: PromptHistory,
    /// Decoding options.
    pub decoding: Decoding,
    /// When to stop.
    pub stop: StopRules,
    /// At most this many new tokens.
    pub max_new_tokens: usize,
    /// Limit of the request's own share of the steps' time: what runs beside it and what it waits for does not count.
    pub time_limit: Option<Duration>,
    /// Hears of every token, and of the end.
    pub listener: RequestListener<'l>,
}

impl<'l> Request<'l> {
    /// Returns a request for up to `max_new_tokens` greedy tokens, with neither stop rules nor a time limit.
    pub fn greedy(prompt: Vec<PromptPart>, max_new_tokens: usize, listener: RequestListener<'l>) -> Self {
        Self {
            prompt,
            history: PromptHistory::default(),
            decoding: Decoding::default(),
            stop: StopRules::default(),
            max_new_tokens,
            time_limit: None,
            listener,
        }
    }
}

/// Hears of a request, and says whether the rest is wanted. The last call is [`RequestEvent::Done`], whose reply does
/// not matter. A panic in a listener is the caller's: it leaves [`super::Engine::step`], and the engine is to be
/// dropped.
pub type RequestListener<'l> = Box<dyn FnMut(RequestEvent<'_>) -> ControlFlow<()> + 'l>;

/// Event of a request.
#[derive(Debug)]
pub enum RequestEvent<'e> {
    /// A token was chosen.
    Token {
        /// Id of the request.
        id: u32,
        /// The text that has become certain with it; often none.
        text: &'e str,
    },
    /// Nothing more comes.
    Done(Result<Completion, Error>),
}

/// The name of a request within its engine, in the order in which they were submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A stop token or a stop string.
    Stop,
    /// The limit on new tokens.
    Length,
}

/// An answer, and the work that it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// All ids, the stop token included, as in `generate` of transformers.
    pub ids: Vec<u32>,
    /// The text, without white space at its ends.
    pub text: String,
    /// The text that has become certain since the last token.
    pub rest: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Positions of the prompt that were found computed.
    pub reused: usize,
    /// The request's share of the steps that read its prompt.
    pub prefill: Duration,
    /// The request's share of the steps that made its tokens.
    pub generate: Duration,
}

/// Runs a part of a request's work; a panic in it fails this request alone.
pub(super) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|payload| Error::new(Kind::Defect, format!("a defect of this program: {}", panic_message(&*payload))))
}

/// Returns the error of a request that its listener, or [`super::Engine::cancel`], gave up.
pub(super) fn cancelled() -> Error {
    Error::new(Kind::Stopped, "cancelled")
}

/// Returns the error of a request over its time limit.
pub(super) fn time_limit(limit: Duration) -> Error {
    Error::new(Kind::TimeLimit, format!("it took longer than the limit of {} s", limit.as_secs_f64()))
}
