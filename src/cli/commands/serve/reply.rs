//! Responses: JSON, errors as clients of OpenAI expect them, texts.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use vidense::error::Error;
use vidense::serve::api::{ApiError, ErrorStatus};

/// Error of a handler.
#[derive(Debug)]
pub struct HttpError(pub ApiError);

impl From<ApiError> for HttpError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<Error> for HttpError {
    fn from(error: Error) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let mut response = json(status(error.status), &error.body());
        if let Some(seconds) = error.status.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if error.status == ErrorStatus::Unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The log takes the message from here.
        response.extensions_mut().insert(error);
        response
    }
}

/// Makes a response of JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(status, "application/json", body),
        Err(error) => {
            let error = ApiError::new(ErrorStatus::Internal, format!("the response is not JSON: {error}"));
            with_type(StatusCode::INTERNAL_SERVER_ERROR, "application/json", error.body().to_string())
        }
    }
}

/// Makes a response of a content type.
pub fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response
}

/// Returns the status of an error.
pub fn status(status: ErrorStatus) -> StatusCode {
    StatusCode::from_u16(status.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Makes the error of a value outside of the body, such as a header.
pub fn refused(status: ErrorStatus, rule: impl Into<String>, hint: &'static str) -> ApiError {
    ApiError::new(status, Error::invalid(rule.into()).with_hint(hint).to_string())
}

/// Makes the response of a handler that panicked; the message is on standard error.
pub fn after_panic(_: Box<dyn std::any::Any + Send>) -> Response {
    HttpError(ApiError::new(ErrorStatus::Internal, "a defect of the server")).into_response()
}
