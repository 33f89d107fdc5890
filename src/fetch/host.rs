//! Hosts and ports of URLs and of lists of hosts, in strict notation.
//!
//! A numeric host in odd notation, which other parsers read as an address, is refused. Whether a host may be contacted
//! is decided in `hosts`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::shown::printable;
use crate::error::{Error, Result};

/// Maximum number of bytes of a host name (RFC 1035), and of each of its labels.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Host of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UrlHost {
    /// Name in lower case, without a trailing dot.
    Name(String),
    /// Address in canonical notation.
    Address(IpAddr),
}

impl UrlHost {
    /// Parses a host: a name of ASCII letters, digits, hyphens and underscores, or an address in canonical notation,
    /// that of IPv6 in brackets.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for any other text.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid = || Error::invalid(format!("invalid host `{}`", printable(text)));
        if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            return address.parse::<Ipv6Addr>().map(|address| Self::Address(address.into())).map_err(|_| invalid());
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.len() > MAX_NAME || !name.split('.').all(is_label) {
            return Err(invalid().with_hint("letters, digits, hyphens; other names in their ASCII form (xn--...)"));
        }
        // Other parsers read `127.1`, `0x7f000001` and `2130706433` as addresses.
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
        match (is_number, name.parse::<Ipv4Addr>()) {
            (false, _) => Ok(Self::Name(name)),
            (true, Ok(address)) => Ok(Self::Address(address.into())),
            (true, Err(_)) => Err(invalid().with_hint("an address as four decimal numbers")),
        }
    }
}

impl fmt::Display for UrlHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Splits an authority without credentials into host and port.
///
/// # Errors
/// [`Kind::Invalid`] for a port that is not a number from 1 to 65535.
pub(super) fn split_port(authority: &str) -> Result<(&str, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => return Ok((authority, None)),
    };
    let digits = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok()).filter(|&port| port > 0);
    let invalid =
        || Error::invalid(format!("invalid port `{}`", printable(port))).with_hint("a number from 1 to 65535");
    number.map(|port| (host, Some(port))).ok_or_else(invalid)
}

fn is_label(label: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(is_plain)
        && !label.starts_with('-')
        && !label.ends_with('-')
}
