//! Media of requests: the parts of a message that are videos or images become files, forecasts and keys.
//!
//! `part` has the parts as a parser of requests makes them; [`MediaResolver`] reads their addresses (`data:`, `file:`,
//! `http(s):`, `upload:`) into a [`Scratch`] within the limits of a [`MediaPolicy`], and probes them in a process of
//! their own. Nothing is decoded here, and nothing is read that the policy does not allow. Called by the server before
//! a request is queued.

mod address;
mod base64_stream;
mod content;
mod data_uri;
mod file_url;
mod gate;
mod image_content;
mod key;
mod local;
mod medium;
mod memory;
mod part;
mod policy;
mod read;
mod resolve;
#[cfg(test)]
mod resolve_tests;
mod sampling;
mod scratch;
mod timing;
mod tools;

pub use key::{ContentHash, MediaKey};
pub use local::AllowedDirectories;
pub use medium::Media;
pub(in crate::serve) use part::MAX_UUID;
pub use part::{FrameOptions, FrameTiming, MediaPart, MediaSource};
pub use policy::MediaPolicy;
pub use resolve::{MediaResolver, ResolveContext};
pub use scratch::{Scratch, ScratchFile, ScratchUsage, ScratchWriter, Upload, UploadWriter, random_name};
pub use tools::MediaSettings;
