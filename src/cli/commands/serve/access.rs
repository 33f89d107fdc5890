//! Admission of requests, before any handler: the log, ids, the `Host` and `Origin` of browsers, API keys.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use vidense::serve::api::{ApiError, ErrorStatus};

use super::keys::Caller;
use super::log::RequestLog;
use super::reply::{HttpError, refused};
use super::request_id::{HttpRequestId, REQUEST_ID};
use super::state::ServerState;

/// Paths that need no API key.
const OPEN_PATHS: [&str; 3] = ["/", "/health", "/version"];

/// Beginning of the paths whose failures are counted.
const API: &str = "/v1/";

/// Address that the server listens on.
#[derive(Debug, Clone, Copy)]
pub struct ListenFacts {
    /// Whether only programs of this machine reach it.
    pub is_loopback: bool,
}

/// Request that was let in.
#[derive(Clone)]
pub struct AdmittedRequest {
    /// Client.
    pub caller: Caller,
    /// Id.
    pub id: HttpRequestId,
    /// Line of the log.
    pub log: Arc<RequestLog>,
}

/// Middleware of every path.
pub async fn admit(State(state): State<Arc<ServerState>>, mut request: Request, next: Next) -> Response {
    let id = HttpRequestId::of(request.headers());
    let log = Arc::new(RequestLog::begin(request.method().as_str(), request.uri().path(), &id));
    let is_call = request.uri().path().starts_with(API);
    let is_open = OPEN_PATHS.contains(&request.uri().path());
    let mut response = match caller(&state, request.headers(), is_open) {
        Ok(caller) => {
            request.extensions_mut().insert(AdmittedRequest { caller, id: id.clone(), log: log.clone() });
            let mut client = WaitingClient { state: &state, is_counted: is_call };
            let response = next.run(request).await;
            client.is_counted = false;
            response
        }
        Err(error) => HttpError(error).into_response(),
    };
    if let Some(error) = response.extensions().get::<ApiError>() {
        log.set_error(error);
        if is_call {
            state.metrics.failed(error.status);
        }
    }
    log.set_status(response.status().as_u16());
    response.headers_mut().insert(REQUEST_ID, id.header());
    if state.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Client that waits for a response. Dropped before it has one, it counts as gone.
struct WaitingClient<'s> {
    state: &'s ServerState,
    is_counted: bool,
}

impl Drop for WaitingClient<'_> {
    fn drop(&mut self) {
        if self.is_counted {
            self.state.metrics.cancelled();
        }
    }
}

/// Returns the client of a request.
///
/// # Errors
/// [`ErrorStatus::Forbidden`] for a request that a browser sends for another site, [`ErrorStatus::Unauthorized`].
fn caller(state: &ServerState, headers: &HeaderMap, is_open: bool) -> Result<Caller, ApiError> {
    let known = state.keys.caller(headers.get(header::AUTHORIZATION));
    let host = text(headers, "host")?;
    // A name that another site has made to mean this machine (DNS rebinding). With keys, that site has none.
    if state.listen.is_loopback && state.keys.is_empty() && !host.is_some_and(is_own) {
        let rule = "the host is not this machine";
        let hint = "localhost, 127.0.0.1 or [::1]; other names require --api-key-file of the server";
        return Err(refused(ErrorStatus::Forbidden, rule, hint));
    }
    let origin = text(headers, "origin")?;
    if let Some(origin) = origin
        && !known.as_ref().is_some_and(|caller| caller.has_key)
        && !host.is_some_and(|host| is_same_site(origin, host))
    {
        let rule = "the request is from a page of another site";
        let hint = if state.keys.is_empty() { "--api-key-file of the server" } else { "an API key" };
        return Err(refused(ErrorStatus::Forbidden, rule, hint));
    }
    match known {
        Some(caller) => Ok(caller),
        None if is_open => Ok(Caller { scope: String::new(), has_key: false }),
        None => {
            let rule = if headers.contains_key(header::AUTHORIZATION) { "unknown API key" } else { "no API key" };
            Err(refused(ErrorStatus::Unauthorized, rule, "the header `Authorization: Bearer KEY`"))
        }
    }
}

/// Returns the value of a header that may stand once.
fn text<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let invalid = || ApiError::new(ErrorStatus::BadRequest, format!("invalid header `{name}`"));
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| invalid()),
        _ => Err(invalid()),
    }
}

/// Returns whether a `Host` names this machine. Its port may be another one, of a tunnel: a page of another site cannot
/// choose the name.
fn is_own(host: &str) -> bool {
    let (name, port) = split(host);
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_loopback = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback()),
        None => name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback()),
    };
    is_port && (is_loopback || name.eq_ignore_ascii_case("localhost"))
}

/// Returns whether an `Origin` has the host and the port of `Host`.
fn is_same_site(origin: &str, host: &str) -> bool {
    let Some((scheme, site)) = origin.split_once("://") else { return false };
    let default = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return false,
    };
    let (name, port) = split(site);
    let (own_name, own_port) = split(host);
    name.eq_ignore_ascii_case(own_name) && port.unwrap_or(default) == own_port.unwrap_or(default)
}

/// Splits a host and its port.
fn split(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// Makes the response of a path that does not exist.
pub async fn not_found() -> HttpError {
    let hint = "POST /v1/chat/completions, GET /v1/models, /health, /metrics, /version";
    HttpError(refused(ErrorStatus::NotFound, "no such path", hint))
}

/// Makes the response of a method that a path does not have.
pub async fn method_not_allowed(method: Method) -> HttpError {
    let rule = format!("the path has no method {}", method.as_str().chars().take(16).collect::<String>());
    HttpError(refused(ErrorStatus::MethodNotAllowed, rule, "GET or POST"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_its_own_with_any_port_or_none() {
        for name in ["localhost", "LOCALHOST", "127.0.0.1", "127.0.0.2", "[::1]"] {
            for host in [name.to_owned(), format!("{name}:8000"), format!("{name}:80")] {
                assert!(is_own(&host), "{host}");
            }
        }
        for host in [
            "",
            ":8000",
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost.evil.example:8000",
            "localhost:8000.evil.example",
            "localhost:99999",
            "192.168.0.1",
            "::1",
            "[::2]",
            "[127.0.0.1]",
            "[localhost]",
        ] {
            assert!(!is_own(host), "{host}");
        }
    }

    #[test]
    fn an_origin_is_the_same_site_by_host_and_port() {
        for (origin, host) in [
            ("http://127.0.0.1:8000", "127.0.0.1:8000"),
            ("https://video.example", "video.example"),
            ("https://video.example", "video.example:443"),
            ("http://[::1]:8000", "[::1]:8000"),
        ] {
            assert!(is_same_site(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("null", "127.0.0.1:8000"),
            ("http://evil.example", "127.0.0.1:8000"),
            ("http://127.0.0.1:8001", "127.0.0.1:8000"),
            ("file://127.0.0.1:8000", "127.0.0.1:8000"),
            ("http://127.0.0.1:8000.evil.example", "127.0.0.1:8000"),
        ] {
            assert!(!is_same_site(origin, host), "{origin} {host}");
        }
    }
}
