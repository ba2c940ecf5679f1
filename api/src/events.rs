//! Events over HTTP, as EventBridge would deliver them: an event's findings become jobs.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchyard_core::intake::{self, EventPlan, Rejected, Sender, Taken, Taking};
use switchyard_core::job::{JobId, TraceId, one_line};
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

/// Takes an event, by whatever door it came: its findings become jobs, and what nothing answers is kept. No quota is drawn
/// for it: a sender of events that is refused too often drops them, and a finding must not be lost to a brake.
///
/// # Errors
///
/// A [`Problem`] with a status of 500 or more passes, and the event must be delivered again, which makes no job twice;
/// with any other the event is no event, or its jobs are refused, and it will never be taken.
pub async fn deliver(api: &Arc<Api>, trace: TraceId, event: &Value) -> Result<EventAnswer, Problem> {
    let answer = accept(api, Trace(trace), event).await?;
    api.yard.meters.event(&answer.reading, answer.jobs.len());
    Ok(answer)
}

async fn accept(api: &Arc<Api>, trace: Trace, event: &Value) -> Result<EventAnswer, Problem> {
    let situation = api.yard.situation().await;
    let plan = planned(event, &situation)?;
    let keep = |why: String| {
        let kept = Unmapped::new(event, &plan.source, &plan.detail_type, &why, api.yard.ambient.now());
        let id = kept.id;
        async move { api.yard.ledger.keep_unmapped(kept).await.map(|()| id) }
    };
    let unmapped = match plan.unmapped() {
        Some(why) => Some(keep(why).await?),
        None => None,
    };
    match submit(api, trace, &situation, &plan).await {
        Ok(answer) => Ok(EventAnswer { unmapped, ..answer }),
        Err(problem) => {
            // A sender drops what is refused: the finding must not go with it.
            keep(format!("its jobs are refused: {}", problem.detail)).await?;
            Err(problem)
        }
    }
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
pub(crate) async fn post(
    State(api): State<Arc<Api>>,
    Trace(trace): Trace,
    _: Params<Nothing>,
    Whole(body, _room): Whole<BODY_BYTES>,
) -> Result<Json<EventAnswer>, Problem> {
    Ok(Json(deliver(&api, trace, &read(&body)?).await?))
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
    let plan = intake::plan_whole_event(event, &situation.policies.mappings);
    let plan = plan.map_err(|error| Problem::new(Code::NotAnEvent, error.to_string()))?;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;
    use switchyard_core::catalog::Catalog;
    use switchyard_core::mapping::Mappings;
    use switchyard_core::policies::Policies;

    use super::*;
    use crate::testing;

    /// What answers findings here: it waits for a worker, and there is none.
    const CATALOG: &str = "version: 1
capabilities:
  - name: finding-triage
    summary: answers findings
    run: { command: [echo] }
    needs: { timeout_seconds: 60 }
";

    /// Instances are answered by two policies.
    const MAPPINGS: &str = r#"{ "version": 1, "mappings": [
        { "name": "instances", "match": { "resource_type": "AwsEc2Instance" },
          "policies": ["custodian/a.yml", "custodian/b.yml"] }
    ] }"#;

    /// The same, and an event that no reader knows.
    const MORE: &str = r#"{ "version": 1, "mappings": [
        { "name": "instances", "match": { "resource_type": "AwsEc2Instance" },
          "policies": ["custodian/a.yml", "custodian/b.yml"] },
        { "name": "orders", "match": { "detail_type": "Order" }, "policies": ["custodian/a.yml"] }
    ] }"#;

    /// Puts these mappings into force.
    fn map(api: &Api, mappings: &str) {
        let policies = BTreeSet::from(["custodian/a.yml".to_owned(), "custodian/b.yml".to_owned()]);
        let mappings = Mappings::parse("m.json", mappings, &policies).unwrap();
        api.yard.shelf.replace(Policies { mappings, ..(*api.yard.policies()).clone() }, api.yard.ambient.now());
    }

    /// A yard in memory that takes the jobs of findings, under these mappings.
    fn mapped() -> Arc<Api> {
        let api = testing::api();
        let catalog = Catalog::parse("c.yaml", CATALOG, &[], &BTreeMap::new()).unwrap();
        api.yard.shelf.replace(Policies { catalog, ..(*api.yard.policies()).clone() }, api.yard.ambient.now());
        map(&api, MAPPINGS);
        api
    }

    /// An event of Security Hub with a finding for each of these lists of resources.
    fn hub(findings: &[&[(&str, &str)]]) -> Value {
        let resource = |(kind, id): &(&str, &str)| json!({ "Type": kind, "Id": id });
        let finding = |(n, resources): (usize, &&[(&str, &str)])| {
            json!({
                "Id": format!("finding-{n}"), "AwsAccountId": "111122223333", "Region": "eu-west-1", "Types": ["T"],
                "Title": "t", "UpdatedAt": "2026-01-01T00:00:00Z", "RecordState": "ACTIVE",
                "Workflow": { "Status": "NEW" }, "Severity": { "Label": "HIGH" },
                "Resources": resources.iter().map(resource).collect::<Vec<Value>>(),
            })
        };
        let findings: Vec<Value> = findings.iter().enumerate().map(finding).collect();
        json!({
            "id": "envelope-1", "source": "aws.securityhub", "detail-type": "Security Hub Findings - Imported",
            "account": "111122223333", "region": "eu-west-1", "time": "2026-01-01T00:00:05Z",
            "detail": { "findings": findings },
        })
    }

    fn order() -> Value {
        json!({ "id": "order-1", "source": "my.app", "detail-type": "Order", "detail": { "n": 1 } })
    }

    async fn delivered(api: &Arc<Api>, body: &[u8]) -> Result<EventAnswer, Problem> {
        let body = Whole(body.to_vec(), None);
        post(State(Arc::clone(api)), testing::trace(), Params(Nothing {}), body).await.map(|Json(answer)| answer)
    }

    async fn planned_for(api: &Arc<Api>, body: &[u8]) -> Result<EventPlanView, Problem> {
        let body = Whole(body.to_vec(), None);
        plan(State(Arc::clone(api)), Params(Nothing {}), body).await.map(|Json(plan)| plan)
    }

    async fn sent(api: &Arc<Api>, event: &Value) -> EventAnswer {
        delivered(api, event.to_string().as_bytes()).await.unwrap()
    }

    /// How many events are kept.
    async fn kept(api: &Arc<Api>) -> u64 {
        api.yard.ledger.unmapped_count().await.unwrap().events
    }

    #[tokio::test]
    async fn an_event_that_nothing_answers_is_kept_before_the_answer_and_counted_when_it_comes_again() {
        let api = mapped();
        for seen in 1..=3 {
            let answer = sent(&api, &order()).await;
            assert_eq!((answer.reading.as_str(), answer.jobs.len()), ("unknown", 0));
            let event = api.yard.ledger.unmapped_event(answer.unmapped.unwrap()).await.unwrap().unwrap();
            assert_eq!((event.seen, Some(&event.why)), (seen, answer.reason.as_ref()));
            assert_eq!(serde_json::from_str::<Value>(&event.event).unwrap(), order());
        }
        assert_eq!(kept(&api).await, 1);
    }

    #[tokio::test]
    async fn what_nothing_answers_is_kept_even_where_the_jobs_of_the_rest_are_refused() {
        // It has no capability that answers findings.
        let api = testing::api();
        map(&api, MAPPINGS);
        let event = hub(&[&[("AwsEc2Instance", "i-1")], &[("AwsIamUser", "u")]]);
        let refused = delivered(&api, event.to_string().as_bytes()).await.unwrap_err();
        assert_eq!((refused.status, refused.code.as_str()), (422, "unknown_capability"));
        let event = api.yard.ledger.unmapped_event(UnmappedId::of(&event)).await.unwrap().unwrap();
        assert!(event.why.starts_with("its jobs are refused: there is no capability"), "{}", event.why);
    }

    #[tokio::test]
    async fn a_finding_of_which_one_resource_is_answered_is_not_kept() {
        let api = mapped();
        let half = hub(&[&[("AwsEc2Instance", "i-1"), ("AwsIamUser", "u")]]);
        let answer = sent(&api, &half).await;
        assert_eq!((answer.jobs.len(), answer.repeated, answer.unmapped), (2, 0, None));
        assert_eq!(kept(&api).await, 0);
        let again = sent(&api, &half).await;
        assert_eq!((again.jobs.len(), again.repeated), (2, 2));
        let none = sent(&api, &hub(&[&[("AwsIamUser", "u")]])).await;
        assert_eq!((none.jobs.len(), none.unmapped.is_some()), (0, true));
    }

    #[tokio::test]
    async fn an_event_delivered_again_makes_its_jobs_once_it_is_answered_and_is_left_as_it_was_before() {
        let api = mapped();
        let id = sent(&api, &order()).await.unmapped.unwrap();
        let first = api.yard.ledger.unmapped_event(id).await.unwrap();
        assert_eq!(deliver_again(&api, testing::trace(), &order()).await.unwrap(), None);
        let second = api.yard.ledger.unmapped_event(id).await.unwrap();
        assert_eq!((second.as_ref().map(|event| event.seen), second), (Some(1), first));
        map(&api, MORE);
        for _ in 0..2 {
            assert_eq!(deliver_again(&api, testing::trace(), &order()).await.unwrap(), Some(1));
        }
        let answer = sent(&api, &order()).await;
        assert_eq!((answer.reading.as_str(), answer.jobs.len(), answer.repeated), ("plainly", 1, 1));
        assert_eq!(answer.jobs[0].labels["mapping"], "orders");
    }

    #[tokio::test]
    async fn what_is_asked_about_is_not_stored_and_what_was_delivered_is_known() {
        let api = mapped();
        let event = hub(&[&[("AwsEc2Instance", "i-1")]]);
        let known = |plan: &EventPlanView| -> Vec<bool> {
            let answers = plan.findings.iter().flat_map(|finding| &finding.answers);
            answers.flat_map(|answer| &answer.jobs).map(|job| job.known).collect()
        };
        for _ in 0..2 {
            assert_eq!(known(&planned_for(&api, event.to_string().as_bytes()).await.unwrap()), [false, false]);
        }
        let plan = planned_for(&api, order().to_string().as_bytes()).await.unwrap();
        assert_eq!((plan.unmapped.is_some(), kept(&api).await), (true, 0));
        assert_eq!(sent(&api, &event).await.repeated, 0);
        assert_eq!(known(&planned_for(&api, event.to_string().as_bytes()).await.unwrap()), [true, true]);
    }

    #[tokio::test]
    async fn what_is_no_json_and_what_is_no_object_is_refused_with_its_code() {
        let api = mapped();
        for (body, status, code) in [
            (&b""[..], 400, "not_json"),
            (b"{", 400, "not_json"),
            (b"{}{}", 400, "not_json"),
            (b"{\"source\":\"\xff\"}", 400, "not_json"),
            (b"[]", 422, "not_an_event"),
            (b"1", 422, "not_an_event"),
            (b"\"{}\"", 422, "not_an_event"),
            (b"null", 422, "not_an_event"),
        ] {
            let refused = delivered(&api, body).await.unwrap_err();
            assert_eq!((refused.status, refused.code.as_str()), (status, code), "{}", body.escape_ascii());
            let refused = planned_for(&api, body).await.unwrap_err();
            assert_eq!((refused.status, refused.code.as_str()), (status, code), "{}", body.escape_ascii());
        }
        assert_eq!(kept(&api).await, 0);
    }
}
