//! Facts of a server that it is asked for: health, version, models, metrics, its pipeline, its page.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::json;
use vidense::serve::api::{ModelFacts, ModelList};
use vidense::serve::media::random_name;
use vidense::serve::metrics::OPEN_METRICS;

use super::path::PathParameter;
use super::reply::{self, HttpError, with_type};
use super::state::{ReadyServer, ServerState};

/// The page: one file, without outside addresses.
const PAGE: &str = include_str!("page.html");

/// `GET /health`: 200 once the model is loaded, until the server ends.
pub async fn health(State(state): State<Arc<ServerState>>) -> Result<Response, HttpError> {
    state.ready()?;
    Ok(reply::json(StatusCode::OK, &json!({ "status": "ok" })))
}

/// `GET /version`.
pub async fn version() -> Response {
    reply::json(StatusCode::OK, &json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// `GET /v1/models`.
pub async fn models(State(state): State<Arc<ServerState>>) -> Result<Response, HttpError> {
    Ok(reply::json(StatusCode::OK, &model_list(state.ready()?)))
}

/// `GET /v1/models/{name}`; a name may have slashes.
pub async fn model(
    State(state): State<Arc<ServerState>>,
    PathParameter(name): PathParameter,
) -> Result<Response, HttpError> {
    let card = model_list(state.ready()?).into_card(&name)?;
    Ok(reply::json(StatusCode::OK, &card))
}

fn model_list(ready: &ReadyServer) -> ModelList {
    let facts = ModelFacts { created: ready.created, context: ready.service.model().vlm.context() };
    let root = ready.names.first().cloned().unwrap_or_default();
    ModelList::of(&ready.names, &root, facts)
}

/// `GET /metrics`.
pub async fn metrics(State(state): State<Arc<ServerState>>) -> Response {
    let load = state.loaded().map(|ready| ready.service.load());
    with_type(StatusCode::OK, OPEN_METRICS, state.metrics.page(load.as_ref()))
}

/// `GET /v1/pipeline`: every choice between a video and an answer.
pub async fn pipeline(State(state): State<Arc<ServerState>>) -> Result<Response, HttpError> {
    let ready = state.ready()?;
    let model = ready.service.model();
    Ok(reply::json(
        StatusCode::OK,
        &json!({
            "yaml": model.plan.to_yaml()?,
            "model": ready.names.first(),
            "arithmetic": model.arithmetic(),
            "fingerprint": model.fingerprint,
        }),
    ))
}

/// `GET /`: the page, which loads nothing from elsewhere and is not shown inside another one.
pub async fn page() -> Response {
    let nonce = random_name();
    let page = PAGE.replace("<style>", &format!("<style nonce=\"{nonce}\">"));
    let page = page.replace("<script>", &format!("<script nonce=\"{nonce}\">"));
    let mut response = with_type(StatusCode::OK, "text/html; charset=utf-8", page);
    let policy = format!(
        "default-src 'none'; connect-src 'self'; img-src 'self' data: blob:; media-src blob:; \
         style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    );
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    response
}
