//! Server side of isolation: the decoding process, which handles one request after the other.

use std::io::{self, Write};

use super::protocol::{DecodeRequest, write_end, write_event};
use crate::video::{Flow, read_frames};

/// Serves requests to the end of the iterator.
///
/// # Errors
/// When replies cannot be written.
pub fn serve(requests: impl Iterator<Item = DecodeRequest>, replies: &mut impl Write) -> io::Result<()> {
    for request in requests {
        let path = request.path();
        #[cfg(debug_assertions)]
        super::fault::inject(&path);
        let mut sent = Ok(());
        let end = read_frames(&path, &request.frames, &request.limits, &mut |event| {
            sent = write_event(replies, event);
            if sent.is_ok() { Flow::Continue } else { Flow::Stop }
        });
        sent?;
        write_end(replies, end)?;
    }
    Ok(())
}
