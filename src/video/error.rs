//! What can be wrong with a video argument. Every variant names the file and the cause.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files::{FileKind, kind_of, sign_of, unfetched};
use crate::units::{FrameIndex, Seconds};

/// Files of a directory that are looked at for a hint.
const MAX_ENTRIES: usize = 1000;

/// Two frames in a row whose times run backwards, as where streams were joined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeFall {
    /// The second frame.
    pub index: FrameIndex,
    /// Time of the first.
    pub before: Seconds,
    /// Time of the second.
    pub after: Seconds,
}

impl TimeFall {
    pub(super) const HINT: &str =
        "uniform, linspace, every, all go by number; or join the parts again with `ffmpeg -f concat`";
}

impl fmt::Display for TimeFall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at frame {}, from {} to {}", self.index, self.before, self.after)
    }
}

/// Why a video could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoError {
    /// There is nothing at this path.
    #[error("{path}: {}", missing(path))]
    NotFound {
        /// The video argument.
        path: PathBuf,
    },
    /// The operating system refused to read it.
    #[error("{path}: {source}")]
    Io {
        /// The video argument.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A pipe, a device or a socket: it could block for ever and cannot be read twice.
    #[error("{path}: neither a regular file nor a directory; hint: save the stream to a file first")]
    NotRegular {
        /// The video argument.
        path: PathBuf,
    },
    /// A file of zero bytes.
    #[error("{path}: the file is empty (0 bytes)")]
    Empty {
        /// The video argument.
        path: PathBuf,
    },
    /// FFmpeg recognises no container in the bytes.
    #[error("{path}: not a video that FFmpeg can read: {cause}")]
    NotMedia {
        /// The video argument.
        path: PathBuf,
        /// The probable nature of the file, with a hint, or FFmpeg's own words.
        cause: String,
    },
    /// A readable container without a video stream.
    #[error("{path}: no video stream{}", among(*n_streams, kinds))]
    NoVideoStream {
        /// The video argument.
        path: PathBuf,
        /// Streams in the file.
        n_streams: usize,
        /// What they are, such as `audio aac`.
        kinds: String,
    },
    /// This FFmpeg has no working decoder for the stream.
    #[error("{path}: cannot decode {codec}: {cause}")]
    Decoder {
        /// The video argument.
        path: PathBuf,
        /// The codec's name.
        codec: String,
        /// FFmpeg's own words.
        cause: String,
    },
    /// A decoded frame could not be turned into RGB.
    #[error("{path}: frame {index}: cannot be converted to RGB: {cause}")]
    Convert {
        /// The video argument.
        path: PathBuf,
        /// The frame.
        index: usize,
        /// FFmpeg's own words.
        cause: String,
    },
    /// A directory without an image in it.
    #[error("{path}: no image in this directory; hint: {}", instead_of(path, extensions))]
    NoImages {
        /// The video argument.
        path: PathBuf,
        /// The endings that are read.
        extensions: String,
    },
    /// The stream is there, but not one of its frames decodes.
    #[error("{path}: not one frame decodes ({cause})")]
    NoFrames {
        /// The video argument.
        path: PathBuf,
        /// What the decoder met.
        cause: String,
    },
    /// A damaged stream that gives another number of frames each time.
    #[error(
        "{path}: it decodes differently from one reading to the next: {first} frames, then {second}; hint: repair it with `ffmpeg -i`"
    )]
    Unstable {
        /// The video argument.
        path: PathBuf,
        /// Frames of the first reading.
        first: usize,
        /// Frames of the second, up to the last one needed.
        second: usize,
    },
    /// The clip window holds no frame.
    #[error("{path}: no frame in the window {window}: its {n_frames} frames run from {first} to {last}")]
    EmptyWindow {
        /// The video argument.
        path: PathBuf,
        /// The window asked for.
        window: String,
        /// Frames of the whole video.
        n_frames: usize,
        /// Time of the first frame.
        first: String,
        /// Time of the last frame.
        last: String,
    },
    /// The sampling rule refuses the video.
    #[error("{path}: sample {rule}")]
    Sample {
        /// The video argument.
        path: PathBuf,
        /// The rule, and why.
        rule: String,
    },
    /// Reading took too long.
    #[error("{path}: reading took longer than the limit of {} s; hint: a longer --time-limit decode=", limit.as_secs_f64())]
    TimeLimit {
        /// The video argument.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// A call of FFmpeg waited for data that did not come.
    #[error("{path}: reading stalled: no data for {} s; hint: a longer --stall-limit, if the disk is that slow", limit.as_secs_f64())]
    Stalled {
        /// The video argument.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Whoever reads has been told to stop, and the file makes it wait.
    #[error("{path}: stopped while it was read")]
    Halted {
        /// The video argument.
        path: PathBuf,
    },
    /// The stream asked for is not one of pictures.
    #[error("{path}: stream {stream}: {rule}; hint: {hint}")]
    Stream {
        /// The video argument.
        path: PathBuf,
        /// The index asked for.
        stream: usize,
        /// Its kind, or the number of streams.
        rule: String,
        /// The video streams.
        hint: String,
    },
    /// An audio file: its only pictures are covers.
    #[error(
        "{path}: no video stream: its only picture is a cover ({cover}); hint: --stream {stream} takes the picture"
    )]
    CoverOnly {
        /// The video argument.
        path: PathBuf,
        /// Codec and size of the first cover.
        cover: String,
        /// The index of its stream.
        stream: usize,
    },
    /// The frames are too large.
    #[error(
        "{path}: frames of {width} x {height} take {bytes} bytes as RGB, over the limit of {limit}; hint: a higher --frame-limit"
    )]
    FrameSize {
        /// The video argument.
        path: PathBuf,
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
        /// Of one frame.
        bytes: u64,
        /// The most that is allowed.
        limit: u64,
    },
    /// The process that decoded it ended.
    #[error("{path}: its decoder crashed ({cause}); hint: `ffmpeg -i` may repair the file")]
    Crashed {
        /// The video argument.
        path: PathBuf,
        /// How the process ended.
        cause: String,
    },
    /// The process that decoded it gave no sign of life.
    #[error("{path}: its decoder hung: no sign of life for {} s; hint: a longer --stall-limit, if the disk is that slow", limit.as_secs_f64())]
    Hung {
        /// The video argument.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// No process could be started to decode in.
    #[error("{path}: no decoder process: {source}")]
    Spawn {
        /// The video argument.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// What another process found.
    #[error("{message}")]
    Told {
        /// As [`VideoError::kind`].
        kind: String,
        /// As it was told there.
        message: String,
    },
    /// A part by time is ambiguous where times come twice.
    #[error("{path}: --start and --end do not apply: its times run backwards {fall}; hint: {}", TimeFall::HINT)]
    TimesFall {
        /// The video argument.
        path: PathBuf,
        /// Where.
        fall: TimeFall,
    },
    /// Frames without timestamps cannot be cut by time.
    #[error("{path}: its frames carry no times, so --start and --end do not apply")]
    NoTimes {
        /// The video argument.
        path: PathBuf,
    },
}

/// The streams that a file has instead.
fn among(n_streams: usize, kinds: &str) -> String {
    match n_streams {
        0 => ", nor any other".to_owned(),
        n => format!(" among its {n} stream(s) ({kinds})"),
    }
}

/// Returns the cause for a missing path, with a hint.
fn missing(path: &Path) -> String {
    unfetched(path).unwrap_or_else(|| "no such file or directory".to_owned())
}

/// Returns the hint for a directory without an image.
fn instead_of(dir: &Path, extensions: &str) -> String {
    if ["config.json", "adapter_config.json"].iter().any(|name| dir.join(name).is_file()) {
        return "it holds a model, which is named with --model".to_owned();
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(MAX_ENTRIES).map(|entry| entry.path());
    match entries.filter(|path| kind_of(path) == Some(FileKind::Video)).min() {
        Some(video) => format!("it holds videos: name one, such as {}, or ask about all with `batch`", video.display()),
        None => format!("it takes {extensions}"),
    }
}

/// Returns the error for a file that FFmpeg does not open: its probable nature, or FFmpeg's words.
pub(super) fn not_media(path: &Path, words: impl Into<String>) -> VideoError {
    let cause = sign_of(path).map_or(words.into(), |sign| sign.to_string());
    VideoError::NotMedia { path: path.to_owned(), cause }
}

impl VideoError {
    /// The kind of failure in one word, by which failures are counted.
    pub fn kind(&self) -> &str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Io { .. } => "unreadable",
            Self::NotRegular { .. } => "not_regular",
            Self::Empty { .. } => "empty",
            Self::NotMedia { .. } => "not_media",
            Self::NoVideoStream { .. } => "no_video_stream",
            Self::Decoder { .. } => "no_decoder",
            Self::Convert { .. } => "no_conversion",
            Self::NoImages { .. } => "no_images",
            Self::NoFrames { .. } => "no_frames",
            Self::Unstable { .. } => "unstable",
            Self::EmptyWindow { .. } => "empty_window",
            Self::Sample { .. } => "sample",
            Self::TimeLimit { .. } => "time_limit",
            Self::FrameSize { .. } => "frame_size",
            Self::Stalled { .. } => "stall",
            Self::Halted { .. } => "stopped",
            Self::Stream { .. } => "stream",
            Self::CoverOnly { .. } => "cover_only",
            Self::Crashed { .. } => "crash",
            Self::Hung { .. } => "hang",
            Self::Spawn { .. } => "no_process",
            Self::Told { kind, .. } => kind,
            Self::NoTimes { .. } => "no_times",
            Self::TimesFall { .. } => "times_fall",
        }
    }
}
