//! Server side of isolation: the decoding process, which handles one request after the other.

use std::io::{self, Write};

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
        let path = request.path();
        confinement.enter(&path, request.limits.links);
        #[cfg(debug_assertions)]
        super::fault::inject(&path);
        let mut sent = Ok(());
        let end = perform(&request, &mut |event| {
            sent = write_event(replies, event);
            if sent.is_ok() { Flow::Continue } else { Flow::Stop }
        });
        sent?;
        write_end(replies, end)?;
    }
    Ok(())
}

/// Performs the task of a request.
fn perform(request: &DecodeRequest, emit: &mut dyn FnMut(ReadEvent) -> Flow) -> Result<DecodeOutcome, Error> {
    let (path, DecodeRequest { frames, limits, .. }) = (request.path(), request);
    match request.task {
        DecodeTask::Read => read_frames(&path, frames, limits, emit).map(DecodeOutcome::Report),
        DecodeTask::Probe => {
            let watch = &mut ReadWatch::new(Bounds::from(limits), emit);
            Scanned::read(&path, frames, watch)?.forecast().map(DecodeOutcome::Forecast)
        }
    }
}
