//! Errors as problem documents (RFC 9457) with a stable `code`: THE list of codes.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use switchyard_core::intake::Rejected;
use switchyard_core::ports::{PortError, describe};
use switchyard_core::quota::OverQuota;
use switchyard_core::settle::AskError;
use utoipa::ToSchema;

/// What went wrong, for programs: a code is stable, and always comes with the same status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// The body is not JSON.
    NotJson,
    /// A parameter of the path or the query is wrong.
    InvalidParameter,
    /// The idempotency key cannot be one.
    InvalidIdempotencyKey,
    /// The body did not arrive whole.
    BodyUnreadable,
    /// Nobody known calls.
    Unauthorized,
    /// The caller's role does not reach that far.
    Forbidden,
    /// The job is another caller's.
    NotYours,
    /// There is no such job.
    NoSuchJob,
    /// There is no such event.
    NoSuchEvent,
    /// There is no such path.
    NoSuchRoute,
    /// The job has no result.
    NoResult,
    /// The path does not take the method.
    MethodNotAllowed,
    /// The body took too long.
    BodyTooSlow,
    /// The job stands where that cannot be done.
    Conflict,
    /// That is not paused.
    NotPaused,
    /// There is nothing that could be read again.
    NothingToReload,
    /// The body is too large.
    BodyTooLarge,
    /// The payload is too large.
    PayloadTooLarge,
    /// The body is said not to be JSON.
    UnsupportedMediaType,
    /// A field is missing, unknown or wrong.
    InvalidField,
    /// There is no such capability.
    UnknownCapability,
    /// The payload does not fit the capability.
    InvalidPayload,
    /// The key came with another submission before.
    IdempotencyKeyReused,
    /// No venue can run it.
    NoFeasibleVenue,
    /// The body is no event.
    NotAnEvent,
    /// The policies are broken.
    InvalidPolicies,
    /// So much at once is more than the caller may ever have.
    BatchOverQuota,
    /// The caller has submitted as much as it may.
    QuotaExceeded,
    /// A defect of the yard.
    Internal,
    /// The home failed, and will again.
    HomeFailed,
    /// The home failed, and may not again.
    TryAgain,
    /// Too much is under way.
    Busy,
    /// The answer took too long.
    TookTooLong,
    /// The yard closes.
    Closing,
}

impl Code {
    /// All codes, by status.
    pub const ALL: [Self; 34] = [
        Self::NotJson,
        Self::InvalidParameter,
        Self::InvalidIdempotencyKey,
        Self::BodyUnreadable,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotYours,
        Self::NoSuchJob,
        Self::NoSuchEvent,
        Self::NoSuchRoute,
        Self::NoResult,
        Self::MethodNotAllowed,
        Self::BodyTooSlow,
        Self::Conflict,
        Self::NotPaused,
        Self::NothingToReload,
        Self::BodyTooLarge,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidField,
        Self::UnknownCapability,
        Self::InvalidPayload,
        Self::IdempotencyKeyReused,
        Self::NoFeasibleVenue,
        Self::NotAnEvent,
        Self::InvalidPolicies,
        Self::BatchOverQuota,
        Self::QuotaExceeded,
        Self::Internal,
        Self::HomeFailed,
        Self::TryAgain,
        Self::Busy,
        Self::TookTooLong,
        Self::Closing,
    ];

