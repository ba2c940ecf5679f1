//! What a request says in its path and query. An unknown parameter is refused: a mistyped filter must not show
//! everything.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use switchyard_core::job::{JobId, one_line};

use crate::WAIT_SECONDS;
use crate::problem::{Code, Problem};

/// The query of a route. Numbers are taken as texts, so that a wrong one is refused in this router's words.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::<T>::try_from_uri(&parts.uri).map(|Query(query)| Self(query)).map_err(|rejection| {
            let text = rejection.body_text();
            // The reason follows the framework's own words; a name in it is the caller's.
            let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
            Problem::new(Code::InvalidParameter, one_line(reason, 300))
        })
    }
}

/// The query of a route that takes none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// `?wait=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitQuery {
    pub(crate) wait: Option<String>,
}

/// What a list is narrowed by.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    pub(crate) state: Option<String>,
    pub(crate) capability: Option<String>,
    pub(crate) label: Option<String>,
    pub(crate) since: Option<String>,
    pub(crate) limit: Option<String>,
    pub(crate) cursor: Option<String>,
}

/// Which part of a list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    pub(crate) limit: Option<String>,
    pub(crate) cursor: Option<String>,
}

/// Which records of loans.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoansQuery {
    pub(crate) job: Option<String>,
    pub(crate) since: Option<String>,
    pub(crate) limit: Option<String>,
    pub(crate) cursor: Option<String>,
}

/// What of a result: nothing said means the result itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResultQuery {
    pub(crate) kind: Option<String>,
    pub(crate) limit: Option<String>,
    pub(crate) cursor: Option<String>,
}

/// What a register is narrowed by.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegisteredQuery {
    pub(crate) since: Option<String>,
    pub(crate) capability: Option<String>,
    pub(crate) limit: Option<String>,
    pub(crate) cursor: Option<String>,
}

/// Where in a log, and how long to wait for more of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogsQuery {
    #[serde(default)]
    pub(crate) cursor: String,
    pub(crate) wait: Option<String>,
}

/// A parameter that is wrong.
pub(crate) fn invalid(field: &str, message: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidParameter, format!("parameter `{field}`: {message}"))
}

/// A number of a query, within what it may be.
pub(crate) fn number(field: &str, text: Option<String>, may_be: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    match text.parse() {
        Ok(number) if may_be.contains(&number) => Ok(Some(number)),
        Ok(_) | Err(_) => Err(invalid(field, format!("expected a number from {} to {}", may_be.start(), may_be.end()))),
    }
}

/// How long the answer may be held back.
pub(crate) fn wait(seconds: Option<String>) -> Result<Duration, Problem> {
    Ok(Duration::from_secs(number("wait", seconds, 0..=WAIT_SECONDS)?.unwrap_or_default()))
}

/// The job id in a path.
pub(crate) struct Id(pub(crate) JobId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| invalid("id", "it is not UTF-8 once decoded"))?;
        text.parse().map(Self).map_err(|error| invalid("id", error))
    }
}
