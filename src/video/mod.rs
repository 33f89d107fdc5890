//! Video files and directories of images as sequences of frames.
//!
//! A frame's index is its place among the *decodable* frames in presentation order, and its time is its
//! own timestamp on the stream's clock. [`reader::read_frames`] is the one way in; [`sample`] chooses
//! frames by arithmetic alone; only `demux.rs`, `detect.rs`, `linked.rs`, `streams.rs`, `decode/` and `encode.rs` name
//! FFmpeg.

mod clock;
mod dash;
mod decode;
mod demux;
pub mod detect;
mod display;
mod encode;
mod entry;
mod error;
pub mod frame;
mod images;
mod limits;
mod linked;
mod packets;
pub mod probe;
pub mod reader;
pub mod sample;
mod scan;
mod schedule;
mod streams;
mod stuck;
mod window;
pub mod worker;

pub use demux::{check_argument, library_versions};
pub use encode::{ClipFormat, EncodeError, write_clip};
pub use frame::Frame;
pub use limits::{Access, Bounds, Halt, Patience, ReadLimits};
pub use probe::{StreamInfo, StreamKind, VideoInfo, probe};
pub use reader::{Damage, Event, Flow, FrameRequest, ReadReport, count_frames, read_frames, read_scanned};
pub use sample::Sample;
pub use scan::{Scanned, scan};
pub use stuck::stuck_read;
pub use window::Window;
