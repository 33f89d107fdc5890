//! Media of requests: the parts of a message that are videos or images.

mod part;

pub use part::{FrameOptions, FrameTiming, MediaPart, MediaSource};
