//! Errors of a video argument. Each names the file as its outermost subject, and is made where it is raised; those of
//! more than one place, and those whose hint needs a look at the file system, are made here.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Kind};
use crate::files::{FileKind, diagnose, kind_of, url_error};
use crate::units::{FrameIndex, Seconds};

/// Number of files of a directory that are read for a hint, at most.
const MAX_ENTRIES: usize = 1000;

/// Hint for a file that gives no data for too long.
pub(super) const LONGER_STALL_LIMIT: &str = "a longer --stall-limit, if the disk is that slow";

/// Two frames in a row whose times run backwards, as where streams were joined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TimeFall {
    /// Index of the second frame.
    pub index: FrameIndex,
    /// Time of the first frame.
    pub before: Seconds,
    /// Time of the second frame.
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

/// Returns the error of a path without a file, with a hint for a file that stands for a remote one.
pub(super) fn not_found(path: &Path) -> Error {
    let error = url_error(path).unwrap_or_else(|| Error::invalid("no such file or directory"));
    error.with_kind(Kind::NotFound).about(path)
}

/// Returns the conversion of the operating system's error about an argument.
pub(super) fn cannot_read(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| match source.kind() {
        io::ErrorKind::NotFound => not_found(path),
        _ => Error::io(path)(source),
    }
}

/// Returns the error for a file that FFmpeg does not open: its probable nature, or `cause`.
pub(super) fn not_media(path: &Path, cause: Error) -> Error {
    let error = diagnose(path).unwrap_or(cause).reworded(|cause| format!("not a video that FFmpeg can read: {cause}"));
    error.with_kind(Kind::NotMedia).about(path)
}

/// Returns the error of a readable container without a video stream; `kinds` are those of its streams.
pub(super) fn no_video_stream(path: &Path, kinds: &[String]) -> Error {
    let instead = match kinds.len() {
        0 => ", nor any other".to_owned(),
        n => format!(" among its {n} stream(s) ({})", kinds.join(", ")),
    };
    Error::new(Kind::NoVideoStream, format!("no video stream{instead}")).about(path)
}

/// Returns the error of an index that is not that of a video stream.
pub(super) fn wrong_stream(path: &Path, stream: usize, rule: String, video_streams: &str) -> Error {
    let hint = format!("video streams: {video_streams}");
    Error::new(Kind::Stream, rule).with_hint(hint).about(format!("stream {stream}")).about(path)
}

/// Returns the error of a stream of which not one frame decodes.
pub(super) fn no_frames(path: &Path, cause: Error) -> Error {
    cause.reworded(|cause| format!("not one frame decodes ({cause})")).with_kind(Kind::NoFrames).about(path)
}

/// Returns the error of a directory without an image.
pub(super) fn no_images(dir: &Path, extensions: &str) -> Error {
    Error::new(Kind::NoImages, "no image in this directory").with_hint(instead_of(dir, extensions)).about(dir)
}

/// Returns the error of a reading over its time limit.
pub(super) fn time_limit(path: &Path, limit: Duration) -> Error {
    let rule = format!("reading took longer than the limit of {} s", limit.as_secs_f64());
    Error::new(Kind::TimeLimit, rule).with_hint("a longer --time-limit decode=").about(path)
}

/// Returns the error of a reading whose process may take no more memory.
pub(super) fn out_of_memory(path: &Path) -> Error {
    Error::new(Kind::HostMemory, "no memory is left to decode it").about(path)
}

/// Returns the error of a reading that its reader stopped while the file made it wait.
pub(super) fn halted(path: &Path) -> Error {
    Error::new(Kind::Halted, "stopped while it was read").about(path)
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
