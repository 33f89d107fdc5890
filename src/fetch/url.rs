//! URLs of downloads: a strict parser of `http` and `https` URLs, and targets of redirects (RFC 3986).
//!
//! Readings of one URL by two parsers are a way around a list of hosts: everything unusual (other characters than RFC
//! 3986 has, credentials, numeric hosts in odd notation) is refused, and the request is made for the parts that were
//! checked. Whether a host may be contacted is decided in `hosts`.

use std::fmt;

use super::host::{UrlHost, split_port};
use super::shown::{printable, shown_url};
use crate::error::{Error, Kind, Result};

/// Maximum number of bytes of a URL.
const MAX_URL: usize = 8192;
/// A URL of `http` or `https` without credentials and fragment.
///
/// Displayed whole, as it is requested. Messages name it by [`FetchUrl::shown`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FetchUrl {
    pub(super) scheme: UrlScheme,
    pub(super) host: UrlHost,
    port: Option<u16>,
    /// Path and query, which begin with `/`.
    target: String,
}

/// Scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "snake_case")]
pub(super) enum UrlScheme {
    Http,
    Https,
}

/// Returns whether a name is written as a URL of `http` or `https`.
pub fn is_web_url(name: &str) -> bool {
    let scheme = name.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"))
}

/// Checks the notation of a URL: scheme, host, port, no credentials. Hosts are not looked at.
///
/// # Errors
/// [`Kind::Invalid`] or [`Kind::Refused`], about the URL without its query.
pub fn check_url(url: &str) -> Result<()> {
    FetchUrl::parse(url).map(drop).map_err(|error| error.about(shown_url(url)))
}

impl FetchUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a text that is not a URL in strict notation, [`Kind::Refused`] for another scheme and for
    /// credentials. The subject is not named.
    pub(super) fn parse(text: &str) -> Result<Self> {
        check_characters(text)?;
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Error::invalid("not a URL").with_hint("http:// or https://, a host and a path"));
        };
        let scheme = UrlScheme::parse(scheme)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, after) = rest.split_at(end);
        let has_credentials =
            || Error::new(Kind::Refused, "a URL with a user name or a password, which is not fetched");
        if authority.contains('@') {
            return Err(has_credentials());
        }
        let host = split_port(authority).and_then(|(host, port)| Ok((UrlHost::parse(host)?, port)));
        // A password with a slash looks like a port, which the error would quote.
        let (host, port) = host.map_err(|error| if after.contains('@') { has_credentials() } else { error })?;
        let target = after.split('#').next().unwrap_or_default();
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { scheme, host, port: port.filter(|&port| port != scheme.port()), target })
    }

    /// Resolves the target of a redirect from this URL.
    ///
    /// # Errors
    /// As [`FetchUrl::parse`].
    pub(super) fn join(&self, reference: &str) -> Result<Self> {
        check_characters(reference)?;
        let reference = reference.split('#').next().unwrap_or_default();
        let path = self.target.split('?').next().unwrap_or_default();
        let target = match reference.find([':', '/', '?']) {
            Some(at) if reference[at..].starts_with(':') => return Self::parse(reference),
            _ if reference.starts_with("//") => return Self::parse(&format!("{}:{reference}", self.scheme)),
            _ if reference.is_empty() => self.target.clone(),
            _ if reference.starts_with('/') => reference.to_owned(),
            _ if reference.starts_with('?') => format!("{path}{reference}"),
            _ => format!("{}/{reference}", path.rsplit_once('/').map_or("", |(directory, _)| directory)),
        };
        Ok(Self { target: without_dots(&target), ..self.clone() })
    }

    /// Port, that of the scheme where the URL has none.
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(self.scheme.port())
    }

    /// Returns the URL as messages name it, without its query.
    pub(super) fn shown(&self) -> String {
        printable(self.to_string().split('?').next().unwrap_or_default())
    }

    /// Returns the extension of the last segment of the path, if it is one of a few letters and digits.
    pub(super) fn extension(&self) -> Option<&str> {
        let name = self.target.split('?').next()?.rsplit('/').next()?;
        let (_, extension) = name.rsplit_once('.')?;
        let is_plain = (1..=5).contains(&extension.len()) && extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_plain.then_some(extension)
    }
}

impl fmt::Display for FetchUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.target)
    }
}

