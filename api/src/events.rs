//! Events over HTTP, as EventBridge would deliver them: an event's findings become jobs.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchyard_core::intake::{self, EventPlan, Rejected, Sender, Taken, Taking};
use switchyard_core::job::{JobId, one_line};
use switchyard_core::policies::Situation;
use switchyard_core::ports::{Unmapped, UnmappedId};
use switchyard_core::why::Facts;
use switchyard_core::wire::{EventPlanView, JobView};
use utoipa::ToSchema;

use crate::body::Whole;
use crate::jobs::{prepare, take};
use crate::params::{Nothing, Params};
use crate::problem::{Code, Problem};
use crate::request::Trace;
use crate::{Api, BODY_BYTES};

/// What became of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventAnswer {
    /// `findings`, `plainly` (a mapping names an event that no reader knows), `nothing` (known, and nothing to act on) or
    /// `unknown`.
    pub reading: String,
    /// Why there is nothing to do, when there is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The jobs: one for every policy and resource.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobView>,
    /// Of those jobs, how many an earlier delivery of the same findings had made.
    #[serde(default)]
    pub repeated: usize,
    /// Findings that nothing is done about, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// The id under which the event is kept for replay, where something of it is answered by nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmapped: Option<UnmappedId>,
    /// What could not be read of the event, each with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defects: Vec<String>,
}

/// Jobs in one durable write.
const AT_ONCE: usize = 500;

/// Takes an event: its findings become jobs, and what nothing answers is kept. No quota is drawn for it: a sender of
/// events that is refused too often drops them, and a finding must not be lost to a brake.
pub(crate) async fn accept(api: &Arc<Api>, trace: Trace, event: &Value) -> Result<EventAnswer, Problem> {
    let situation = api.yard.situation().await;
    let plan = planned(event, &situation)?;
    let unmapped = match plan.unmapped() {
        Some(why) => {
            let kept = Unmapped::new(event, &plan.source, &plan.detail_type, &why, api.yard.ambient.now());
            let id = kept.id;
            api.yard.ledger.keep_unmapped(kept).await?;
            Some(id)
        }
        None => None,
    };
    let answer = submit(api, trace, &situation, &plan).await?;
    Ok(EventAnswer { unmapped, ..answer })
}

fn planned(event: &Value, situation: &Situation) -> Result<EventPlan, Problem> {
    let plan = intake::plan_event(event, &situation.policies.mappings);
    plan.map_err(|error| Problem::new(Code::NotAnEvent, error.to_string()))
}

/// Submits the jobs of a plan.
async fn submit(api: &Arc<Api>, trace: Trace, situation: &Situation, plan: &EventPlan) -> Result<EventAnswer, Problem> {
    let taking = Taking { invocation_left: api.inline.left(), companions: 0 };
    let mut prepared = Vec::new();
    for job in plan.jobs() {
        // The key's own hash stands for the body: the same finding delivered in another envelope is the same job.
        let digest = intake::canonical_sha256(&Value::from(job.key.as_str()));
        // Whoever delivers it: a finding that comes by two ways is one job.
        let sender = Sender { caller: intake::FINDINGS, key: Some(&job.key) };
        prepared.push(prepare(api, sender, situation, taking, &job.submission, digest)?);
    }
    let mut taken: Vec<Taken> = Vec::with_capacity(prepared.len());
    let mut rest = prepared.into_iter().peekable();
    while rest.peek().is_some() {
        // A delivery that fails halfway is made again, and finds the first jobs there.
        let some = take(api, trace, rest.by_ref().take(AT_ONCE).collect()).await?;
        taken.extend(some.into_iter().collect::<Result<Vec<_>, Rejected>>()?);
    }
    let mut jobs = Vec::with_capacity(taken.len());
    for taken in &taken {
        // As it is now: inline jobs have ended meanwhile.
        let job = api.yard.ledger.load(taken.job.id).await?;
        jobs.push(JobView::of(job.as_ref().unwrap_or(&taken.job), situation, &Facts::default()));
    }
    let (reading, reason) = plan.read.as_words();
    Ok(EventAnswer {
        reading: reading.to_owned(),
        reason: reason.map(str::to_owned),
        jobs,
        repeated: taken.iter().filter(|taken| !taken.fresh).count(),
        skipped: plan.findings.iter().filter_map(|finding| finding.skipped.clone()).collect(),
        unmapped: None,
        defects: plan.defects.iter().map(ToString::to_string).collect(),
    })
}

/// POST /v1/events
pub(crate) async fn deliver(
    State(api): State<Arc<Api>>,
    trace: Trace,
    _: Params<Nothing>,
    Whole(body, _room): Whole<BODY_BYTES>,
) -> Result<Json<EventAnswer>, Problem> {
    let answer = accept(&api, trace, &read(&body)?).await?;
    api.yard.meters.event(&answer.reading, answer.jobs.len());
    Ok(Json(answer))
}

/// POST /v1/events/plan: what the event would lead to under the rules in force; nothing is stored.
pub(crate) async fn plan(
    State(api): State<Arc<Api>>,
    _: Params<Nothing>,
    Whole(body, _room): Whole<BODY_BYTES>,
) -> Result<Json<EventPlanView>, Problem> {
    let event = read(&body)?;
    let situation = api.yard.situation().await;
    let plan = planned(&event, &situation)?;
    let mut known = BTreeSet::new();
    for job in plan.jobs() {
        let id = JobId::keyed(intake::FINDINGS, &job.key);
        if api.yard.ledger.load(id).await?.is_some() {
            known.insert(id);
        }
    }
    let taking = Taking { invocation_left: api.inline.left(), companions: 0 };
    Ok(Json(EventPlanView::of(&plan, &situation, taking, &known)))
}

/// Delivers a kept event again if the rules in force answer it now, and answers how many jobs that made; `None`: they
/// still do not.
pub(crate) async fn deliver_again(api: &Arc<Api>, trace: Trace, event: &Value) -> Result<Option<usize>, Problem> {
    let situation = api.yard.situation().await;
    let plan = planned(event, &situation)?;
    if plan.unmapped().is_some() {
        return Ok(None);
    }
    let answer = submit(api, trace, &situation, &plan).await?;
    api.yard.meters.event(&answer.reading, answer.jobs.len());
    Ok(Some(answer.jobs.len()))
}

/// A body as JSON, whatever its shape.
fn read(body: &[u8]) -> Result<Value, Rejected> {
    serde_json::from_slice(body).map_err(|error| Rejected::NotJson(one_line(&error.to_string(), 200)))
}
