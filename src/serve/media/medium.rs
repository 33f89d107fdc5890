//! Medium of a request, ready to be read: a file or a directory of frames, the frames to take, and their times.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::pipeline::{ExpectedMedium, FrameStamp};
use crate::video::FrameRequest;

use super::FrameTiming;
use super::content::MediaContent;
use super::key::MediaKey;
use super::memory::not_kept;

/// Beginning of the name of a medium that was sent as a `uuid` alone.
pub(super) const UUID: &str = "uuid ";

/// Video or image of a request on this machine. Its files are removed when the last owner drops it.
#[derive(Debug)]
pub struct Media {
    /// Key of the frames that are taken of the content.
    pub key: MediaKey,
    /// Path to read after [`Self::store`]; empty where the visual tokens are cached and the client sent a `uuid` alone.
    pub path: PathBuf,
    /// Frames to read.
    pub request: FrameRequest,
    /// Times of the frames of a list, if the client gave any.
    pub timing: Option<FrameTiming>,
    /// Forecast of the frames.
    pub expected: ExpectedMedium,
    /// Name in messages: an address without its query, or a word for data.
    pub name: String,
    /// Path of the part in the request's body.
    pub param: String,
    /// Number of frames taken of a list, each of which must decode; `None` for a file.
    pub(super) n_listed: Option<usize>,
    pub(super) content: MediaContent,
}

impl Media {
    /// Returns a local file that is not owned, read for `n_frames` frames.
    #[cfg(test)]
    pub(crate) fn of_file(path: &Path, request: FrameRequest, n_frames: usize) -> Self {
        let name = path.display().to_string();
        Self {
            key: MediaKey::of_content(name.as_bytes()),
            path: path.to_owned(),
            request,
            timing: None,
            expected: ExpectedMedium { n_frames, image: None },
            name,
            param: "messages[0].content[0].video_url".to_owned(),
            n_listed: None,
            content: MediaContent::Foreign(path.to_owned()),
        }
    }

    /// Stores a content that is in memory on disk, before it is read from [`Self::path`].
    ///
    /// # Errors
    /// [`Kind::Busy`] while the disk is full, and the operating system's.
    pub fn store(&self) -> Result<()> {
        self.content.store()
    }

    /// Returns the stamps of the frames that were read: of a file as they are, of a list with the client's indices and
    /// times.
    ///
    /// # Errors
    /// [`Kind::NoFrames`] where a frame of a list was not read.
    pub fn stamps(&self, read: Vec<FrameStamp>) -> Result<Vec<FrameStamp>> {
        let Some(n) = self.n_listed else { return Ok(read) };
        if read.len() != n {
            let error = Error::new(Kind::NoFrames, format!("{} of {n} images decode", read.len()));
            return Err(error.about(&*self.path));
        }
        self.timing.as_ref().map_or(Ok(read), |timing| timing.stamps(n))
    }

    /// Replaces the path on this machine by a client's name of the content in an error of its reading: clients of one
    /// content have names of their own, which others must not see. A medium without content, whose visual tokens have
    /// left the cache meanwhile, must be sent again.
    #[must_use]
    pub fn named(&self, error: Error, name: &str) -> Error {
        if self.is_absent() && error.kind() == Kind::NotFound {
            return not_kept(name.strip_prefix(UUID).unwrap_or_default());
        }
        named(error, &self.path, name)
    }

    /// Returns whether the medium has no content: only its cached visual tokens answer.
    pub fn is_absent(&self) -> bool {
        matches!(self.content, MediaContent::Absent)
    }
}

/// Replaces a path by a name.
pub(super) fn named(error: Error, path: &Path, name: &str) -> Error {
    if path.as_os_str().is_empty() {
        return error;
    }
    error.with_path_as(path, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_no_path_of_this_machine() {
        let path = Path::new("/scratch/m00000001");
        let error = Error::new(Kind::NoFrames, "invalid data").about(path.join("000000.jpg")).about(path);
        assert_eq!(named(error, path, "frames").to_string(), "frames: frames/000000.jpg: invalid data");
        let unnamed = named(Error::invalid("a rule"), Path::new(""), "frames");
        assert_eq!(unnamed.to_string(), "a rule");
    }
}
