//! Jobs over HTTP: submit, look, cancel, retry.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchyard_core::intake::{self, Prepared, Rejected, Sender, Taken, Taking};
use switchyard_core::job::{Ending, Job, JobId, Phase, State as JobState};
use switchyard_core::policies::Situation;
use switchyard_core::ports::{Body, Message, PortError};
use switchyard_core::why::{self, Facts};
use switchyard_core::wire::{EntryView, JobView};
use switchyard_core::{ports, quota, settle};
use tracing::Instrument;
use utoipa::ToSchema;

use crate::admit::Caller;
use crate::body::Whole;
use crate::params::{Id, ListQuery, Nothing, Params, ResultQuery, WaitQuery, invalid, number, wait};
use crate::problem::{Code, Problem};
use crate::request::Trace;
use crate::watch::until_settled;
use crate::{Api, BODY_BYTES, records};

/// Jobs on a page unless asked otherwise.
const PAGE: usize = 50;

/// A job, and its result where it has one and is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobAnswer {
    /// The job.
    #[serde(flatten)]
    pub job: JobView,
    /// What it made, once it succeeded; where the answer waited for its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

/// A page of jobs, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobsPage {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// Where the next page starts, when there may be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A job's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimelineAnswer {
    /// What happened, oldest first.
    pub timeline: Vec<EntryView>,
}

pub(crate) fn not_found(id: JobId) -> Problem {
    settle::AskError::NotFound(id).into()
}

/// POST /v1/jobs
pub(crate) async fn submit(
    State(api): State<Arc<Api>>,
    caller: Caller,
    trace: Trace,
    Params(WaitQuery { wait: seconds }): Params<WaitQuery>,
    headers: HeaderMap,
    Whole(body, _room): Whole<BODY_BYTES>,
) -> Result<Response, Problem> {
    let patience = wait(seconds)?.min(api.edge.limits.wait);
    let key = match headers.get("idempotency-key") {
        None => None,
        Some(key) => Some(key.to_str().map_err(|_| Rejected::BadKey)?.to_owned()),
    };
    let (submission, digest) = intake::read(&body)?;
    let situation = api.yard.situation().await;
    let taking = Taking { invocation_left: api.inline.left(), companions: 0 };
    let prepared = match prepare(
        &api,
        Sender { caller: &caller.name, key: key.as_deref() },
        &situation,
        taking,
        &submission,
        digest,
    ) {
        Ok(prepared) => prepared,
        // What was accepted once is answered under its key, whatever the catalog says today.
        Err(rejected) => match known(&api, &caller, key.as_deref(), digest).await? {
            Some(job) => return answer(&api, Taken { job, fresh: false }, patience).await,
            None => return Err(rejected.into()),
        },
    };
    if let Err(over) = quota::charge(&api.yard, &caller.name, 1).await? {
        // A repeat asks for nothing new: it is looked for only here, so that nobody else pays for looking.
        return match known(&api, &caller, key.as_deref(), digest).await? {
            Some(job) => answer(&api, Taken { job, fresh: false }, patience).await,
            None => Err(over.into()),
        };
    }
    let taken = take(&api, trace, vec![prepared]).await?;
    let Some(taken) = taken.into_iter().next() else {
        return Err(Problem::new(Code::Internal, "the ledger answered for no job"));
    };
    answer(&api, taken?, patience).await
}

/// The job that was accepted under this key from this very body.
pub(crate) async fn known(
    api: &Api,
    caller: &Caller,
    key: Option<&str>,
    digest: [u8; 32],
) -> Result<Option<Job>, PortError> {
    let Some(key) = key else { return Ok(None) };
    let job = api.yard.ledger.load(JobId::keyed(&caller.name, key)).await?;
    Ok(job.filter(|job| job.work.body_sha256 == digest))
}

/// The job as it is shown, with why it is where it is.
pub(crate) async fn view(api: &Api, job: &Job) -> Result<JobView, PortError> {
    let facts = why::facts(&api.yard, job).await?;
    Ok(JobView::of(job, &api.yard.situation().await, &facts))
}

/// The answer to a submission: the job, as soon as it has ended, or as it is when patience ends.
async fn answer(api: &Api, Taken { job, fresh }: Taken, patience: Duration) -> Result<Response, Problem> {
    let id = job.id;
    let job = until_settled(api, id, patience).await?.unwrap_or(job);
    let result = if patience.is_zero() && !job.is_settled() { None } else { result_of(api, &job).await? };
    let status = if job.is_settled() { StatusCode::OK } else { StatusCode::ACCEPTED };
    // What else stands before it is counted for whoever asks for the job: accepting must not cost a look at the queue.
    let shown = JobView::of(&job, &api.yard.situation().await, &Facts::default());
    let mut response = (status, Json(JobAnswer { job: shown, result })).into_response();
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
    sender: Sender<'_>,
    situation: &Situation,
    taking: Taking,
    submission: &intake::Submission,
    digest: [u8; 32],
) -> Result<Prepared, Rejected> {
    let yard = &api.yard;
    intake::prepare(submission, digest, sender, situation, taking, yard.ambient.now(), yard.ambient.random())
}

