//! Errors as problem documents (RFC 9457) with a stable `code`.

use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use switchyard_core::intake::Rejected;
use switchyard_core::ports::{PortError, describe};
use switchyard_core::quota::OverQuota;
use switchyard_core::settle::AskError;

/// A problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// What to act on: one of a documented, stable list.
    pub code: String,
    /// What happened, in a sentence.
    pub detail: String,
    /// After how many seconds another try makes sense, for the header Retry-After.
    #[serde(skip)]
    pub retry_after_seconds: Option<u64>,
}

impl Problem {
    /// A problem.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        // A home that failed for a moment is asked again at once.
        let retry_after_seconds = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        Self { status: status.as_u16(), title, code: code.to_owned(), detail: detail.into(), retry_after_seconds }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self)).into_response();
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Rejected> for Problem {
    fn from(rejected: Rejected) -> Self {
        let status = match &rejected {
            Rejected::NotJson(_) | Rejected::BadKey => StatusCode::BAD_REQUEST,
            Rejected::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Rejected::Field { .. }
            | Rejected::UnknownCapability { .. }
            | Rejected::Payload(_)
            | Rejected::KeyReused(_)
            | Rejected::NoFeasibleVenue(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, rejected.code(), rejected.to_string())
    }
}

impl From<OverQuota> for Problem {
    fn from(over: OverQuota) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, OverQuota::CODE, over.to_string());
        Self { retry_after_seconds: Some(over.retry_after_seconds()), ..problem }
    }
}

impl From<PortError> for Problem {
    fn from(error: PortError) -> Self {
        // The chain is told once, here: to the log, and to the caller.
        let chain = describe(&error);
        tracing::error!(error = %chain, retryable = error.retryable, "the home failed");
        if error.retryable {
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "try_again", chain)
        } else {
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, "home_failed", chain)
        }
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "no_such_job", error.to_string()),
            AskError::Conflict { .. } => Self::new(StatusCode::CONFLICT, "conflict", error.to_string()),
            AskError::Port(error) => error.into(),
        }
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let most = crate::BODY_BYTES;
            return Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!("the body is too large: at most {most} bytes are taken"),
            );
        }
        Self::new(StatusCode::BAD_REQUEST, "body_unreadable", "the body could not be read to its end")
    }
}
