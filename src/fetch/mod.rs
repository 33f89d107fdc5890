//! Guarded downloads over HTTP and HTTPS: from allowed hosts at global addresses, within limits of bytes and time.
//!
//! A server that fetches what its clients name must not be led into its own network. `url` parses strictly, `hosts`
//! has the list of allowed hosts, `address` knows global addresses, `resolve` looks a name up once, `exchange` makes
//! one request to exactly these addresses; redirects are followed here, each target checked like the first. Contents
//! are not looked at. Called for the videos and images of requests, of commands and of manifests. `post` sends JSON to
//! a service under the same guard.

mod address;
mod exchange;
mod file;
mod host;
mod hosts;
mod post;
mod resolve;
mod shown;
#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;
mod transfer_error;
mod url;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use self::address::is_global;
use self::exchange::{Exchange, FetchClock, HopRequest, RequestMethod, ResponseHead, too_large};
pub use self::file::{DownloadedFile, remove_leftovers};
pub use self::hosts::{AllowedHosts, HostRule};
pub use self::post::{PostReply, PostRequest};
use self::resolve::AddressRule;
pub use self::resolve::{Resolve, SystemResolver};
pub use self::shown::shown_url;
use self::url::{FetchUrl, UrlScheme};
pub use self::url::{check_url, is_web_url};
use crate::error::{About as _, Error, Kind, Result};

/// Hosts and limits of downloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchPolicy {
    /// Allowed hosts.
    pub hosts: AllowedHosts,
    /// Maximum number of bytes of a content.
    pub max_bytes: u64,
    /// Time limit of a download from its first look-up to its last byte.
    pub time: Duration,
    /// Maximum number of redirects.
    pub max_redirects: u32,
}

impl Default for FetchPolicy {
    /// Returns a policy that allows no host: 256 MiB, 60 s, 3 redirects.
    fn default() -> Self {
        Self { hosts: AllowedHosts::None, max_bytes: 256 << 20, time: Duration::from_secs(60), max_redirects: 3 }
    }
}

/// Facts of a finished download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Number of bytes of the content.
    pub n_bytes: u64,
    /// Content type as the server names it, if it is short and in ASCII. Nothing is to be decided by it.
    pub content_type: Option<String>,
    /// URL of the content after redirects, without its query.
    pub url: String,
}

/// Downloader with a policy. Clones share the resolver.
#[derive(Clone)]
pub struct Fetcher {
    policy: FetchPolicy,
    resolver: Arc<dyn Resolve>,
    admits: AddressRule,
}

impl Fetcher {
    /// Creates a downloader with the operating system's resolver.
    pub fn new(policy: FetchPolicy) -> Self {
        Self { policy, resolver: Arc::new(SystemResolver), admits: is_global }
    }

    /// Sets the resolver. Its addresses are checked like those of any other.
    #[must_use]
    pub fn with_resolver(self, resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver, ..self }
    }

    /// Sets the rule of addresses, so that tests reach listeners of their own.
    #[cfg(test)]
    pub(crate) fn admitting(self, admits: fn(std::net::IpAddr) -> bool) -> Self {
        Self { admits, ..self }
    }

    /// Checks a URL as far as that is possible without a look-up: notation, scheme, host, port.
    ///
    /// # Errors
    /// [`Kind::Invalid`] or [`Kind::Refused`], about the URL without its query.
    pub fn check(&self, url: &str) -> Result<()> {
        self.checked(url).map(drop).about(shown_url(url))
    }

    /// Downloads a URL to a writer. `halt` stops the download once it returns true, within a fraction of a second.
    ///
    /// # Errors
    /// About the URL without its query: [`Kind::Invalid`] for a text that is not a URL, [`Kind::Refused`] by policy,
    /// [`Kind::Fetch`] where the other side fails, [`Kind::TooLarge`], [`Kind::TimeLimit`], [`Kind::Halted`]; the
    /// writer's error. Bytes may have been written before an error.
    pub fn fetch(&self, url: &str, to: &mut dyn Write, halt: &dyn Fn() -> bool) -> Result<Fetched> {
        let clock = FetchClock::start(self.policy.time, halt);
        self.checked(url).and_then(|url| self.follow(url, to, &clock)).about(shown_url(url))
    }

    fn checked(&self, url: &str) -> Result<FetchUrl> {
        let url = FetchUrl::parse(url)?;
        self.policy.hosts.check(&url)?;
        Ok(url)
    }

    /// Follows redirects, and receives the content.
    fn follow(&self, mut url: FetchUrl, to: &mut dyn Write, clock: &FetchClock<'_>) -> Result<Fetched> {
        let mut n_redirects = 0;
        loop {
            let request = HopRequest {
                url: url.clone(),
                method: RequestMethod::Get,
                resolver: self.resolver.clone(),
                admits: self.admits,
                time: clock.remaining()?,
                limit: clock.limit,
            };
            let about_hop = |error: Error| if n_redirects > 0 { of_redirect(error, &url) } else { error };
            let exchange = Exchange::start(request, clock)?;
            let head = exchange.head().map_err(about_hop)?;
            let Some(location) = head.location().map_err(about_hop)? else {
                let n_bytes = self.receive(&exchange, &head, to).map_err(about_hop)?;
                return Ok(Fetched { n_bytes, content_type: head.content_type, url: url.shown() });
            };
            let next = self.redirected(&url, location)?;
            n_redirects += 1;
            if n_redirects > self.policy.max_redirects {
                return Err(Error::new(Kind::Fetch, format!("more than {} redirects", self.policy.max_redirects)));
            }
            url = next;
        }
    }

    /// Checks the target of a redirect like a first URL.
    fn redirected(&self, from: &FetchUrl, location: &str) -> Result<FetchUrl> {
        // The other side is to blame for an invalid target, which is not quoted.
        let target = from.join(location).map_err(|error| match error.kind() {
            Kind::Invalid => Error::new(Kind::Fetch, "a redirect to an invalid URL"),
            _ => error.about("redirect"),
        })?;
        if (from.scheme, target.scheme) == (UrlScheme::Https, UrlScheme::Http) {
            let rule = "a redirect from https to http, which is not followed";
            return Err(of_redirect(Error::new(Kind::Refused, rule), &target));
        }
        self.policy.hosts.check(&target).map_err(|error| of_redirect(error, &target))?;
        Ok(target)
    }

    /// Receives the content within the limit of bytes.
    fn receive(&self, exchange: &Exchange<'_>, head: &ResponseHead, to: &mut dyn Write) -> Result<u64> {
        head.check()?;
        self.receive_body(exchange, head, to)
    }

    fn receive_body(&self, exchange: &Exchange<'_>, head: &ResponseHead, to: &mut dyn Write) -> Result<u64> {
        let limit = self.policy.max_bytes;
        if let Some(length) = head.length.filter(|&length| length > limit) {
            return Err(too_large(length, limit));
        }
        let mut n_bytes = 0;
        while let Some(bytes) = exchange.chunk()? {
            n_bytes += bytes.len() as u64;
            if n_bytes > limit {
                return Err(too_large(n_bytes, limit));
            }
            to.write_all(&bytes)?;
        }
        to.flush()?;
        Ok(n_bytes)
    }
}

fn of_redirect(error: Error, target: &FetchUrl) -> Error {
    error.about(format!("redirect to {}", target.shown()))
}
