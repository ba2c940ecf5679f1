//! Events over HTTP, as EventBridge would deliver them: an event's findings become jobs.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchyard_core::finding::{self, Reading};
use switchyard_core::intake::{self, Rejected, Sender, Taken, Taking};
use switchyard_core::job::one_line;
use switchyard_core::why::Facts;
use switchyard_core::wire::JobView;
use utoipa::ToSchema;

use crate::body::Whole;
use crate::jobs::{prepare, take};
use crate::params::{Nothing, Params};
use crate::problem::{Code, Problem};
use crate::request::Trace;
use crate::{Api, BODY_BYTES};

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventAnswer {
    /// `findings`, `nothing` (known, and nothing to act on) or `unknown`.
    pub reading: String,
    /// Why there is nothing to do, when there is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One job a finding.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobView>,
    /// Of those jobs, how many an earlier delivery of the same event had made.
    #[serde(default)]
    pub repeated: usize,
    /// What could not be read of the event, each with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defects: Vec<String>,
}

/// Takes an event: its findings become jobs, all of them accepted in one durable write. No quota is drawn for it: a
/// sender of events that is refused too often drops them, and a finding must not be lost to a brake.
async fn accept(api: &Arc<Api>, trace: Trace, event: &Value) -> Result<EventAnswer, Problem> {
    let nothing = |reading: &str, reason: String| EventAnswer {
        reading: reading.to_owned(),
        reason: Some(reason),
        jobs: Vec::new(),
        repeated: 0,
        defects: Vec::new(),
    };
    let reading = finding::read(event).map_err(|error| Problem::new(Code::NotAnEvent, error.to_string()))?;
    let (findings, defects) = match reading {
        Reading::Findings { findings, defects } => (findings, defects),
        Reading::Nothing { reason, .. } => return Ok(nothing("nothing", reason)),
        Reading::Unknown { source, detail_type } => {
            let reason = format!("no reader knows events of source `{source}` and detail-type `{detail_type}`");
            return Ok(nothing("unknown", one_line(&reason, 400)));
        }
    };
    let situation = api.yard.situation().await;
    let taking = Taking { invocation_left: api.inline.left(), companions: 0 };
    let mut prepared = Vec::with_capacity(findings.len());
    for finding in &findings {
        let (submission, key) = intake::of_finding(finding);
        // The key's own hash stands for the body: the same finding delivered in another envelope is the same job.
        let digest = intake::canonical_sha256(&Value::from(key.as_str()));
        // Whoever delivers it: a finding that comes by two ways is one job.
        let sender = Sender { caller: intake::FINDINGS, key: Some(&key) };
        prepared.push(prepare(api, sender, &situation, taking, &submission, digest)?);
    }
    let taken: Vec<Taken> = take(api, trace, prepared).await?.into_iter().collect::<Result<_, Rejected>>()?;
    let mut jobs = Vec::with_capacity(taken.len());
    for taken in &taken {
        // As it is now: inline jobs have ended meanwhile.
        let job = api.yard.ledger.load(taken.job.id).await?;
        jobs.push(JobView::of(job.as_ref().unwrap_or(&taken.job), &situation, &Facts::default()));
    }
    Ok(EventAnswer {
        reading: "findings".to_owned(),
        reason: None,
        jobs,
        repeated: taken.iter().filter(|taken| !taken.fresh).count(),
        defects: defects.iter().map(ToString::to_string).collect(),
    })
}

/// POST /v1/events
pub(crate) async fn deliver(
    State(api): State<Arc<Api>>,
    trace: Trace,
    _: Params<Nothing>,
    Whole(body, _room): Whole<BODY_BYTES>,
) -> Result<Json<EventAnswer>, Problem> {
    let event: Value =
        serde_json::from_slice(&body).map_err(|error| Rejected::NotJson(one_line(&error.to_string(), 200)))?;
    let answer = accept(&api, trace, &event).await?;
    api.yard.meters.event(&answer.reading, answer.jobs.len());
    Ok(Json(answer))
}
