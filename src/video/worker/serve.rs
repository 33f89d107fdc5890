//! Server side of isolation: the decoding process, which handles one request after the other.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::protocol::{DecodeOutcome, DecodeRequest, DecodeTask, write_end, write_event};
use super::{Confinement, ProcessLifetime};
use crate::error::Error;
use crate::video::timer::ReadWatch;
use crate::video::{Bounds, Flow, ReadEvent, Scanned, read_frames};

/// Serves requests to the end of the iterator, or one request, in a process that has confined itself.
///
/// # Errors
/// When replies cannot be written.
pub fn serve(
    confinement: &Confinement,
    requests: impl Iterator<Item = DecodeRequest>,
    replies: &mut impl Write,
) -> io::Result<()> {
    let n_requests = if confinement.lifetime == ProcessLifetime::OneReading { 1 } else { usize::MAX };
    for request in requests.take(n_requests) {
        let given = request.path();
        let descriptor = OwnDescriptor::of(&given);
        let path = descriptor.as_ref().map_or(&*given, |own| &*own.path);
        confinement.enter(path, request.limits.links);
        #[cfg(debug_assertions)]
        super::fault::inject(&given);
        let mut sent = Ok(());
        let end = perform(path, &request, &mut |event| {
            sent = write_event(replies, event);
            if sent.is_ok() { Flow::Continue } else { Flow::Stop }
        });
        sent?;
        let end = end.map_err(|error| error.with_path_as(path, &given.to_string_lossy()));
        write_end(replies, end)?;
    }
    Ok(())
}

/// Descriptor of this process for a file that the parent names by a descriptor of its own, `/proc/PID/fd/N`. A process
/// that has confined itself does not open descriptors of others, so the file is opened before.
struct OwnDescriptor {
    path: PathBuf,
    /// Keeps the path valid.
    _file: File,
}

impl OwnDescriptor {
    fn of(path: &Path) -> Option<Self> {
        let is_number = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
        let (pid, descriptor) = path.to_str()?.strip_prefix("/proc/")?.split_once("/fd/")?;
        if !is_number(pid) || !is_number(descriptor) {
            return None;
        }
        // A file that does not open is the reader's error.
        let file = File::open(path).ok()?;
        #[cfg(unix)]
        let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
        #[cfg(not(unix))]
        let path = path.to_owned();
        Some(Self { path, _file: file })
    }
}

/// Performs the task of a request.
fn perform(
    path: &Path,
    request: &DecodeRequest,
    emit: &mut dyn FnMut(ReadEvent) -> Flow,
) -> Result<DecodeOutcome, Error> {
    let DecodeRequest { frames, limits, .. } = request;
    match request.task {
        DecodeTask::Read => read_frames(path, frames, limits, emit).map(DecodeOutcome::Report),
        DecodeTask::Probe => {
            let watch = &mut ReadWatch::new(Bounds::from(limits), emit);
            Scanned::read(path, frames, watch)?.forecast().map(DecodeOutcome::Forecast)
        }
    }
}
