//! Files of the videos that jobs name by URL: each is downloaded when its turn to be decoded comes, and removed after
//! its last frame was read, so no more files exist at a time than videos are decoded in parallel.
//!
//! A job's own path is used where it is not a URL, or downloads are not allowed. Called by the decoding stage; the
//! rules of downloads are those of [`fetch`](crate::fetch).

use std::path::{Path, PathBuf};

use super::item::VideoRef;
use crate::error::{Error, Result};
use crate::exec::Stop;
use crate::fetch::{DownloadedFile, Fetcher, is_web_url, remove_leftovers, shown_url};
use crate::files::output::create_directory;
use crate::video::LinkedFilePolicy;

/// Downloads of the videos of a run, to a directory of its own.
pub struct Downloads {
    fetcher: Fetcher,
    directory: PathBuf,
}

impl Downloads {
    /// Creates the directory, and removes the files that a killed run left in it. The directory is to be used by one
    /// run at a time.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn open(fetcher: Fetcher, directory: PathBuf) -> Result<Self> {
        create_directory(&directory).map_err(Error::io(&directory))?;
        remove_leftovers(&directory)?;
        Ok(Self { fetcher, directory })
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        // A directory with other files stays.
        let _ = std::fs::remove_dir(&self.directory);
    }
}

/// File of a video: the job's own, or a download that is removed with the value.
pub(super) struct JobFile {
    named: PathBuf,
    downloaded: Option<DownloadedFile>,
}

impl JobFile {
    /// Returns the file of a job as it is named.
    pub(super) fn of(video: &VideoRef) -> Self {
        Self { named: video.path().to_owned(), downloaded: None }
    }

    /// Downloads the file, where the job names a URL. A run that drains does not wait for it, and neither does a video
    /// that is no longer wanted.
    ///
    /// # Errors
    /// As [`Fetcher::fetch`].
    pub(super) fn download(&mut self, downloads: &Downloads, video: &VideoRef, stop: &Stop) -> Result<()> {
        let Some(url) = self.named.to_str().filter(|name| is_web_url(name)) else { return Ok(()) };
        let halt = || stop.is_draining() || video.is_failed();
        self.downloaded = Some(downloads.fetcher.download(url, &downloads.directory, &halt)?);
        Ok(())
    }

    /// Path of the file.
    pub(super) fn path(&self) -> &Path {
        self.downloaded.as_ref().map_or(&self.named, DownloadedFile::path)
    }

    /// Returns the policy about files that the file leads to: a downloaded one must lead to none.
    pub(super) fn links(&self, otherwise: LinkedFilePolicy) -> LinkedFilePolicy {
        if self.downloaded.is_some() { LinkedFilePolicy::Refuse } else { otherwise }
    }

    /// Names the URL in an error about the temporary file.
    pub(super) fn named(&self, error: Error) -> Error {
        match &self.downloaded {
            Some(file) => error.with_path_as(file.path(), &shown_url(&self.named.to_string_lossy())),
            None => error,
        }
    }
}
