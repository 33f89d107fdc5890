//! Running a plan: from videos and questions to answers.
//!
//! [`stages`] turns videos into visual tokens, several at a time; [`dialogue`] asks questions about one of them over one
//! key-value cache; [`run`] does both for many.

mod aggregate;
mod decode;
pub mod dialogue;
mod encode;
mod error;
mod item;
pub mod run;
pub mod stages;
pub mod timing;
mod views;

pub use aggregate::Aggregator;
pub use dialogue::{Answer, Dialogue, Turns, conversation};
pub use error::PipelineError;
pub use item::{FrameStamp, ItemError, VideoRef};
pub use run::{Answered, AnsweredVideo, Asking};
pub use stages::{Encoded, EncodedVideo, Progress, Stages, encode_video};
pub use timing::Timings;
