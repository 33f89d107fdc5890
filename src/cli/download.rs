//! Flags of downloads, and videos that commands take by path or by URL.
//!
//! A video of a URL is downloaded to a temporary directory, which is removed at the end of the command, also of one
//! that a signal ends. Messages and outputs name the URL.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use tempfile::TempDir;
use vidense::error::Error;
use vidense::fetch::{AllowedHosts, DownloadedFile, FetchPolicy, Fetcher, is_web_url, shown_url};
use vidense::video::LinkedFilePolicy;

use super::limits::duration;
use super::{interrupt, progress};

/// Flags of downloads.
#[derive(Debug, Clone, Args)]
pub struct DownloadArgs {
    /// Hosts from which videos named by URL are downloaded, separated by commas: example.org, *.example.com (all names
    /// below it), cdn.example.net:8443 (another port than 80 and 443), * (any name). All addresses of a host must be
    /// global [default: none]
    #[arg(long, value_name = "HOSTS")]
    allow_hosts: Option<AllowedHosts>,
    /// Size limit of a download
    #[arg(long, value_name = "BYTES", default_value = "256MiB")]
    download_limit: ByteSize,
    /// Time limit of a download
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    download_time: Duration,
}

impl DownloadArgs {
    /// Returns whether any host is allowed.
    pub fn allows_hosts(&self) -> bool {
        self.allow_hosts.is_some()
    }

    /// Returns the downloader of the flags.
    pub fn fetcher(&self) -> Fetcher {
        Fetcher::new(FetchPolicy {
            hosts: self.allow_hosts.clone().unwrap_or_default(),
            max_bytes: self.download_limit.as_u64(),
            time: self.download_time,
            ..FetchPolicy::default()
        })
    }
}

/// A video that a command takes: a path, or a downloaded file.
pub struct VideoInput {
    /// Path or URL as the user named it.
    named: PathBuf,
    download: Option<TemporaryDownload>,
}

/// A downloaded file in a directory of its own. Fields are dropped in this order.
struct TemporaryDownload {
    file: DownloadedFile,
    _directory: TempDir,
}

impl VideoInput {
    /// Returns the video of a path; downloads that of a URL.
    ///
    /// # Errors
    /// When the host of a URL is not allowed, or the download fails.
    pub fn open(named: &Path, downloads: &DownloadArgs) -> anyhow::Result<Self> {
        let url = named.to_str().filter(|name| is_web_url(name) && !named.exists());
        let download = url.map(|url| Self::download(url, &downloads.fetcher())).transpose()?;
        Ok(Self { named: named.to_owned(), download })
    }

    fn download(url: &str, fetcher: &Fetcher) -> anyhow::Result<TemporaryDownload> {
        fetcher.check(url)?;
        let directory = tempfile::Builder::new().prefix("vidense-").tempdir()?;
        interrupt::remove_on_signal(directory.path())?;
        let spinner = progress::downloading();
        let file = fetcher.download(url, directory.path(), &|| false);
        spinner.finish_and_clear();
        Ok(TemporaryDownload { file: file?, _directory: directory })
    }

    /// Path of the file or directory to read.
    pub fn path(&self) -> &Path {
        self.download.as_ref().map_or(&self.named, |download| download.file.path())
    }

    /// Policy about files that the video leads to: a downloaded one must lead to none.
    pub fn links(&self) -> LinkedFilePolicy {
        if self.download.is_some() { LinkedFilePolicy::Refuse } else { LinkedFilePolicy::Local }
    }

    /// Path or URL as the user named it.
    pub fn named(&self) -> &Path {
        &self.named
    }

    /// Path, or URL without its query, as messages name it.
    pub fn shown(&self) -> PathBuf {
        match &self.download {
            Some(_) => shown_url(&self.named.to_string_lossy()).into(),
            None => self.named.clone(),
        }
    }

    /// Names the URL in errors about the temporary file.
    pub fn in_errors<T>(&self, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        let Some(download) = &self.download else { return outcome };
        outcome.map_err(|error| match error.downcast::<Error>() {
            Ok(error) => error.with_path_as(download.file.path(), &self.shown().to_string_lossy()).into(),
            Err(other) => other,
        })
    }
}
