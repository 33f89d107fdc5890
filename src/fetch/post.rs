//! Requests that send JSON to a service, such as an OpenAI-compatible one, and receive its reply.
//!
//! Guarded like downloads: allowed hosts only, one look-up, pinned addresses, limits of bytes and time. Redirects are
//! refused, because a key would follow them. A host of this machine needs an entry of its own
//! ([`AllowedHosts::with_local`](super::AllowedHosts::with_local)). Called by the judges of `eval`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ureq::http::header;

use super::exchange::{Exchange, FetchClock, HopRequest, RequestMethod};
use super::shown::shown_url;
use super::url::{FetchUrl, UrlScheme};
use super::{AllowedHosts, Fetcher};
use crate::error::{About as _, Error, Kind, Result};

/// A request with a JSON text.
#[derive(Clone, Copy)]
pub struct PostRequest<'a> {
    /// Address of the service.
    pub url: &'a str,
    /// JSON text.
    pub json: &'a str,
    /// Key of the service, sent as `Authorization: Bearer`.
    pub key: Option<&'a str>,
}

/// Reply to a request, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostReply {
    /// Status.
    pub status: u16,
    /// Time to wait before the next request, by the header `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Content.
    pub body: Vec<u8>,
}

impl Fetcher {
    /// Sends JSON, and receives the reply within the policy's limits. `halt` stops the request once it returns true.
    ///
    /// # Errors
    /// About the URL without its query: [`Kind::Invalid`] for a text that is not a URL, [`Kind::Refused`] by policy,
    /// for a redirect, and for a key over `http` to another machine; [`Kind::Fetch`] where the other side fails,
    /// [`Kind::TooLarge`], [`Kind::TimeLimit`], [`Kind::Halted`].
    pub fn post(&self, request: PostRequest<'_>, halt: &dyn Fn() -> bool) -> Result<PostReply> {
        let clock = FetchClock::start(self.policy.time, halt);
        let sent = self.checked(request.url).and_then(|url| self.send(url, request, &clock));
        sent.map_err(|error| self.of_post(error)).about(shown_url(request.url))
    }

    /// Checks a service's URL as far as that is possible without a request.
    ///
    /// # Errors
    /// As [`Fetcher::post`].
    pub fn check_post(&self, request: PostRequest<'_>) -> Result<()> {
        let checked = self.checked(request.url).and_then(|url| check_key(&url, request.key, &self.policy.hosts));
        checked.about(shown_url(request.url))
    }

    fn send(&self, url: FetchUrl, request: PostRequest<'_>, clock: &FetchClock<'_>) -> Result<PostReply> {
        check_key(&url, request.key, &self.policy.hosts)?;
        let method =
            RequestMethod::Post { json: request.json.as_bytes().to_vec(), key: request.key.map(str::to_owned) };
        let hop = HopRequest {
            admits: self.policy.hosts.local_rule(&url).unwrap_or(self.admits),
            url,
            method,
            resolver: self.resolver.clone(),
            time: clock.remaining()?,
            limit: clock.limit,
        };
        let exchange = Exchange::start(hop, clock)?;
        let head = exchange.head()?;
        if head.location()?.is_some() {
            return Err(Error::new(Kind::Refused, "a redirect, which a request with content does not follow"));
        }
        head.check_encoding()?;
        let mut body = Vec::new();
        self.receive_body(&exchange, &head, &mut body)?;
        let retry_after = head.header(header::RETRY_AFTER).and_then(|text| retry_after(text, Utc::now()));
        Ok(PostReply { status: head.status.as_u16(), retry_after, body })
    }

    /// Rewords the errors of limits, which name a download.
    fn of_post(&self, error: Error) -> Error {
        let limit = self.policy.time.as_secs_f64();
        match error.kind() {
            Kind::TimeLimit => Error::new(Kind::TimeLimit, format!("no reply within the limit of {limit} s")),
            Kind::Halted => Error::new(Kind::Halted, "the request was stopped"),
            _ => error,
        }
    }
}

