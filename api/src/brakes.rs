//! The brakes over HTTP: pause, resume, and the yard at a glance.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use switchyard_core::brake::{self, Pause, Scope};
use switchyard_core::intake::Rejected;
use switchyard_core::job::one_line;
use switchyard_core::wire::{ScopeView, YardView};

use crate::Api;
use crate::jobs::CALLER;
use crate::problem::Problem;

/// What is counted as lately ended.
const LATELY: Duration = Duration::from_secs(3600);
/// The longest reason of a pause, in bytes: a line, as it stands in every held job's answer.
const REASON_BYTES: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseBody {
    scope: ScopeView,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResumeBody {
    scope: ScopeView,
}

fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    let value: Value =
        serde_json::from_slice(&body?).map_err(|error| Rejected::NotJson(one_line(&error.to_string(), 200)))?;
    let wrong =
        |error: serde_json::Error| Rejected::Field { path: String::new(), message: one_line(&error.to_string(), 300) };
    Ok(serde_json::from_value(value).map_err(wrong)?)
}

async fn glance(api: &Api) -> Result<Json<YardView>, Problem> {
    let yard = &api.yard;
    let now = yard.ambient.now();
    let (depths, pauses) = (yard.ledger.depths(now - LATELY).await?, yard.ledger.pauses().await?);
    Ok(Json(YardView::of(&depths, pauses.iter(), &yard.policies().catalog, now)))
}

/// GET /v1/yard
pub(crate) async fn yard(State(api): State<Arc<Api>>) -> Result<Json<YardView>, Problem> {
    glance(&api).await
}

