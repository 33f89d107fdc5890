//! Directory of the frames of a list in a scratch: one file a frame, named by its position.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::serve::media::key::ContentHash;

use super::file::{Reservation, ScratchFile, ScratchWriter, disk_error};
use super::space::ScratchSpace;

/// Hash and length of a frame.
#[derive(Debug, Clone, Copy)]
pub(in crate::serve::media) struct FrameFacts {
    pub(in crate::serve::media) hash: ContentHash,
    pub(in crate::serve::media) n_bytes: u64,
}

/// Directory of frames, removed with them when dropped.
#[derive(Debug)]
pub(in crate::serve::media) struct FrameDirectory {
    path: PathBuf,
    frames: Vec<ScratchFile>,
    space: Arc<ScratchSpace>,
}

impl FrameDirectory {
    pub(super) fn create(space: &Arc<ScratchSpace>, path: PathBuf) -> Result<Self> {
        std::fs::create_dir(&path).map_err(disk_error)?;
        Ok(Self { path, frames: Vec::new(), space: space.clone() })
    }

    /// Path of the directory.
    pub(in crate::serve::media) fn path(&self) -> &Path {
        &self.path
    }

    /// Begins the file of the next frame. Hidden from readers until [`Self::add`].
    pub(in crate::serve::media) fn begin(&self, max_bytes: u64) -> Result<ScratchWriter> {
        let path = self.path.join(format!(".{}", self.frames.len()));
        let mut writer = ScratchWriter::create(Reservation::new(&self.space, None), path, max_bytes)?;
        writer.expect(0)?;
        Ok(writer)
    }

    /// Adds a frame, named by its position and with the ending of its format, and returns its hash and length.
    pub(in crate::serve::media) fn add(&mut self, mut writer: ScratchWriter, ending: &str) -> Result<FrameFacts> {
        writer.rename(self.path.join(format!("{:06}.{ending}", self.frames.len())))?;
        let file = writer.finish()?;
        let facts = FrameFacts { hash: file.hash(), n_bytes: file.n_bytes() };
        self.frames.push(file);
        Ok(facts)
    }
}

impl Drop for FrameDirectory {
    fn drop(&mut self) {
        self.frames.clear();
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
