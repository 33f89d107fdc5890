//! Limits of a reading in time, memory and threads, its way of access, and the request to stop it early.
//!
//! A reached limit is an error; no limit changes a frame. `timer` enforces them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, VariantNames};

use crate::choice;
use crate::error::{Error, Kind};

/// Default time without progress after which a reading is given up.
const STALL: Duration = Duration::from_secs(60);
/// Time that a call may wait for data once a run drains.
pub(super) const DRAINING_STALL: Duration = Duration::from_millis(400);
/// Default limit of the bytes of an RGB frame: 268 million pixels, above any real frame.
const FRAME_BYTES: u64 = 3 << 28;
/// Bytes of an RGB pixel.
const RGB: u64 = 3;

/// Access to frames. The frames are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, EnumString, VariantNames)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = unknown_access)]
pub enum Access {
    /// By seeking where that saves much and the packets show no damage, else from front to back.
    #[default]
    Auto,
    /// From front to back, the whole video: the only way to know that every frame decodes.
    Straight,
    /// By seeking wherever the packets show no damage.
    Seek,
}

fn unknown_access(name: &str) -> Error {
    choice::unknown_name("access to frames", name, Access::VARIANTS)
}

/// Policy about the files that a video argument leads to: segments of playlists, links inside a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkedFilePolicy {
    /// Local regular files are opened.
    #[default]
    Local,
    /// No other file is opened, for videos of strangers: playlists are refused, and links inside a directory. Only the
    /// usual formats of videos and images are read.
    Refuse,
}

/// Limits of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadLimits {
    /// Time of demuxing and decoding, without the time of the consumer. Default: none.
    pub time: Option<Duration>,
    /// Time of a call of FFmpeg that waits for data. Default: 60 s.
    pub stall: Duration,
    /// Bytes of a frame as RGB at most. Default: 768 MiB.
    pub frame_bytes: u64,
    /// Number of packets, decoded frames, or images of a directory at most. Default: none.
    pub max_frames: Option<u64>,
    /// Number of threads of the decoder; 0 for one per core. Default: `0`.
    pub threads: usize,
    /// Access to frames. Default: `auto`.
    pub access: Access,
    /// Files that the video argument leads to. Default: `local`.
    pub links: LinkedFilePolicy,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            time: None,
            stall: STALL,
            frame_bytes: FRAME_BYTES,
            max_frames: None,
            threads: 0,
            access: Access::Auto,
            links: LinkedFilePolicy::Local,
        }
    }
}

impl ReadLimits {
    /// Number of pixels of a frame at most.
    pub(super) fn frame_pixels(&self) -> u64 {
        self.frame_bytes / RGB
    }

    /// Refuses a frame over the limit.
    pub(super) fn check_frame(&self, path: &Path, width: u32, height: u32) -> Result<(), Error> {
        let bytes = u64::from(width) * u64::from(height) * RGB;
        if bytes <= self.frame_bytes {
            return Ok(());
        }
        let limit = self.frame_bytes;
        let rule = format!("frames of {width} x {height} take {bytes} bytes as RGB, over the limit of {limit}");
        Err(Error::new(Kind::FrameSize, rule).with_hint("a higher --frame-limit").about(path))
    }

    /// Refuses a number of frames, or of packets, over the limit.
    pub(super) fn check_count(&self, path: &Path, n_frames: usize) -> Result<(), Error> {
        match self.max_frames {
            Some(limit) if n_frames as u64 > limit => {
                Err(Error::new(Kind::FrameCount, format!("more frames than the limit of {limit}")).about(path))
            }
            _ => Ok(()),
        }
    }
}

/// Readiness to continue a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Patience {
    /// Continues until the limits are reached.
    #[default]
    Full,
    /// Continues while data arrives: the run drains, and a waiting call is given up.
    WhileMoving,
    /// Stops: the run is given up.
    Exhausted,
}

/// Callback that may end a reading early, called from within FFmpeg's calls. Default: never.
#[derive(Clone, Default)]
pub struct Halt(Option<Arc<dyn Fn() -> Patience + Send + Sync>>);

impl Halt {
    /// Makes a callback that returns the patience with the reading.
    pub fn new(patience: impl Fn() -> Patience + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(patience)))
    }

    pub(super) fn patience(&self) -> Patience {
        self.0.as_ref().map_or(Patience::Full, |patience| patience())
    }

    /// Returns whether a call without data for `silent` is to be given up.
    pub(super) fn gives_up(&self, silent: Duration) -> bool {
        match self.patience() {
            Patience::Full => false,
            Patience::WhileMoving => silent > DRAINING_STALL,
            Patience::Exhausted => true,
        }
    }
}

impl std::fmt::Debug for Halt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Halt").field(&self.patience()).finish()
    }
}

/// Reasons to end a reading early: its limits, and the request to stop.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Limits of the reading.
    pub limits: ReadLimits,
    /// Request to stop.
    pub halt: Halt,
}

impl From<&ReadLimits> for Bounds {
    fn from(limits: &ReadLimits) -> Self {
        Self { limits: *limits, halt: Halt::default() }
    }
}

impl From<&Bounds> for Bounds {
    fn from(bounds: &Bounds) -> Self {
        bounds.clone()
    }
}
