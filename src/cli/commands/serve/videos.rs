//! `/v1/videos`: uploads to the server's scratch, and the frames that the model would see of them.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use tokio::task::block_in_place;
use tokio::time::Instant;
use vidense::serve::api::ApiError;
use vidense::serve::frames::{FrameReading, FrameThumbnail, frame_thumbnails};
use vidense::serve::media::ScratchFile;
use vidense::video::{Halt, Patience};

use super::access::AdmittedRequest;
use super::body::BodyReader;
use super::chat::seconds_since_1970;
use super::path::PathParameter;
use super::reply::{self, HttpError};
use super::state::ServerState;
use super::waiting::{GoneGuard, ending, on_thread, until, until_abort};

/// `POST /v1/videos`: the body is the file.
///
/// # Errors
/// Over a limit of bytes, or a body that is empty or too slow.
pub async fn upload(
    State(state): State<Arc<ServerState>>,
    Extension(AdmittedRequest { caller, .. }): Extension<AdmittedRequest>,
    request: Request,
) -> Result<Response, HttpError> {
    let ready = state.ready()?;
    let _place = state.enter()?;
    let (parts, body) = request.into_parts();
    let limits = &state.limits.body;
    let mut reader = BodyReader::open(&parts.headers, body, limits);
    let mut writer = ready.media.scratch().upload(&caller.scope, limits.max_bytes)?;
    let filled = async {
        while let Some(piece) = reader.next().await? {
            block_in_place(|| writer.push(&piece))?;
        }
        Ok::<_, ApiError>(())
    };
    until_abort(&state, filled).await?;
    let upload = block_in_place(|| writer.finish())?;
    let object = json!({
        "id": upload.id,
        "object": "video",
        "bytes": upload.n_bytes,
        "expires_at": seconds_since_1970(upload.expires_at),
    });
    Ok(reply::json(StatusCode::CREATED, &object))
}

/// `DELETE /v1/videos/{id}`.
///
/// # Errors
/// An unknown id.
pub async fn remove(
    State(state): State<Arc<ServerState>>,
    Extension(AdmittedRequest { caller, .. }): Extension<AdmittedRequest>,
    PathParameter(id): PathParameter,
) -> Result<Response, HttpError> {
    state.ready()?.media.scratch().remove(&id, &caller.scope)?;
    Ok(reply::json(StatusCode::OK, &json!({ "id": id, "object": "video", "deleted": true })))
}

/// `GET /v1/videos/{id}/frames`: the frames that the plan samples, as small images.
///
/// # Errors
/// An unknown id, and a file that is not a video.
pub async fn frames(
    State(state): State<Arc<ServerState>>,
    Extension(AdmittedRequest { caller, log, .. }): Extension<AdmittedRequest>,
    PathParameter(id): PathParameter,
) -> Result<Response, HttpError> {
    let file = state.ready()?.media.scratch().get(&id, &caller.scope)?;
    let _place = state.enter()?;
    let deadline = Instant::from_std(log.begin_time()) + state.limits.request_timeout;
    let frames = until(&state, deadline, read_frames(&state, file)).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "object": "list", "data": frames })))
}

/// Reads the frames of a file on a thread, until the client goes away.
async fn read_frames(state: &Arc<ServerState>, file: Arc<ScratchFile>) -> Result<Vec<FrameThumbnail>, ApiError> {
    let place = state.enter_frame_reading().await;
    let guard = GoneGuard::default();
    let (server, is_gone) = (state.clone(), guard.flag());
    on_thread(move || {
        let _place = place;
        let ready = server.loaded().ok_or_else(ending)?;
        let halt = Halt::new(move || if is_gone.is_set() { Patience::Exhausted } else { Patience::Full });
        let reading = FrameReading { isolation: &ready.isolation, limits: &ready.limits, halt };
        let request = ready.service.model().plan.frames();
        let read = frame_thumbnails(file.path(), &request, &reading);
        read.map_err(|error| ApiError::from(error.with_path_as(file.path(), "the video")))
    })
    .await
}