/// Accepts as parts of the request's trace, and runs what was routed inline. A task of its own: a caller that hangs up
/// changes nothing.
pub(crate) async fn take(
    api: &Arc<Api>,
    Trace(trace): Trace,
    prepared: Vec<Prepared>,
) -> Result<Vec<Result<Taken, Rejected>>, Problem> {
    let api = Arc::clone(api);
    let prepared = prepared.into_iter().map(|prepared| prepared.traced(trace)).collect();
    let accepting = async move {
        let taken = intake::accept(&api.yard, prepared).await?;
        for taken in taken.iter().flatten().filter(|taken| taken.runs_here()) {
            let message = Message { id: taken.job.id, epoch: taken.job.epoch };
            if let Err(error) = api.inline.run(&api.yard, message).await {
                tracing::warn!(job.id = %message.id, %error, "inline run not recorded; the reaper hands it on");
            }
        }
        Ok::<_, PortError>(taken)
    };
    let accepting = tokio::spawn(accepting.in_current_span());
    match accepting.await {
        Ok(taken) => Ok(taken?),
        Err(error) => Err(Problem::new(Code::Internal, error.to_string())),
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
    Params(WaitQuery { wait: seconds }): Params<WaitQuery>,
) -> Result<Json<JobAnswer>, Problem> {
    let patience = wait(seconds)?.min(api.edge.limits.wait);
    let job = until_settled(&api, id, patience).await?.ok_or_else(|| not_found(id))?;
    let result = if patience.is_zero() { None } else { result_of(&api, &job).await? };
    Ok(Json(JobAnswer { job: view(&api, &job).await?, result }))
}

pub(crate) async fn load(api: &Api, id: JobId) -> Result<Job, Problem> {
    api.yard.ledger.load(id).await?.ok_or_else(|| not_found(id))
}

/// GET /v1/jobs/{id}/timeline
pub(crate) async fn timeline(
    State(api): State<Arc<Api>>,
    Id(id): Id,
    _: Params<Nothing>,
) -> Result<Json<TimelineAnswer>, Problem> {
    let job = load(&api, id).await?;
    Ok(Json(TimelineAnswer { timeline: job.timeline.iter().map(EntryView::from).collect() }))
}

/// GET /v1/jobs/{id}/result
pub(crate) async fn result(
    State(api): State<Arc<Api>>,
    Id(id): Id,
    Params(ResultQuery { kind, limit, cursor }): Params<ResultQuery>,
) -> Result<Response, Problem> {
    let page = records::page(limit, cursor)?;
    if let Some(kind) = kind {
        return records::of_job(&api, id, &kind, page).await.map(IntoResponse::into_response);
    }
    // Without a kind the result is answered whole: pages are of records.
    let job = load(&api, id).await?;
    match result_text(&api, &job).await? {
        Some(text) => Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response()),
        None => {
            let detail = if job.is_settled() { "it made no result" } else { "it has not ended yet" };
            let detail = format!("job {} is {}: {detail}", job.id, job.phase());
            Err(Problem::new(Code::NoResult, detail))
        }
    }
}

/// GET /v1/jobs
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<ListQuery>,
) -> Result<Json<JobsPage>, Problem> {
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
    // Nothing is counted for a list: each job's own page says how many stand before it.
    let (situation, facts) = (api.yard.situation().await, Facts::default());
    Ok(Json(JobsPage { jobs: jobs.iter().map(|job| JobView::of(job, &situation, &facts)).collect(), next }))
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

/// POST /v1/jobs/{id}/cancel
pub(crate) async fn cancel(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id,
    _: Params<Nothing>,
) -> Result<Response, Problem> {
    caller.may_change(&load(&api, id).await?)?;
    let job = settle::cancel_job(&api.yard, id, &caller.name).await?;
    // Accepted, not done: a run is asked to end, and its holder settles.
    let status = if job.is_settled() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(view(&api, &job).await?)).into_response())
}

/// POST /v1/jobs/{id}/retry
pub(crate) async fn retry(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id,
    _: Params<Nothing>,
) -> Result<Response, Problem> {
    let job = load(&api, id).await?;
    caller.may_change(&job)?;
    // What cannot be retried draws nothing.
    if matches!(&job.state, JobState::Settled(settlement) if settlement.ending != Ending::Succeeded) {
        quota::charge(&api.yard, &caller.name, 1).await??;
    }
    let job = settle::retry_job(&api.yard, id, &caller.name).await?;
    Ok((StatusCode::ACCEPTED, Json(view(&api, &job).await?)).into_response())
}
