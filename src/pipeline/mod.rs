//! Running a plan: from videos and questions to answers.
//!
//! [`stages`] turns videos into visual tokens, several at a time; [`dialogue`] is a conversation about one of them over one
//! key-value cache, `together` asks questions that each stand alone; [`run`] does it for many videos. [`features`] keeps visual tokens from one run to the next.

mod aggregate;
mod decode;
pub mod dialogue;
mod encode;
mod error;
pub mod features;
mod item;
mod limits;
pub mod run;
pub mod stages;
pub mod timing;
mod together;
mod views;

pub use aggregate::Aggregator;
pub use dialogue::{Answer, Dialogue, Turns, conversation};
pub use error::PipelineError;
pub use features::{FeatureCache, FeatureKey};
pub use item::{FrameStamp, ItemError, Job, VideoRef};
pub use limits::{Limits, STAGES};
pub use run::{Answered, AnsweredVideo, Asking, Told};
pub use stages::{Apart, Encoded, EncodedVideo, Progress, Stages, encode_video, encode_video_within};
pub use timing::Timings;
pub use together::TellAnswer;
