//! The engine: the one loop that makes tokens, for any number of requests at once.
//!
//! A [`Request`] becomes a sequence with pages of key-value memory; sequences with a common prefix share pages. Each
//! [`Engine::step`] runs one forward pass: one token of every sequence that is answering, and chunks of prompts that
//! are still read. Requests wait for memory in the order in which they came; where memory runs out, the youngest
//! sequence gives its pages up and is read anew later.
//!
//! On the CPU in f32, a sequence's tokens do not depend on what runs beside it: products and attention compute each row
//! on its own, bit for bit. docs/engine.md has a figure.

mod config;
#[cfg(test)]
mod cuda_tests;
mod pool;
mod prompt;
mod request;
mod run;
mod sequence;

pub use config::{DecodeLaunch, EngineConfig, default_kv_bytes};
pub use request::{
    Completion, FinishReason, PromptPart, Request, RequestEvent, RequestId, RequestListener, StopRules, Visual,
};
pub use run::{Engine, EngineStats};
