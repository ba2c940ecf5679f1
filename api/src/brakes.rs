//! The brakes over HTTP: pause, resume, and the yard at a glance.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use switchyard_core::brake::{self, Pause, Scope};
use switchyard_core::intake;
use switchyard_core::job::one_line;
use switchyard_core::wire::{ScopeView, YardView};
use utoipa::ToSchema;

use crate::admit::Caller;
use crate::body::Whole;
use crate::params::{Nothing, Params};
use crate::problem::{Code, Problem};
use crate::{Api, BODY_BYTES};

/// What is counted as lately ended.
const LATELY: Duration = Duration::from_secs(3600);
/// The longest reason of a pause, in bytes: a line, as it stands in every held job's answer.
const REASON_BYTES: usize = 200;

/// What is to be paused, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Pause)]
pub(crate) struct PauseBody {
    /// What.
    scope: ScopeView,
    /// Why: what everybody who waits is told.
    #[serde(default)]
    reason: String,
}

/// What is to go on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Resume)]
pub(crate) struct ResumeBody {
    /// What.
    scope: ScopeView,
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    Ok(intake::read_fields(intake::read_json(body)?)?)
}

async fn glance(api: &Api) -> Result<Json<YardView>, Problem> {
    let yard = &api.yard;
    let now = yard.ambient.now();
    let (depths, pauses) = (yard.ledger.depths(now - LATELY).await?, yard.ledger.pauses().await?);
    Ok(Json(YardView::of(&depths, pauses.iter(), &yard.policies().catalog, now)))
}

/// GET /v1/yard
pub(crate) async fn yard(State(api): State<Arc<Api>>, _: Params<Nothing>) -> Result<Json<YardView>, Problem> {
    glance(&api).await
}

/// POST /v1/pause
pub(crate) async fn pause(
    State(api): State<Arc<Api>>,
    caller: Caller,
    _: Params<Nothing>,
    Whole(body, _room): Whole<BODY_BYTES>,
) -> Result<Json<YardView>, Problem> {
    let PauseBody { scope, reason } = read(&body)?;
    let scope = Scope::from(scope);
    if let Scope::Capability(name) = &scope
        && api.yard.policies().catalog.get(name).is_none()
    {
        let detail = format!("there is no capability `{}` to pause", one_line(name, 64));
        return Err(Problem::new(Code::UnknownCapability, detail));
    }
    let reason = one_line(&reason, REASON_BYTES);
    tracing::info!(%scope, caller = caller.name, reason, "paused");
    brake::pause(&api.yard, Pause { scope, by: caller.name, at: api.yard.ambient.now(), reason }).await?;
    glance(&api).await
}

/// POST /v1/resume
pub(crate) async fn resume(
    State(api): State<Arc<Api>>,
    caller: Caller,
    _: Params<Nothing>,
    Whole(body, _room): Whole<BODY_BYTES>,
) -> Result<Json<YardView>, Problem> {
    let scope = Scope::from(read::<ResumeBody>(&body)?.scope);
    let resuming = {
        let (api, scope) = (Arc::clone(&api), scope.clone());
        // A task of its own: a caller that hangs up leaves no job held that may go.
        tokio::spawn(async move { brake::resume(&api.yard, &scope).await })
    };
    let lifted = resuming.await.map_err(|error| Problem::new(Code::Internal, error.to_string()))??;
    if lifted.is_none() {
        let detail = format!("{scope} is not paused");
        return Err(Problem::new(Code::NotPaused, detail));
    }
    tracing::info!(%scope, caller = caller.name, "resumed");
    glance(&api).await
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, StatusCode};
    use axum::response::{IntoResponse, Response};
    use serde_json::{Value, json};
    use switchyard_core::catalog::Catalog;
    use switchyard_core::job::Phase;
    use switchyard_core::policies::Policies;
    use switchyard_core::quota::{Quota, Rate};

    use super::*;
    use crate::admit::Role;
    use crate::jobs::submit;
    use crate::params::WaitQuery;
    use crate::testing;

    /// A yard in memory that runs nothing, and lets a caller have three jobs at once.
    fn api() -> Arc<Api> {
        let text = "version: 1\ncapabilities:\n  - name: greet\n    summary: says hello\n    run: { command: [echo] }\n    limits: { concurrent: 1 }\n";
        let api = testing::api();
        let mut ruled: Policies = (*api.yard.policies()).clone();
        ruled.catalog = Catalog::parse("c.yaml", text, &[], &std::collections::BTreeMap::new()).unwrap();
        ruled.quotas.every = Quota { rate: Some(Rate { jobs_per_minute: 6, burst: 3 }), open_jobs: None };
        api.yard.shelf.replace(ruled, api.yard.ambient.now());
        api
    }

    fn ci() -> Caller {
        Caller { name: "ci".to_owned(), role: Role::Operator }
    }

    fn said<const MOST: usize>(body: &Value) -> Whole<MOST> {
        Whole(body.to_string().into_bytes(), None)
    }

    async fn submitted(api: &Arc<Api>, key: &str) -> Response {
        let headers = HeaderMap::from_iter([("idempotency-key".parse().unwrap(), HeaderValue::from_str(key).unwrap())]);
        let query = Params(WaitQuery { wait: None });
        submit(State(Arc::clone(api)), ci(), testing::trace(), query, headers, said(&json!({ "capability": "greet" })))
            .await
            .into_response()
    }

    async fn paused(api: &Arc<Api>, body: &Value) -> Result<Json<YardView>, Problem> {
        pause(State(Arc::clone(api)), ci(), Params(Nothing {}), said(body)).await
    }

    async fn resumed(api: &Arc<Api>, body: &Value) -> Result<Json<YardView>, Problem> {
        resume(State(Arc::clone(api)), ci(), Params(Nothing {}), said(body)).await
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
        let Json(view) = yard(State(Arc::clone(&api)), Params(Nothing {})).await.unwrap();
        let limit = &view.capabilities[0];
        assert_eq!((limit.limit, limit.used, limit.held), (Some(1), 1, 1));
        let body = json!({ "scope": { "tier": "standard" }, "reason": "a\u{1b}[2Jb" });
        let Json(view) = paused(&api, &body).await.unwrap();
        assert_eq!((view.pauses.len(), view.pauses[0].reason.as_str()), (1, "a [2Jb"), "safe on a terminal");
        submitted(&api, "c").await;
        let Json(view) = yard(State(Arc::clone(&api)), Params(Nothing {})).await.unwrap();
        assert_eq!((view.tiers[2].waiting, view.tiers[2].held), (1, 2));
        assert!(view.open.iter().any(|count| (count.state, count.jobs) == (Phase::Held, 2)));
        let scope = json!({ "scope": { "tier": "standard" } });
        let Json(view) = resumed(&api, &scope).await.unwrap();
        assert_eq!(view.pauses, []);
        let again = resumed(&api, &scope).await.unwrap_err();
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
            json!(["all", "for no reason"]),
        ] {
            let refused = paused(&api, &body).await.unwrap_err();
            told.push(format!("{} {:<20} {}", refused.status, refused.code, refused.detail));
        }
        assert_eq!(told[3], "422 unknown_capability   there is no capability `gret` to pause");
        assert!(told.iter().all(|line| line.starts_with("422 ")), "{told:#?}");
    }
}
