//! Jobs over HTTP: submit, look, cancel, retry.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchyard_core::catalog::Capability;
use switchyard_core::intake::{self, Prepared, Rejected, Sender, Taken, Taking};
use switchyard_core::job::{Job, JobId, Phase, State as JobState, one_line};
use switchyard_core::policies::Situation;
use switchyard_core::ports::{Body, Message, PortError};
use switchyard_core::wire::{EntryView, JobView, LogView};
use switchyard_core::{ports, settle};

use crate::problem::Problem;
use crate::{Api, WAIT_SECONDS};

/// Jobs on a page unless asked otherwise.
const PAGE: usize = 50;
/// How often a log that somebody follows is read again, while its job runs and they wait.
const FOLLOW: Duration = Duration::from_millis(250);

/// Who calls. One token, one caller: roles come with more tokens.
pub(crate) const CALLER: &str = "local";

/// A job, and its result where it has one and is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobAnswer {
    /// The job.
    #[serde(flatten)]
    pub job: JobView,
    /// What it made, once it succeeded; where the answer waited for its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

/// A page of jobs, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobsPage {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// Where the next page starts, when there may be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A job's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineAnswer {
    /// What happened, oldest first.
    pub timeline: Vec<EntryView>,
}

/// A part of a job's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsPage {
    /// The lines, oldest first.
    pub lines: Vec<LogView>,
    /// Where the next part starts.
    pub next: String,
    /// Whether nothing more will come: the job has ended and this was the rest.
    pub done: bool,
}

/// Numbers are taken as texts, so that a wrong one is refused in this router's words.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitQuery {
    wait: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    state: Option<String>,
    capability: Option<String>,
    label: Option<String>,
    since: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogsQuery {
    #[serde(default)]
    cursor: String,
    wait: Option<String>,
}

pub(crate) fn invalid(field: &str, message: impl std::fmt::Display) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", format!("parameter `{field}`: {message}"))
}

pub(crate) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|rejection| {
        let text = rejection.body_text();
        // The reason follows the framework's own words; a name in it is the caller's.
        let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
        Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", one_line(reason, 300))
    })
}

/// A number of a query, within what it may be.
fn number(field: &str, text: Option<String>, may_be: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    match text.parse() {
        Ok(number) if may_be.contains(&number) => Ok(Some(number)),
        Ok(_) | Err(_) => Err(invalid(field, format!("expected a number from {} to {}", may_be.start(), may_be.end()))),
    }
}

fn wait(seconds: Option<String>) -> Result<Duration, Problem> {
    Ok(Duration::from_secs(number("wait", seconds, 0..=WAIT_SECONDS)?.unwrap_or_default()))
}

/// The job id in a path.
pub(crate) struct Id(JobId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| invalid("id", "it is not UTF-8 once decoded"))?;
        text.parse().map(Self).map_err(|error| invalid("id", error))
    }
}

fn not_found(id: JobId) -> Problem {
    settle::AskError::NotFound(id).into()
}

/// POST /v1/jobs
pub(crate) async fn submit(
    State(api): State<Arc<Api>>,
    wait_query: Result<Query<WaitQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let patience = wait(query(wait_query)?.wait)?;
    let body = body?;
    let key = match headers.get("idempotency-key") {
        None => None,
        Some(key) => Some(key.to_str().map_err(|_| Rejected::BadKey)?.to_owned()),
    };
    let (submission, digest) = intake::read(&body)?;
    let prepared = match prepare(&api, &api.yard.situation().await, &submission, digest, key.as_deref()) {
        Ok(prepared) => prepared,
        // What was accepted once is answered under its key, whatever the catalog says today.
        Err(rejected) => match known(&api, key.as_deref(), digest).await? {
            Some(job) => return answer(&api, Taken { job, fresh: false }, patience).await,
            None => return Err(rejected.into()),
        },
    };
    let taken = take(&api, vec![prepared]).await?;
    let Some(taken) = taken.into_iter().next() else {
        return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the ledger answered for no job"));
    };
    answer(&api, taken?, patience).await
}

/// The job that was accepted under this key from this very body.
async fn known(api: &Api, key: Option<&str>, digest: [u8; 32]) -> Result<Option<Job>, PortError> {
    let Some(key) = key else { return Ok(None) };
    let job = api.yard.ledger.load(JobId::keyed(CALLER, key)).await?;
    Ok(job.filter(|job| job.work.body_sha256 == digest))
}