/// POST /v1/pause
pub(crate) async fn pause(
    State(api): State<Arc<Api>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<YardView>, Problem> {
    let PauseBody { scope, reason } = read(body)?;
    let scope = Scope::from(scope);
    if let Scope::Capability(name) = &scope
        && api.yard.policies().catalog.get(name).is_none()
    {
        let detail = format!("there is no capability `{}` to pause", one_line(name, 64));
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_capability", detail));
    }
    let reason = one_line(&reason, REASON_BYTES);
    tracing::info!(%scope, by = CALLER, reason, "paused");
    brake::pause(&api.yard, Pause { scope, by: CALLER.to_owned(), at: api.yard.ambient.now(), reason }).await?;
    glance(&api).await
}

/// POST /v1/resume
pub(crate) async fn resume(
    State(api): State<Arc<Api>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<YardView>, Problem> {
    let scope = Scope::from(read::<ResumeBody>(body)?.scope);
    let resuming = {
        let (api, scope) = (Arc::clone(&api), scope.clone());
        // A task of its own: a caller that hangs up leaves no job held that may go.
        tokio::spawn(async move { brake::resume(&api.yard, &scope).await })
    };
    let lifted = resuming
        .await
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))??;
    if lifted.is_none() {
        let detail = format!("{scope} is not paused");
        return Err(Problem::new(StatusCode::CONFLICT, "not_paused", detail));
    }
    tracing::info!(%scope, by = CALLER, "resumed");
    glance(&api).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use async_trait::async_trait;
    use axum::extract::Query;
    use axum::http::{HeaderMap, HeaderValue};
    use axum::response::{IntoResponse, Response};
    use jiff::Timestamp;
    use serde_json::json;
    use switchyard_core::catalog::Catalog;
    use switchyard_core::job::{Holder, Nonce, Phase};
    use switchyard_core::memory::Memory;
    use switchyard_core::policies::Policies;
    use switchyard_core::ports::{Assignment, Executor, LogSink, Outcome};
    use switchyard_core::quota::{Quota, Rate};
    use switchyard_core::route::Limits;
    use switchyard_core::settle::YardDesk;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::jobs::{WaitQuery, submit};
    use crate::{Inline, TokenDigest};

    struct Idle;

    #[async_trait]
    impl Executor for Idle {
        async fn run(&self, _: &Assignment, _: &dyn LogSink) -> Outcome {
            Outcome::Succeeded(None)
        }
    }

    /// A yard in memory that runs nothing, and lets a caller have three jobs at once.
    fn api() -> Arc<Api> {
        let text = "version: 1\ncapabilities:\n  - name: greet\n    summary: says hello\n    run: { command: [echo] }\n    limits: { concurrent: 1 }\n";
        let catalog = Catalog::parse("c.yaml", text, &[], &BTreeMap::new()).unwrap();
        let yard = Memory::new(Timestamp::UNIX_EPOCH, 1).yard(catalog, Limits::one_machine(1024));
        let mut ruled: Policies = (*yard.policies()).clone();
        ruled.quotas.every = Quota { rate: Some(Rate { jobs_per_minute: 6, burst: 3 }), open_jobs: None };
        yard.shelf.replace(ruled);
        let inline = Inline {
            desk: Arc::new(YardDesk(yard.clone())),
            executor: Arc::new(Idle),
            holder: Holder::new("inline", Nonce(1)),
            places: Arc::new(Semaphore::new(1)),
            budget: Duration::from_secs(29),
        };
        Arc::new(Api { yard, inline, token: TokenDigest::of("token"), compute: "local" })
    }

    async fn submitted(api: &Arc<Api>, key: &str) -> Response {
        let headers = HeaderMap::from_iter([("idempotency-key".parse().unwrap(), HeaderValue::from_str(key).unwrap())]);
        let query = Query(serde_json::from_value::<WaitQuery>(json!({})).unwrap());
        let body = Bytes::from_static(br#"{"capability":"greet"}"#);
        submit(State(Arc::clone(api)), Ok(query), headers, Ok(body)).await.into_response()
    }

    fn said(body: &Value) -> Result<Bytes, BytesRejection> {
        Ok(Bytes::from(body.to_string()))
    }

    #[tokio::test]
    async fn over_quota_is_429_with_a_time_and_a_known_key_is_answered_all_the_same() {
        let api = api();
        for key in ["a", "b", "c"] {
            assert_eq!(submitted(&api, key).await.status(), StatusCode::ACCEPTED);
        }
        let refused = submitted(&api, "d").await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers()["retry-after"], "10");
        let repeated = submitted(&api, "a").await;
        assert_eq!(
            (repeated.status(), &repeated.headers()["idempotency-replayed"]),
            (StatusCode::ACCEPTED, &HeaderValue::from_static("true"))
        );
    }

    #[tokio::test]
    async fn the_yard_shows_its_pauses_and_what_they_hold() {
        let api = api();
        for key in ["a", "b"] {
            submitted(&api, key).await;
        }
        let Json(view) = yard(State(Arc::clone(&api))).await.unwrap();
        let limit = &view.capabilities[0];
        assert_eq!((limit.limit, limit.used, limit.held), (Some(1), 1, 1));
        let body = json!({ "scope": { "tier": "standard" }, "reason": "a\u{1b}[2Jb" });
        let Json(view) = pause(State(Arc::clone(&api)), said(&body)).await.unwrap();
        assert_eq!((view.pauses.len(), view.pauses[0].reason.as_str()), (1, "a [2Jb"), "safe on a terminal");
        submitted(&api, "c").await;
        let Json(view) = yard(State(Arc::clone(&api))).await.unwrap();
        assert_eq!((view.tiers[2].waiting, view.tiers[2].held), (1, 2));
        assert!(view.open.iter().any(|count| (count.state, count.jobs) == (Phase::Held, 2)));
        let scope = json!({ "scope": { "tier": "standard" } });
        let Json(view) = resume(State(Arc::clone(&api)), said(&scope)).await.unwrap();
        assert_eq!(view.pauses, []);
        let again = resume(State(Arc::clone(&api)), said(&scope)).await.unwrap_err();
        assert_eq!((again.status, again.code.as_str()), (409, "not_paused"));
    }

    #[tokio::test]
    async fn what_cannot_be_paused_is_refused_with_the_reason() {
        let api = api();
        let mut told = Vec::new();
        for body in [
            json!({}),
            json!({ "scope": "everything" }),
            json!({ "scope": { "tier": "fast" } }),
            json!({ "scope": { "capability": "gret" } }),
            json!({ "scope": "all", "until": 7 }),
        ] {
            let refused = pause(State(Arc::clone(&api)), said(&body)).await.unwrap_err();
            told.push(format!("{} {:<20} {}", refused.status, refused.code, refused.detail));
        }
        assert_eq!(told[3], "422 unknown_capability   there is no capability `gret` to pause");
        assert!(told.iter().all(|line| line.starts_with("422 ")), "{told:#?}");
    }
}