/// Refuses to send a key in the clear to another machine.
fn check_key(url: &FetchUrl, key: Option<&str>, hosts: &AllowedHosts) -> Result<()> {
    if key.is_none() || url.scheme == UrlScheme::Https || hosts.local_rule(url).is_some() {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, "a key over http, which anybody on the way reads").with_hint("https://"))
}

/// Returns the time of a `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = DateTime::parse_from_rfc2822(text.trim()).ok()?;
    (date.with_timezone(&Utc) - now).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::FetchPolicy;
    use crate::fetch::test_server::{TestServer, redirect, response};

    fn post(fetcher: &Fetcher, url: &str, key: Option<&str>) -> Result<PostReply> {
        fetcher.post(PostRequest { url, json: r#"{"a": 1}"#, key }, &|| false)
    }

    fn local(list: &str) -> Fetcher {
        let hosts = AllowedHosts::with_local(list).expect(list);
        Fetcher::new(FetchPolicy { hosts, ..FetchPolicy::default() })
    }

    #[test]
    fn the_reply_is_received_whatever_its_status() {
        let server = TestServer::with(&[
            ("/ok", response("200 OK", "", b"{}")),
            ("/busy", response("429 Too Many Requests", "Retry-After: 7\r\n", b"later")),
            ("/gone", redirect("/ok")),
            ("/gzip", response("200 OK", "Content-Encoding: gzip\r\n", b"xx")),
        ]);
        let at = |path: &str| format!("http://127.0.0.1:{}{path}", server.address.port());
        let fetcher = local(&format!("127.0.0.1:{}", server.address.port()));
        let reply = |status, retry_after, body: &[u8]| PostReply { status, retry_after, body: body.to_vec() };
        assert_eq!(post(&fetcher, &at("/ok"), Some("k")).expect("a reply"), reply(200, None, b"{}"));
        let wait = Some(Duration::from_secs(7));
        assert_eq!(post(&fetcher, &at("/busy"), None).expect("a reply"), reply(429, wait, b"later"));
        let error = post(&fetcher, &at("/gone"), None).expect_err("a redirect");
        assert_eq!((error.kind(), error.to_string().contains("redirect")), (Kind::Refused, true));
        assert_eq!(post(&fetcher, &at("/gzip"), None).expect_err("encoded").kind(), Kind::Fetch);
        let heads = server.requests();
        assert!(heads[0].starts_with("POST /ok HTTP/1.1\r\n") && heads[0].contains("uthorization: Bearer k\r\n"));
        assert!(heads[0].to_ascii_lowercase().contains("content-type: application/json\r\n"), "{}", heads[0]);
        assert!(!heads[1].to_ascii_lowercase().contains("authorization"), "{}", heads[1]);
    }

    #[test]
    fn hosts_and_keys_are_refused_without_a_request() {
        let server = TestServer::with(&[("/", response("200 OK", "", b"{}"))]);
        let port = server.address.port();
        let refused = |fetcher: &Fetcher, url: &str, key| {
            let error = post(fetcher, url, key).expect_err(url);
            assert_eq!(error.kind(), Kind::Refused, "{error}");
            assert!(fetcher.check_post(PostRequest { url, json: "", key }).is_err(), "{url}");
            error.to_string()
        };
        let url = format!("http://127.0.0.1:{port}/");
        assert!(refused(&local("example.org"), &url, None).contains("host `127.0.0.1` is not allowed"));
        assert!(refused(&local("example.org"), "http://example.org/?q=1", Some("secret")).contains("a key over http"));
        assert!(refused(&local(&format!("127.0.0.1:{}", port ^ 1)), &url, None).contains("port"));
        assert!(server.requests().is_empty());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = DateTime::parse_from_rfc2822("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date").with_timezone(&Utc);
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:07 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!((retry_after("soon", now), retry_after("-1", now), retry_after("", now)), (None, None, None));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:00 GMT", now), None);
    }
}