/// The answer to a submission: the job, as soon as it has ended, or as it is when patience ends.
async fn answer(api: &Api, Taken { job, fresh }: Taken, patience: Duration) -> Result<Response, Problem> {
    let id = job.id;
    let job = until_settled(api, id, patience).await?.unwrap_or(job);
    let result = if patience.is_zero() && !job.is_settled() { None } else { result_of(api, &job).await? };
    let status = if job.is_settled() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = (status, Json(JobAnswer { job: JobView::from(&job), result })).into_response();
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/jobs/{id}")) {
        headers.insert(header::LOCATION, location);
    }
    if !fresh {
        headers.insert(HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));
    }
    Ok(response)
}

pub(crate) fn prepare(
    api: &Api,
    situation: &Situation,
    submission: &intake::Submission,
    digest: [u8; 32],
    key: Option<&str>,
) -> Result<Prepared, Rejected> {
    let yard = &api.yard;
    let taking = Taking { invocation_left: api.inline.left(), companions: 0 };
    intake::prepare(
        submission,
        digest,
        Sender { caller: CALLER, key },
        situation,
        taking,
        yard.ambient.now(),
        yard.ambient.random(),
    )
}

/// Accepts, and runs what was routed inline. A task of its own: a caller that hangs up changes nothing.
pub(crate) async fn take(api: &Arc<Api>, prepared: Vec<Prepared>) -> Result<Vec<Result<Taken, Rejected>>, Problem> {
    let api = Arc::clone(api);
    let accepting = tokio::spawn(async move {
        let taken = intake::accept(&api.yard, prepared).await?;
        for taken in taken.iter().flatten().filter(|taken| taken.runs_here()) {
            let message = Message { id: taken.job.id, epoch: taken.job.epoch };
            if let Err(error) = api.inline.run(&api.yard, message).await {
                tracing::warn!(job.id = %message.id, %error, "inline run not recorded; the reaper hands it on");
            }
        }
        Ok::<_, PortError>(taken)
    });
    match accepting.await {
        Ok(taken) => Ok(taken?),
        Err(error) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())),
    }
}

/// The job, as soon as it has ended, or as it is when patience ends.
async fn until_settled(api: &Api, id: JobId, patience: Duration) -> Result<Option<Job>, PortError> {
    let until = tokio::time::Instant::now() + patience;
    let mut seen = 0;
    loop {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        match api.yard.ledger.watch(id, seen, left).await? {
            Some(job) if !job.is_settled() && !left.is_zero() => seen = job.revision,
            job => return Ok(job),
        }
    }
}

/// The result's JSON, when there is one.
async fn result_of(api: &Api, job: &Job) -> Result<Option<Value>, Problem> {
    match result_text(api, job).await? {
        None => Ok(None),
        Some(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| PortError::permanent("read the result of", format!("job {}", job.id), error).into()),
    }
}

async fn result_text(api: &Api, job: &Job) -> Result<Option<String>, Problem> {
    let JobState::Settled(settlement) = &job.state else { return Ok(None) };
    let Some(result) = settlement.result else { return Ok(None) };
    let body = api.yard.ledger.result(job.id, result.epoch).await?;
    let text = match body {
        Some(Body::Inline(text)) => Some(text),
        Some(Body::Blob(blob)) => api.yard.blobs.get(&blob).await?,
        None => None,
    };
    match text {
        Some(text) => Ok(Some(text)),
        None => Err(PortError::permanent("read the result of", format!("job {}", job.id), "it is not there").into()),
    }
}

/// GET /v1/jobs/{id}
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Id(id): Id,
    wait_query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Json<JobAnswer>, Problem> {
    let patience = wait(query(wait_query)?.wait)?;
    let job = until_settled(&api, id, patience).await?.ok_or_else(|| not_found(id))?;
    let result = if patience.is_zero() { None } else { result_of(&api, &job).await? };
    Ok(Json(JobAnswer { job: JobView::from(&job), result }))
}

async fn load(api: &Api, id: JobId) -> Result<Job, Problem> {
    api.yard.ledger.load(id).await?.ok_or_else(|| not_found(id))
}

/// GET /v1/jobs/{id}/timeline
pub(crate) async fn timeline(State(api): State<Arc<Api>>, Id(id): Id) -> Result<Json<TimelineAnswer>, Problem> {
    let job = load(&api, id).await?;
    Ok(Json(TimelineAnswer { timeline: job.timeline.iter().map(EntryView::from).collect() }))
}

/// GET /v1/jobs/{id}/result
pub(crate) async fn result(State(api): State<Arc<Api>>, Id(id): Id) -> Result<Response, Problem> {
    let job = load(&api, id).await?;
    match result_text(&api, &job).await? {
        Some(text) => Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response()),
        None => {
            let detail = if job.is_settled() { "it made no result" } else { "it has not ended yet" };
            let detail = format!("job {} is {}: {detail}", job.id, job.phase());
            Err(Problem::new(StatusCode::NOT_FOUND, "no_result", detail))
        }
    }
}

