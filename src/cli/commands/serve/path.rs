//! Parameter of a path, such as the id of an upload. Bytes that are not UTF-8 are an error of the API, not axum's text.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use vidense::serve::api::ErrorStatus;

use super::reply::{HttpError, refused};

/// Decoded parameter of a path that has one.
pub struct PathParameter(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathParameter {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(parameter)) => Ok(Self(parameter)),
            Err(_) => Err(refused(ErrorStatus::BadRequest, "invalid path", "percent-encoded UTF-8").into()),
        }
    }
}
