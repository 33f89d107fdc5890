//! Kinds of failures: what callers decide by, and the words that stand in results files.

use serde::{Deserialize, Serialize};

/// Kind of a failure, by which callers decide. [`Kind::word`] is the word by which failures are counted.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    strum::Display,
    strum::IntoStaticStr,
    strum::EnumIter,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A value that breaks a rule: an option, a key, a line of a file.
    Invalid,
    /// A path without a file.
    NotFound,
    /// A file or directory that the operating system does not read or write.
    Unreadable,
    /// An address, a host or a file outside of what is allowed.
    Refused,
    /// A download that failed: no connection, or a status other than 200.
    Fetch,
    /// A file or a body over the limit of bytes.
    TooLarge,
    /// A pipe, a device or a socket where a file or a directory is expected.
    NotRegular,
    /// A file of zero bytes.
    Empty,
    /// A file in which FFmpeg recognizes no container.
    NotMedia,
    /// A container without a video stream.
    NoVideoStream,
    /// An audio file whose only images are covers.
    CoverOnly,
    /// An index of a stream that is not a video stream.
    Stream,
    /// A codec that this FFmpeg does not decode.
    NoDecoder,
    /// A decoded frame that is not converted to RGB.
    NoConversion,
    /// A directory without an image.
    NoImages,
    /// A stream of which not one frame decodes.
    NoFrames,
    /// A damaged stream that decodes differently each time.
    Unstable,
    /// A clip window without a frame.
    EmptyWindow,
    /// Frames without timestamps, to be cut by time.
    NoTimes,
    /// Timestamps that run backwards, to be cut by time.
    TimesFall,
    /// A sampling rule that refuses the video.
    Sample,
    /// Frames over the limit of memory.
    FrameSize,
    /// A video of more frames than the limit.
    FrameCount,
    /// A video whose decoding needs more memory than its process may take.
    HostMemory,
    /// A stage that exceeded its time limit.
    TimeLimit,
    /// A read that received no data for too long.
    Stall,
    /// A decoding process that crashed.
    Crash,
    /// A decoding process that gave no sign of life.
    Hang,
    /// A decoding process that did not start.
    NoProcess,
    /// A read that was stopped by its reader.
    #[strum(serialize = "stopped")]
    Halted,
    /// A run or a request that was stopped before its end.
    #[strum(serialize = "stopped")]
    Stopped,
    /// A request beyond what may wait.
    Busy,
    /// A prompt over the context of the model.
    TokenBudget,
    /// A strategy that leaves no visual token of a video.
    #[strum(serialize = "token_budget")]
    NoVisualTokens,
    /// Frames or views that the model or the strategy does not take.
    Frames,
    /// Frames that cannot be prepared, or a processor file with an unusable key.
    Preprocess,
    /// A tokenizer, a template or a prompt.
    Text,
    /// A model: its files, its configuration, its weights.
    Model,
    /// A device that this machine or this build does not have.
    Device,
    /// A failed operation of a device.
    Compute,
    /// An operation for which its device has no memory.
    #[strum(serialize = "compute")]
    OutOfMemory,
    /// An operation for which its device has no memory, after every smaller attempt: the rule names the sizes.
    DeviceMemory,
    /// A request over the budget of key-value memory.
    KvMemory,
    /// A loss or a gradient that is not finite.
    NotFinite,
    /// A panic: a defect of this program.
    Defect,
}

impl Kind {
    /// Returns the word that stands in results files. Kinds that users need not tell apart share one.
    pub fn word(self) -> &'static str {
        self.into()
    }

    /// Returns whether an operation failed for want of memory on its device.
    pub fn is_out_of_memory(self) -> bool {
        matches!(self, Self::OutOfMemory | Self::DeviceMemory)
    }
}