/// GET /v1/jobs
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    list_query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<JobsPage>, Problem> {
    let query = query(list_query)?;
    let limit = number("limit", query.limit, 1..=500)?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE);
    let label = match &query.label {
        None => None,
        Some(label) => {
            let pair = label.split_once('=').ok_or_else(|| invalid("label", "expected NAME=VALUE"))?;
            Some((pair.0.to_owned(), pair.1.to_owned()))
        }
    };
    let asked = ports::Query {
        phase: query.state.map(|state| Phase::from_str(&state)).transpose().map_err(|error| invalid("state", error))?,
        capability: query.capability,
        label,
        before: query.cursor.map(|cursor| read_cursor(&cursor)).transpose()?,
        since: query
            .since
            .map(|since| since.parse::<Timestamp>())
            .transpose()
            .map_err(|_| invalid("since", "expected a time such as 2026-01-31T12:00:00Z"))?,
        limit,
    };
    let jobs = api.yard.ledger.list(&asked).await?;
    let next = if jobs.len() < limit { None } else { jobs.last().map(cursor) };
    Ok(Json(JobsPage { jobs: jobs.iter().map(JobView::from).collect(), next }))
}

fn cursor(job: &Job) -> String {
    format!("{}.{}", job.created.as_millisecond(), job.id)
}

fn read_cursor(cursor: &str) -> Result<(Timestamp, JobId), Problem> {
    let wrong = || invalid("cursor", "expected what the last page gave as `next`");
    let (created, id) = cursor.split_once('.').ok_or_else(wrong)?;
    let created = created.parse().ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).ok_or_else(wrong)?;
    Ok((created, id.parse().map_err(|_| wrong())?))
}

/// GET /v1/jobs/{id}/logs
pub(crate) async fn logs(
    State(api): State<Arc<Api>>,
    Id(id): Id,
    logs_query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Json<LogsPage>, Problem> {
    let LogsQuery { cursor, wait: seconds } = query(logs_query)?;
    let until = tokio::time::Instant::now() + wait(seconds)?;
    let mut job = load(&api, id).await?;
    loop {
        // The job before its log: what it printed last is there when it has ended.
        let page = api.yard.logs.read(job.id, &cursor).await?;
        let done = job.is_settled() && page.lines.is_empty();
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        if !page.lines.is_empty() || done || left.is_zero() {
            let lines = page.lines.iter().map(|(epoch, line)| LogView::of(*epoch, line)).collect();
            return Ok(Json(LogsPage { lines, next: page.next, done }));
        }
        let (id, seen) = (job.id, job.revision);
        let patience = if job.phase() == Phase::Running { left.min(FOLLOW) } else { left };
        job = api.yard.ledger.watch(id, seen, patience).await?.ok_or_else(|| not_found(id))?;
    }
}

/// POST /v1/jobs/{id}/cancel
pub(crate) async fn cancel(State(api): State<Arc<Api>>, Id(id): Id) -> Result<Response, Problem> {
    let job = settle::cancel_job(&api.yard, id, CALLER).await?;
    // Accepted, not done: a run is asked to end, and its holder settles.
    let status = if job.is_settled() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(JobView::from(&job))).into_response())
}

/// POST /v1/jobs/{id}/retry
pub(crate) async fn retry(State(api): State<Arc<Api>>, Id(id): Id) -> Result<Response, Problem> {
    let job = settle::retry_job(&api.yard, id, CALLER).await?;
    Ok((StatusCode::ACCEPTED, Json(JobView::from(&job))).into_response())
}

/// GET /v1/capabilities
pub(crate) async fn capabilities(State(api): State<Arc<Api>>) -> Json<Value> {
    let policies = api.yard.policies();
    let observed = |capability: &Capability| {
        let observed = api.yard.shelf.observed().of(&capability.name)?;
        Some(observed.view(&capability.needs, &policies.limits))
    };
    let capabilities: Vec<Value> = policies
        .catalog
        .iter()
        .map(|capability| {
            serde_json::json!({
                "name": capability.name,
                "summary": capability.summary,
                "input": capability.input,
                "timeout_seconds": capability.timeout.as_secs(),
                "expected_seconds": capability.needs.expected.map(|expected| expected.as_secs()),
                "attempts": capability.retry.attempts,
                "observed": observed(capability),
            })
        })
        .collect();
    Json(serde_json::json!({ "capabilities": capabilities }))
}
