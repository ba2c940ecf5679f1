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