    /// The code as it stands in a problem document, the status it comes with, and what it means.
    fn told(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::NotJson => ("not_json", S::BAD_REQUEST, "the body is not JSON; the place is named"),
            Self::InvalidParameter => {
                ("invalid_parameter", S::BAD_REQUEST, "a parameter of the path or the query is unknown or wrong")
            }
            Self::InvalidIdempotencyKey => {
                ("invalid_idempotency_key", S::BAD_REQUEST, "an idempotency key is 1 to 255 printable ASCII characters")
            }
            Self::BodyUnreadable => ("body_unreadable", S::BAD_REQUEST, "the body could not be read to its end"),
            Self::Unauthorized => ("unauthorized", S::UNAUTHORIZED, "no token was shown, or none that the yard knows"),
            Self::Forbidden => ("forbidden", S::FORBIDDEN, "the caller's role does not reach that far; it is named"),
            Self::NotYours => {
                ("not_yours", S::FORBIDDEN, "a submitter cancels and retries only jobs that it submitted itself")
            }
            Self::NoSuchJob => ("no_such_job", S::NOT_FOUND, "there is no such job, or it was forgotten"),
            Self::NoSuchEvent => {
                ("no_such_event", S::NOT_FOUND, "there is no such unmapped event: it was replayed, or dropped")
            }
            Self::NoSuchRoute => ("no_such_route", S::NOT_FOUND, "there is nothing at this path"),
            Self::NoResult => ("no_result", S::NOT_FOUND, "the job has not ended, or made no result"),
            Self::MethodNotAllowed => (
                "method_not_allowed",
                S::METHOD_NOT_ALLOWED,
                "the path does not take this method; `Allow` names those it takes",
            ),
            Self::BodyTooSlow => ("body_too_slow", S::REQUEST_TIMEOUT, "the body did not arrive in time"),
            Self::Conflict => ("conflict", S::CONFLICT, "the job stands where that cannot be done"),
            Self::NotPaused => ("not_paused", S::CONFLICT, "what is to be resumed is not paused"),
            Self::NothingToReload => {
                ("nothing_to_reload", S::CONFLICT, "the yard runs on the policies it was built with")
            }
            Self::BodyTooLarge => ("body_too_large", S::PAYLOAD_TOO_LARGE, "the body is larger than what is taken"),
            Self::PayloadTooLarge => {
                ("payload_too_large", S::PAYLOAD_TOO_LARGE, "the payload is larger than any job's may be")
            }
            Self::UnsupportedMediaType => (
                "unsupported_media_type",
                S::UNSUPPORTED_MEDIA_TYPE,
                "the body is said to be something else than application/json",
            ),
            Self::InvalidField => {
                ("invalid_field", S::UNPROCESSABLE_ENTITY, "a field is missing, unknown or wrong; it is named")
            }
            Self::UnknownCapability => (
                "unknown_capability",
                S::UNPROCESSABLE_ENTITY,
                "there is no such capability; those there are, are named",
            ),
            Self::InvalidPayload => (
                "invalid_payload",
                S::UNPROCESSABLE_ENTITY,
                "the payload does not fit the capability's schema; the place is named",
            ),
            Self::IdempotencyKeyReused => (
                "idempotency_key_reused",
                S::UNPROCESSABLE_ENTITY,
                "the key came with another submission before; the job it made is named",
            ),
            Self::NoFeasibleVenue => {
                ("no_feasible_venue", S::UNPROCESSABLE_ENTITY, "no venue can run it; each one's reason is given")
            }
            Self::NotAnEvent => ("not_an_event", S::UNPROCESSABLE_ENTITY, "the body is no event's envelope"),
            Self::InvalidPolicies => (
                "invalid_policies",
                S::UNPROCESSABLE_ENTITY,
                "the policies are broken, and those in force stay; `violations` names all that is wrong",
            ),
            Self::BatchOverQuota => (
                "batch_over_quota",
                S::UNPROCESSABLE_ENTITY,
                "the batch has more new jobs than the caller may ever have unfinished; smaller ones pass",
            ),
            Self::QuotaExceeded => (
                "quota_exceeded",
                S::TOO_MANY_REQUESTS,
                "the caller has submitted as much as it may; Retry-After says when it may again",
            ),
            Self::Internal => ("internal", S::INTERNAL_SERVER_ERROR, "a defect of the yard; its log says more"),
            Self::HomeFailed => {
                ("home_failed", S::INTERNAL_SERVER_ERROR, "what the yard stands on failed; trying again does not help")
            }
            Self::TryAgain => {
                ("try_again", S::SERVICE_UNAVAILABLE, "what the yard stands on failed; trying again can help")
            }
            Self::Busy => ("busy", S::SERVICE_UNAVAILABLE, "as many requests as the yard takes are under way or wait"),
            Self::TookTooLong => (
                "took_too_long",
                S::SERVICE_UNAVAILABLE,
                "no answer in time; what was asked for may have been done all the same",
            ),
            Self::Closing => ("closing", S::SERVICE_UNAVAILABLE, "the yard closes"),
        }
    }

    /// The code as it stands in a problem document.
    pub fn as_str(self) -> &'static str {
        self.told().0
    }

    /// The HTTP status it comes with.
    pub fn status(self) -> StatusCode {
        self.told().1
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        self.told().2
    }
}

