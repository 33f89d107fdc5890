//! Flags of `serve`: the sockets, the limits of requests and media, what requests may read.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use vidense::error::Error;
use vidense::fetch::{AllowedHosts, FetchPolicy};
use vidense::serve::media::{AllowedDirectories, MediaPolicy};

use super::body::{BodyLimits, BodyMemory};
use super::state::RequestLimits;
use crate::cli::limits::duration;

/// Time that requests in progress have after a signal.
const GRACE: Duration = Duration::from_secs(30);
/// Requests at once that any flag allows.
const MAX_REQUESTS: usize = 1 << 20;

/// Flags of the sockets and of requests.
#[derive(Args)]
pub struct HttpArgs {
    /// Address to listen on; port 0 is a free port. Addresses other than loopback require an API key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    pub listen: String,
    /// File of API keys, one a line; those of $VIDENSE_API_KEYS are added [default: no key]
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Name of the model in requests and responses; may be given several times [default: that of the model]
    #[arg(long, value_name = "NAME")]
    pub served_model_name: Vec<String>,
    /// Size limit of a body, and of a video in it
    #[arg(long, value_name = "BYTES", default_value = "512MiB")]
    pub max_body: ByteSize,
    /// Requests at once, waiting ones included; further ones are refused with status 429
    #[arg(long, value_name = "N", default_value_t = 1280, value_parser = at_least_one)]
    pub max_requests: usize,
    /// Requests that wait beside those that the engine runs; further ones are refused with status 503
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_waiting: usize,
    /// Time limit of a whole answer, its waiting included
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    request_timeout: Duration,
    /// Time limit of a header, and of 64 KiB of a body
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub read_timeout: Duration,
    /// Time that requests in progress have to end after SIGTERM or Ctrl-C; with --stdio also after the end of the
    /// input [default: 30s after a signal, no limit after the end of the input]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub grace: Option<Duration>,
    /// Time between two signs of life in a stream
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration, hide = true)]
    keep_alive: Duration,
}

/// Flags of what requests may read.
#[derive(Args)]
pub struct MediaArgs {
    /// Directory whose files requests may name as file:// addresses; may be given several times [default: none]
    #[arg(long, value_name = "DIR")]
    allow_files: Vec<PathBuf>,
    /// Hosts from which requests may name videos: example.org,*.example.com; * is any host with a global address
    /// [default: none]
    #[arg(long, value_name = "HOSTS")]
    allow_hosts: Option<AllowedHosts>,
    /// Videos and images of a request
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one)]
    max_media: usize,
    /// Frames of a video
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_least_one)]
    max_frames: usize,
    /// Directory of temporary files, which a killed server's successor removes [default: the system's]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Size limit of that directory; the uploads of one key take at most half, all uploads three quarters
    #[arg(long, value_name = "BYTES", default_value = "8GiB")]
    pub scratch_limit: ByteSize,
    /// Memory of visual tokens, for further questions about a video
    #[arg(long, value_name = "BYTES", default_value = "1GiB")]
    pub memory_cache: ByteSize,
    /// Address space of a decoding process
    #[arg(long, value_name = "BYTES", default_value = "4GiB")]
    pub decode_memory: ByteSize,
}

impl HttpArgs {
    /// Returns the time that requests in progress have after a signal.
    pub fn grace_after_signal(&self) -> Duration {
        self.grace.unwrap_or(GRACE)
    }

    /// Returns the limits of requests.
    pub fn limits(&self) -> RequestLimits {
        let max_bytes = self.max_body.as_u64();
        let memory = BodyMemory::for_bodies_of(max_bytes);
        RequestLimits {
            body: BodyLimits { max_bytes, read_timeout: self.read_timeout, memory },
            max_requests: self.max_requests.min(MAX_REQUESTS),
            request_timeout: self.request_timeout,
            keep_alive: self.keep_alive,
        }
    }
}

impl MediaArgs {
    /// Returns what requests may read, with media of at most `max_bytes`.
    ///
    /// # Errors
    /// A directory that does not exist.
    pub fn policy(&self, max_bytes: u64) -> Result<MediaPolicy, Error> {
        let hosts = self.allow_hosts.clone().unwrap_or_default();
        Ok(MediaPolicy {
            files: AllowedDirectories::new(&self.allow_files)?,
            fetch: FetchPolicy { hosts, max_bytes, ..FetchPolicy::default() },
            max_bytes,
            max_frames: self.max_frames,
            max_media: self.max_media,
        })
    }
}

fn at_least_one(text: &str) -> Result<usize, Error> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| Error::invalid("expected a whole number from 1"))
}
