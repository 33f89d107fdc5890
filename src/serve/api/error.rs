//! Errors as clients receive them: an HTTP status, and vLLM's object `{"error": {"message", "type", "param", "code"}}`.

use std::fmt;

use serde_json::{Value, json};

use super::json::shown;
use crate::error::{Error, Kind, Subject};

/// Beginning of the paths of parts.
const PART: &str = "messages[";

/// HTTP status of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorStatus {
    /// An invalid value, an unknown name, a conversation over the model's context.
    BadRequest,
    /// A missing or unknown API key.
    Unauthorized,
    /// An address, a file or an origin outside of what is allowed.
    Forbidden,
    /// An unknown path, model or upload.
    NotFound,
    /// A method that a path does not have.
    MethodNotAllowed,
    /// A body that arrives too slowly.
    RequestTimeout,
    /// A body, a download or a file over its limit.
    TooLarge,
    /// A body that is not JSON.
    UnsupportedMediaType,
    /// A medium that is not read: not a video, no frames, a crash of its decoder, an address that does not answer.
    Unprocessable,
    /// More requests at once than allowed.
    TooManyRequests,
    /// A failure of the server itself.
    Internal,
    /// A server that is loading or ending, or whose queue is full.
    Unavailable,
    /// An answer that took longer than allowed.
    Timeout,
}

impl ErrorStatus {
    /// Returns the status of a kind of failure.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Invalid
            | Kind::TokenBudget
            | Kind::NoVisualTokens
            | Kind::KvMemory
            | Kind::Frames
            | Kind::Text
            | Kind::Sample
            | Kind::EmptyWindow
            | Kind::NoTimes
            | Kind::TimesFall => Self::BadRequest,
            Kind::Refused => Self::Forbidden,
            Kind::NotFound => Self::NotFound,
            Kind::TooLarge => Self::TooLarge,
            Kind::Fetch
            | Kind::Unreadable
            | Kind::NotRegular
            | Kind::Empty
            | Kind::NotMedia
            | Kind::NoVideoStream
            | Kind::CoverOnly
            | Kind::Stream
            | Kind::NoDecoder
            | Kind::NoConversion
            | Kind::NoImages
            | Kind::NoFrames
            | Kind::Unstable
            | Kind::FrameSize
            | Kind::FrameCount
            | Kind::HostMemory
            | Kind::TimeLimit
            | Kind::Stall
            | Kind::Crash
            | Kind::Hang
            | Kind::Preprocess => Self::Unprocessable,
            Kind::Busy | Kind::Halted | Kind::Stopped | Kind::NoProcess => Self::Unavailable,
            Kind::Model
            | Kind::Device
            | Kind::Compute
            | Kind::OutOfMemory
            | Kind::DeviceMemory
            | Kind::NotFinite
            | Kind::Defect => Self::Internal,
        }
    }

    /// Code of HTTP.
    pub fn code(self) -> u16 {
        self.word().parse().unwrap_or(500)
    }

    /// Code of HTTP as text.
    pub fn word(self) -> &'static str {
        match self {
            Self::BadRequest => "400",
            Self::Unauthorized => "401",
            Self::Forbidden => "403",
            Self::NotFound => "404",
            Self::MethodNotAllowed => "405",
            Self::RequestTimeout => "408",
            Self::TooLarge => "413",
            Self::UnsupportedMediaType => "415",
            Self::Unprocessable => "422",
            Self::TooManyRequests => "429",
            Self::Internal => "500",
            Self::Unavailable => "503",
            Self::Timeout => "504",
        }
    }

    /// Value of `type` in the object.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequestError",
            Self::Unauthorized => "AuthenticationError",
            Self::Forbidden => "PermissionDeniedError",
            Self::NotFound => "NotFoundError",
            Self::MethodNotAllowed => "MethodNotAllowedError",
            Self::RequestTimeout => "RequestTimeoutError",
            Self::TooLarge => "ContentTooLargeError",
            Self::UnsupportedMediaType => "UnsupportedMediaTypeError",
            Self::Unprocessable => "UnprocessableEntityError",
            Self::TooManyRequests => "RateLimitError",
            Self::Internal => "InternalServerError",
            Self::Unavailable => "ServiceUnavailableError",
            Self::Timeout => "GatewayTimeoutError",
        }
    }

    /// Seconds after which the same request may succeed.
    pub fn retry_after(self) -> Option<u64> {
        matches!(self, Self::TooManyRequests | Self::Unavailable).then_some(2)
    }
}

/// Error of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Status.
    pub status: ErrorStatus,
    /// Subject, rule and hint in words.
    pub message: String,
    /// Path of the value in the request's body, such as `messages[0].content[1].type`.
    pub param: Option<String>,
}

impl ApiError {
    /// Makes an error.
    pub fn new(status: ErrorStatus, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None }
    }

    /// Makes the error of a value in the body: its path, the broken rule, a hint.
    pub(super) fn of_value(param: impl Into<String>, error: Error) -> Self {
        let param = param.into();
        Self { param: Some(param.clone()), ..Self::from(error.about(param)) }
    }

    /// Makes the error of a model's name that is not among those that are served.
    pub(super) fn unknown_model(name: &str, served: &[String]) -> Self {
        let error = Error::invalid(format!("unknown model `{}`", shown(name))).with_hint(served.join(", "));
        Self { status: ErrorStatus::NotFound, ..Self::from(error) }
    }

    /// Sets the path of the value in the body.
    #[must_use]
    pub fn with_param(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    /// Returns the object that a client receives.
    pub fn body(&self) -> Value {
        let Self { status, message, param } = self;
        let (kind, code) = (status.type_name(), status.code());
        json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
    }
}

impl From<Error> for ApiError {
    /// Makes the error of a failure, about a medium of the request where the failure names its part.
    fn from(error: Error) -> Self {
        let part = match error.subjects().first() {
            Some(Subject::Name(name)) if name.starts_with(PART) => Some(name.to_string()),
            _ => None,
        };
        Self { param: part, ..Self::new(ErrorStatus::of(error.kind()), error.to_string()) }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}
