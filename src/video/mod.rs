//! Video files and directories of images as sequences of frames.
//!
//! A frame's index counts the *decodable* frames in presentation order; its time is its own timestamp on the stream's
//! clock. [`read_frames`] is the entry point; `sample` chooses frames by arithmetic alone; only `demux.rs`,
//! `detect.rs`, `linked.rs`, `media.rs`, `scale.rs`, `standalone.rs`, `streams.rs`, `decode/` and `encode.rs` call
//! FFmpeg.

mod clock;
mod dash;
mod decode;
mod demux;
pub(crate) mod detect;
mod display;
mod encode;
mod entry;
mod error;
mod frame;
mod framing;
mod image_rate;
mod images;
mod limits;
mod linked;
mod media;
mod packets;
mod pass;
mod playlist;
mod probe;
mod reader;
mod report;
mod request;
pub(crate) mod sample;
mod scale;
mod scan;
mod schedule;
mod standalone;
mod streams;
mod stuck;
mod timer;
mod window;
pub mod worker;

pub use encode::{ClipFormat, write_clip};
pub use frame::Frame;
pub use image_rate::ImageRate;
pub use limits::{Access, Bounds, Halt, LinkedFilePolicy, Patience, ReadLimits};
pub(crate) use media::{check_argument, library_versions};
pub use probe::{StreamInfo, StreamKind, VideoInfo, probe};
pub use reader::{count_frames, read_frames, read_scanned};
pub use report::{Damage, ReadReport};
pub use request::{Flow, FrameRequest, ReadEvent, ReadingForecast};
pub use sample::{CheckpointFrameSampling, Sample, Timeline, TimesSampling};
pub use scan::{Scanned, scan};
pub use stuck::stuck_read;
pub use window::Window;
