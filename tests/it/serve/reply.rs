//! Responses as a client of a few lines reads them.

use std::io::Read as _;
use std::net::{Shutdown, TcpStream};

use serde_json::{Value, json};

/// Response of a server.
pub(super) struct Reply {
    /// 0 where the connection was closed without a response.
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A reset after the response is its end too.
        let _ = stream.read_to_end(&mut bytes);
        let _ = stream.shutdown(Shutdown::Both);
        Self::parse(&bytes)
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Self { status: 0, head: String::from_utf8_lossy(bytes).into_owned(), body: Vec::new() };
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = &bytes[end + 4..];
        let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let body = if is_chunked { dechunk(body) } else { body.to_vec() };
        Self { status, head, body }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (own, value) = line.split_once(": ")?;
            own.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Objects of a stream, without its end.
    pub(super) fn events(&self) -> Vec<Value> {
        let text = self.text();
        let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    /// Fails unless the response is vLLM's error of this status and type.
    pub(super) fn assert_error(&self, status: u16, kind: &str, message: &str) {
        assert_eq!(self.status, status, "{} {}", self.head, self.text());
        let error = &self.json()["error"];
        assert_eq!((&error["type"], &error["code"]), (&json!(kind), &json!(status)), "{error}");
        let found = error["message"].as_str().unwrap();
        assert!(found.contains(message), "{found} does not say: {message}");
    }
}

/// Joins the chunks of a body.
fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        let data = &body[end + 2..];
        if size == 0 || data.len() < size {
            break;
        }
        whole.extend_from_slice(&data[..size]);
        body = data.get(size + 2..).unwrap_or_default();
    }
    whole
}
