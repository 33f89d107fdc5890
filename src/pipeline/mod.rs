//! Running a plan: from a video and questions to answers.
//!
//! [`stages`] turns a video into visual tokens, decoding on a thread of its own while the tower encodes;
//! [`dialogue`] asks questions about them over one key-value cache.

pub mod dialogue;
mod error;
pub mod stages;
pub mod timing;
mod views;

pub use dialogue::{Answer, Dialogue, Turns};
pub use error::PipelineError;
pub use stages::{EncodedVideo, FrameStamp, Progress, encode_video};
pub use timing::Timings;
