//! Ids of requests: the client's, if it is harmless in headers and logs, or a new one.

use axum::http::{HeaderMap, HeaderValue};
use vidense::serve::media::random_name;

/// Header of an id, in requests and responses.
pub const REQUEST_ID: &str = "x-request-id";
/// Characters of an id at most.
const MAX_LEN: usize = 128;

/// Id of a request.
#[derive(Debug, Clone)]
pub struct HttpRequestId(pub String);

impl HttpRequestId {
    /// Returns the id that a client sends, or a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        match sent {
            Some(id) if (1..=MAX_LEN).contains(&id.len()) && id.bytes().all(is_plain) => Self(id.to_owned()),
            _ => Self(random_name()),
        }
    }

    /// Returns the id as a header's value.
    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or_else(|_| HeaderValue::from_static("invalid"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_ids_are_kept_and_others_replaced() {
        let id = |text: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(text).expect("a header"));
            HttpRequestId::of(&headers).0
        };
        for kept in ["a", "req-1.2_B", &"x".repeat(128)] {
            assert_eq!(id(kept.as_bytes()), kept);
        }
        for replaced in [&b""[..], b"a b", b"a:b", b"\xe4", "x".repeat(129).as_bytes(), b"a\tb", b"../etc"] {
            assert_eq!(id(replaced).len(), 32, "{replaced:?}");
        }
        assert_ne!(HttpRequestId::of(&HeaderMap::new()).0, HttpRequestId::of(&HeaderMap::new()).0);
    }
}