impl UrlScheme {
    fn parse(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "http" => Ok(Self::Http),
            "https" => Ok(Self::Https),
            _ => {
                let rule = format!("a URL of the scheme `{}`, which is not fetched", printable(text));
                Err(Error::new(Kind::Refused, rule).with_hint("http or https"))
            }
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Checks length and characters: those of RFC 3986 alone.
fn check_characters(text: &str) -> Result<()> {
    if text.len() > MAX_URL {
        return Err(Error::invalid(format!("a URL of {} bytes, over {MAX_URL}", text.len())));
    }
    let is_odd = |c: &char| !c.is_ascii_graphic() || "\"<>\\^`{|}".contains(*c);
    match text.chars().find(is_odd) {
        Some(c) => {
            let rule = format!("a character that a URL does not have: `{}`", printable(&c.to_string()));
            Err(Error::invalid(rule).with_hint("percent-encode it"))
        }
        None => Ok(()),
    }
}

/// Removes the segments `.` and `..` of a path before its query (RFC 3986, 5.2.4).
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (i, segment) in segments.iter().enumerate() {
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if i + 1 == segments.len() {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        FetchUrl::parse(text).expect(text).to_string()
    }

    #[test]
    fn a_url_is_requested_in_canonical_form() {
        assert_eq!(parsed("HTTPS://Example.ORG"), "https://example.org/");
        assert_eq!(parsed("http://example.org.:80/a/b.mp4?x=1&y=%20#part"), "http://example.org/a/b.mp4?x=1&y=%20");
        assert_eq!(parsed("http://a:443?x"), "http://a:443/?x");
        assert_eq!(parsed("https://[2606:4700:0:0::1]:8443/"), "https://[2606:4700::1]:8443/");
        assert_eq!(FetchUrl::parse("https://8.8.8.8/").expect("an address").port(), 443);
        assert_eq!(FetchUrl::parse("http://x:8443/a.tar.gz?b.mp4").expect("a URL").extension(), Some("gz"));
        assert_eq!(FetchUrl::parse("http://x.mp4/clip.a%20b").expect("a URL").extension(), None);
    }

    #[test]
    fn texts_that_parsers_read_differently_are_refused() {
        for (text, message) in [
            ("", "not a URL"),
            ("example.org/a.mp4", "not a URL"),
            ("http:/example.org", "not a URL"),
            ("http://", "invalid host ``"),
            ("http:///a", "invalid host ``"),
            ("http://a..b/", "invalid host `a..b`"),
            ("http://a.org../", "invalid host `a.org..`"),
            ("http://-a.org/", "invalid host `-a.org`"),
            ("http://a%2eb/", "invalid host `a%2eb`"),
            ("http://127.1/", "invalid host `127.1`"),
            ("http://0x7f000001/", "invalid host `0x7f000001`"),
            ("http://2130706433/", "invalid host `2130706433`"),
            ("http://0177.0.0.1/", "invalid host `0177.0.0.1`"),
            ("http://1.2.3.4.5/", "invalid host `1.2.3.4.5`"),
            ("http://[::1/", "invalid host"),
            ("http://[fe80::1%25eth0]/", "invalid host"),
            ("http://a:0/", "invalid port `0`"),
            ("http://a:/", "invalid port ``"),
            ("http://a:+80/", "invalid port `+80`"),
            ("http://a:65536/", "invalid port `65536`"),
            ("http://b\u{fc}cher.example/", "a character that a URL does not have: `\\u{fc}`"),
            ("http://\u{ff4c}ocalhost/", "a character that a URL does not have: `\\u{ff4c}`"),
            ("http://a\\@b/", "a character that a URL does not have: `\\`"),
            ("http://a/ b", "a character that a URL does not have: ` `"),
            ("http://a/\r\nHost: b", "a character that a URL does not have: `\\r`"),
        ] {
            let error = FetchUrl::parse(text).expect_err(text);
            assert!(error.to_string().starts_with(message), "{text:?}: {error}");
            assert_eq!(error.kind(), Kind::Invalid, "{text:?}");
        }
        let long = format!("http://a/{}", "x".repeat(MAX_URL));
        assert!(FetchUrl::parse(&long).expect_err("long").to_string().contains("bytes, over 8192"));
    }

    #[test]
    fn other_schemes_and_credentials_are_refused_without_an_echo() {
        for text in ["ftp://a/b", "file:///etc/passwd", "gopher://a", "http+unix://a", "javascript://a"] {
            assert_eq!(FetchUrl::parse(text).expect_err(text).kind(), Kind::Refused, "{text}");
        }
        for text in [
            "http://user:secret@a/",
            "http://secret@a/",
            "http://@a/",
            "http://a:secret@b:80/",
            "http://a:sec/ret@b/",
            "http://a:sec?ret@b/",
        ] {
            let error = FetchUrl::parse(text).expect_err(text);
            assert_eq!(error.kind(), Kind::Refused);
            assert!(!error.to_string().contains("sec"), "{error}");
        }
    }

    #[test]
    fn only_http_and_https_are_urls_of_the_web() {
        assert!(is_web_url("HTTP://a") && is_web_url("https://a/b"));
        assert!(!is_web_url("file:///a") && !is_web_url("a.mp4") && !is_web_url("http:/a") && !is_web_url("xhttp://a"));
    }

    #[test]
    fn targets_of_redirects_are_resolved() {
        let base = FetchUrl::parse("https://a.org:8443/x/y/z.mp4?q=1").expect("a URL");
        for (reference, target) in [
            ("http://b.org/c", "http://b.org/c"),
            ("//b.org/c", "https://b.org/c"),
            ("/c?d", "https://a.org:8443/c?d"),
            ("c.mp4", "https://a.org:8443/x/y/c.mp4"),
            ("./c/../d", "https://a.org:8443/x/y/d"),
            ("../../../c", "https://a.org:8443/c"),
            ("..", "https://a.org:8443/x/"),
            ("?r", "https://a.org:8443/x/y/z.mp4?r"),
            ("#part", "https://a.org:8443/x/y/z.mp4?q=1"),
            ("", "https://a.org:8443/x/y/z.mp4?q=1"),
            ("c?u=http://d", "https://a.org:8443/x/y/c?u=http://d"),
            ("/c?d=/../e", "https://a.org:8443/c?d=/../e"),
        ] {
            assert_eq!(base.join(reference).expect(reference).to_string(), target, "{reference}");
        }
        for reference in ["file:///etc/passwd", "data:,x", "\\\\b\\c", "//user@b/", "http:b"] {
            assert!(base.join(reference).is_err(), "{reference}");
        }
    }
}