/// A problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// What to act on: a [`Code`], as a text because a newer yard may know more of them.
    pub code: String,
    /// What happened, in a sentence.
    pub detail: String,
    /// The request's id, as the log has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// All that is wrong, one a line, where one sentence cannot say it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<String>,
    /// After how many seconds another try makes sense, for the header Retry-After.
    #[serde(skip)]
    pub retry_after_seconds: Option<u64>,
}

impl Problem {
    /// A problem.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let status = code.status();
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self {
            status: status.as_u16(),
            title,
            code: code.as_str().to_owned(),
            detail: detail.into(),
            request_id: None,
            violations: Vec::new(),
            // A home that failed for a moment is asked again at once.
            retry_after_seconds: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // Whoever knows the request's id writes it into the document.
        response.extensions_mut().insert(self);
        response
    }
}

/// The code of a submission that is not accepted.
pub(crate) fn code_of(rejected: &Rejected) -> Code {
    match rejected {
        Rejected::NotJson(_) => Code::NotJson,
        Rejected::Field { .. } => Code::InvalidField,
        Rejected::UnknownCapability { .. } => Code::UnknownCapability,
        Rejected::Payload(_) => Code::InvalidPayload,
        Rejected::TooLarge { .. } => Code::PayloadTooLarge,
        Rejected::BadKey => Code::InvalidIdempotencyKey,
        Rejected::KeyReused(_) => Code::IdempotencyKeyReused,
        Rejected::NoFeasibleVenue(_) => Code::NoFeasibleVenue,
    }
}

impl From<Rejected> for Problem {
    fn from(rejected: Rejected) -> Self {
        Self::new(code_of(&rejected), rejected.to_string())
    }
}

impl From<OverQuota> for Problem {
    fn from(over: OverQuota) -> Self {
        match over.retry_after_seconds() {
            None => Self::new(Code::BatchOverQuota, over.to_string()),
            after => Self { retry_after_seconds: after, ..Self::new(Code::QuotaExceeded, over.to_string()) },
        }
    }
}

impl From<PortError> for Problem {
    fn from(error: PortError) -> Self {
        // The chain is told once, here: to the log, and to the caller.
        let chain = describe(&error);
        tracing::error!(error = %chain, retryable = error.retryable, "the home failed");
        Self::new(if error.retryable { Code::TryAgain } else { Code::HomeFailed }, chain)
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::NotFound(_) => Self::new(Code::NoSuchJob, error.to_string()),
            AskError::Conflict { .. } => Self::new(Code::Conflict, error.to_string()),
            AskError::Port(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use switchyard_core::job::JobId;

    use super::*;

    #[test]
    fn every_code_is_listed_once_by_status_and_means_something() {
        let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.is_sorted_by_key(|code| code.status().as_u16()));
        for code in Code::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
            assert!(code.meaning().len() > 10 && !code.meaning().ends_with('.'), "{code:?}");
            assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code:?}");
        }
    }

    #[test]
    fn what_intake_rejects_keeps_its_own_code() {
        let rejected = [
            Rejected::NotJson("x".to_owned()),
            Rejected::Field { path: "x".to_owned(), message: "y".to_owned() },
            Rejected::UnknownCapability { name: "x".to_owned(), known: "y".to_owned() },
            Rejected::TooLarge { bytes: 7 },
            Rejected::BadKey,
            Rejected::KeyReused(JobId::keyed("a", "b")),
        ];
        for rejected in rejected {
            assert_eq!(code_of(&rejected).as_str(), rejected.code());
        }
    }
}
