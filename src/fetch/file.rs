//! Downloads to temporary files, which are removed with their values. Called by the decoding stage and by the commands
//! that take a video.
//!
//! The modification time of a file comes from its content, so that caches by length, time and ends of a file recognize
//! a content that was downloaded before.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use tempfile::{Builder, TempPath};

use super::url::FetchUrl;
use super::{Fetched, Fetcher};
use crate::error::{About as _, Error, Result};

/// Beginning of the names of downloaded files.
pub(super) const PREFIX: &str = "vidense-download-";

/// A downloaded file, removed when the value is dropped.
#[derive(Debug)]
pub struct DownloadedFile {
    path: TempPath,
    /// Facts of the download.
    pub fetched: Fetched,
}

impl DownloadedFile {
    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Fetcher {
    /// Downloads a URL to a new file in a directory. `halt` stops the download once it returns true.
    ///
    /// # Errors
    /// As [`Fetcher::fetch`]; the operating system's error of a file that cannot be written. Nothing is left in the
    /// directory.
    pub fn download(&self, url: &str, directory: &Path, halt: &dyn Fn() -> bool) -> Result<DownloadedFile> {
        let extension = FetchUrl::parse(url).ok().and_then(|url| Some(format!(".{}", url.extension()?)));
        let suffix = extension.unwrap_or_default();
        let created = Builder::new().prefix(PREFIX).suffix(&suffix).tempfile_in(directory);
        let (file, path) = created.map_err(Error::io(directory))?.into_parts();
        let mut writer = HashingWriter { file, hasher: blake3::Hasher::new() };
        let fetched = self.fetch(url, &mut writer, halt)?;
        writer.finish().about(&*path)?;
        Ok(DownloadedFile { path, fetched })
    }
}

/// Writer of a file that hashes its content.
struct HashingWriter {
    file: File,
    hasher: blake3::Hasher,
}

impl HashingWriter {
    /// Sets the modification time from the hash.
    fn finish(self) -> io::Result<()> {
        let mut seconds = [0; 4];
        seconds.copy_from_slice(&self.hasher.finalize().as_bytes()[..4]);
        self.file.set_modified(UNIX_EPOCH + Duration::from_secs(u32::from_le_bytes(seconds).into()))
    }
}

impl Write for HashingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n_written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n_written]);
        Ok(n_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Removes the files that downloads of a killed process left in a directory. Files of a download under way are removed
/// as well: the directory is to be used by one process at a time.
///
/// # Errors
/// The operating system's error; a missing directory is none.
pub fn remove_leftovers(directory: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io(directory))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io(directory))?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            std::fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    Ok(())
}
