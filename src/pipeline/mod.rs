//! Running a plan: from videos and questions to answers. Called by the commands and by [`batch`](crate::batch) and
//! [`eval`](crate::eval).
//!
//! [`open`](fn@open) loads the model of a plan. `stages` turns videos into visual tokens, several at a time, and
//! `run` has the engine answer questions about them; `chat` is a conversation about one video, `chat_prompt` makes the
//! prompts of conversations about any number of media. [`features`] caches
//! visual tokens on disk between runs.

mod aggregate;
mod ask;
mod chat;
mod chat_prompt;
mod decode;
mod download;
mod encode;
mod error;
pub mod features;
mod fitting;
mod item;
mod limits;
pub(crate) mod open;
mod preview;
mod run;
mod stages;
mod timing;
mod turns;
mod views;

pub use ask::{Answer, Asking, conversation};
pub use chat::VideoChat;
pub use download::Downloads;
pub use features::FeatureCache;
pub(crate) use features::FeatureKey;
pub use fitting::FittingPrompt;
pub use item::{FrameStamp, ItemError, Job, VideoRef};
pub use limits::Limits;
pub use open::{CheckedPlan, FirstQuestion, LoadedModel, OnOpen, OpenEvent, Opening, check_plan, open, open_with};
pub use preview::Preview;
pub(crate) use run::RunEvent;
pub use run::{AnsweredVideo, RunReport, VideoOutcome, smaller_batch};
pub use stages::{
    AlsoAggregated, EncodedVideo, KnownScan, StageClock, Stages, VideoOptions, VideoProgress, encode_video,
};
pub use timing::Timings;
pub use turns::{AnswerOptions, ChatContent, ChatPrompt, ChatTurn, ExpectedMedium, PromptSize};
