//! Policy of media: the files and hosts that requests may name, and the limits of size. Closed by default: no local
//! file, no host.

use crate::fetch::FetchPolicy;

use super::AllowedDirectories;

/// Limits of the media of a request.
#[derive(Debug, Clone)]
pub struct MediaPolicy {
    /// Directories whose files a request may name. Default: none.
    pub files: AllowedDirectories,
    /// Hosts from which files are fetched, and the limits of a download. Default: none.
    pub fetch: FetchPolicy,
    /// Bytes of a medium at most, those of all frames of a list together. Default: 256 MiB.
    pub max_bytes: u64,
    /// Frames of a medium at most: those of a list, and those sampled of a video. Default: 1024.
    pub max_frames: usize,
    /// Media of a request at most. Default: 16.
    pub max_media: usize,
}

impl Default for MediaPolicy {
    fn default() -> Self {
        Self {
            files: AllowedDirectories::default(),
            fetch: FetchPolicy::default(),
            max_bytes: 256 << 20,
            max_frames: 1024,
            max_media: 16,
        }
    }
}
