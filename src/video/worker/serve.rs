//! The process that decodes: one request after the other, replies as they come.

use std::io::{self, Write};

use super::protocol::{Request, write_end, write_event};
use crate::video::{Flow, read_frames};

/// Serves requests until there are no more.
///
/// # Errors
/// When nobody reads the replies any more.
pub fn serve(requests: impl Iterator<Item = Request>, replies: &mut impl Write) -> io::Result<()> {
    for request in requests {
        let path = request.path();
        #[cfg(debug_assertions)]
        super::fault::strike(&path);
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
