//! One line of the log for each request, printed when its response ends. Neither headers nor bodies are logged.

use std::sync::Mutex;
use std::time::Instant;

use vidense::serve::api::{ApiError, Usage};

use super::request_id::HttpRequestId;
use crate::cli::output;

/// Characters of a path or a message in the log at most.
const MAX_LEN: usize = 300;
/// Status of a request whose client went away.
const CLIENT_GONE: u16 = 499;

/// Line of a request, printed when the last owner drops it: that of its response, or of its stream.
pub struct RequestLog {
    method: String,
    path: String,
    id: String,
    begin: Instant,
    end: Mutex<RequestEnd>,
}

/// End of a request as far as it is known.
#[derive(Debug, Default)]
struct RequestEnd {
    status: Option<u16>,
    usage: Option<Usage>,
    error: Option<String>,
}

/// Line of the log.
#[derive(Debug)]
pub struct RequestLine<'l> {
    pub method: &'l str,
    pub path: &'l str,
    pub status: u16,
    pub ms: u64,
    pub id: &'l str,
    pub prompt_tokens: Option<usize>,
    pub completion_tokens: Option<usize>,
    pub error: Option<&'l str>,
}

impl RequestLog {
    /// Begins the line of a request.
    pub fn begin(method: &str, path: &str, id: &HttpRequestId) -> Self {
        let (method, path) = (shortened(method), shortened(path));
        Self { method, path, id: id.0.clone(), begin: Instant::now(), end: Mutex::default() }
    }

    /// Time at which the request came.
    pub fn begin_time(&self) -> Instant {
        self.begin
    }

    /// Sets the status of the response.
    pub fn set_status(&self, status: u16) {
        self.change(|end| end.status = Some(status));
    }

    /// Sets the token counts of the answer.
    pub fn set_usage(&self, usage: Usage) {
        self.change(|end| end.usage = Some(usage));
    }

    /// Sets the error that the client receives.
    pub fn set_error(&self, error: &ApiError) {
        self.change(|end| end.error = Some(shortened(&error.message)));
    }

    /// Says that the client went away before the end of its answer.
    pub fn set_gone(&self) {
        self.change(|end| end.status = Some(CLIENT_GONE));
    }

    fn change(&self, change: impl FnOnce(&mut RequestEnd)) {
        change(&mut self.end.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let end = self.end.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        output::request(&RequestLine {
            method: &self.method,
            path: &self.path,
            status: end.status.unwrap_or(CLIENT_GONE),
            ms: u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX),
            id: &self.id,
            prompt_tokens: end.usage.map(|usage| usage.prompt_tokens),
            completion_tokens: end.usage.map(|usage| usage.completion_tokens),
            error: end.error.as_deref(),
        });
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_LEN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
