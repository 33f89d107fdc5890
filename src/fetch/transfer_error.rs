//! Errors of transfers: those of the HTTP library, in words that quote nothing of the server's unescaped.
//!
//! Called by `exchange`, on the thread of the request.

use std::io;
use std::time::Duration;

use super::shown::printable;
use crate::error::{Error, Kind};

/// Returns the error of a download that took too long.
pub(super) fn time_limit(limit: Duration) -> Error {
    let rule = format!("the download took longer than the limit of {} s", limit.as_secs_f64());
    Error::new(Kind::TimeLimit, rule)
}

/// Returns the error of a failed request.
pub(super) fn of_transfer(cause: ureq::Error, limit: Duration) -> Error {
    let fetch = |rule: String| Error::new(Kind::Fetch, rule);
    match cause {
        ureq::Error::Timeout(_) => time_limit(limit),
        ureq::Error::Io(cause) => fetch(words_of_connection(&cause)),
        ureq::Error::Rustls(cause) => fetch(format!("no secure connection: {}", printable(&cause.to_string()))),
        ureq::Error::Tls(_) | ureq::Error::TlsRequired => fetch("no secure connection".to_owned()),
        ureq::Error::Protocol(_) | ureq::Error::Http(_) => fetch("the server broke the HTTP protocol".to_owned()),
        ureq::Error::LargeResponseHeader(_, limit) => fetch(format!("response headers of more than {limit} bytes")),
        ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => fetch("no connection".to_owned()),
        _ => fetch("the download failed".to_owned()),
    }
}

fn words_of_connection(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::UnexpectedEof => "the server closed the connection early".to_owned(),
        // Errors of TLS, such as those of a certificate.
        io::ErrorKind::InvalidData => format!("no secure connection: {}", printable(&cause.to_string())),
        _ => format!("the connection failed: {}", printable(&cause.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_libraries_are_escaped() {
        let error = of_transfer(ureq::Error::Io(io::Error::other("a\u{1b}[31m\nb")), Duration::from_secs(1));
        assert_eq!(error.to_string(), "the connection failed: a\\u{1b}[31m\\nb");
        assert_eq!(error.kind(), Kind::Fetch);
    }

    #[test]
    fn a_time_limit_is_named() {
        let error = of_transfer(ureq::Error::Timeout(ureq::Timeout::Global), Duration::from_millis(1500));
        assert_eq!(error.to_string(), "the download took longer than the limit of 1.5 s");
        assert_eq!(error.kind(), Kind::TimeLimit);
    }
}
