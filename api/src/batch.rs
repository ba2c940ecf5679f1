//! Many submissions in one body: each has its own outcome, and all that are good are accepted in one durable write.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use switchyard_core::intake::{self, Prepared, Rejected, Sender, Submission, Taken, Taking};
use switchyard_core::job::{Job, JobId, one_line};
use switchyard_core::policies::Situation;
use switchyard_core::quota;
use switchyard_core::why::Facts;
use switchyard_core::wire::JobView;
use utoipa::ToSchema;

use crate::admit::Caller;
use crate::body::Whole;
use crate::jobs::{known, prepare, take};
use crate::params::{Nothing, Params};
use crate::problem::{Code, Problem, code_of};
use crate::request::Trace;
use crate::{Api, BATCH_BYTES, BATCH_JOBS};

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchAnswer {
    /// One outcome a submission, in the same order.
    pub items: Vec<BatchItem>,
    /// How many became new jobs.
    pub accepted: usize,
    /// How many were accepted before, here or in another request: their keys lead to those jobs.
    pub repeated: usize,
    /// How many were refused.
    pub rejected: usize,
}

/// What became of one submission of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchItem {
    /// The status that it would have met alone.
    pub status: u16,
    /// Its job, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobView>,
    /// Why it was refused: a problem's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl BatchItem {
    fn of(job: &Job, situation: &Situation) -> Self {
        let status = if job.is_settled() { StatusCode::OK } else { StatusCode::ACCEPTED };
        // What else stands before it is told to whoever asks for it: not to five hundred at once.
        let view = JobView::of(job, situation, &Facts::default());
        Self { status: status.as_u16(), job: Some(view), code: None, detail: None }
    }

    fn refused(rejected: &Rejected) -> Self {
        let code = code_of(rejected);
        let detail = Some(rejected.to_string());
        Self { status: code.status().as_u16(), job: None, code: Some(code.as_str().to_owned()), detail }
    }
}

/// The submissions of a body, not looked into: one broken among them must not hide the others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchWire<'a> {
    #[serde(borrow)]
    jobs: Vec<&'a RawValue>,
}

fn read(body: &[u8]) -> Result<Vec<&RawValue>, Problem> {
    let whole: &RawValue =
        serde_json::from_slice(body).map_err(|error| Rejected::NotJson(one_line(&error.to_string(), 200)))?;
    let field = |message: &str| Rejected::Field { path: String::new(), message: one_line(message, 200) };
    // A list would be taken for the fields in their order.
    if !whole.get().starts_with('{') {
        return Err(field("the body must be a JSON object").into());
    }
    let wire: BatchWire<'_> = serde_json::from_str(whole.get()).map_err(|error| field(&error.to_string()))?;
    if (1..=BATCH_JOBS).contains(&wire.jobs.len()) {
        return Ok(wire.jobs);
    }
    let found = wire.jobs.len();
    Err(Problem::new(
        Code::InvalidField,
        format!("field `jobs`: expected 1 to {BATCH_JOBS} submissions, found {found}"),
    ))
}

/// A submission with its key taken out: what is left is the body of POST /v1/jobs, and so is its digest.
fn read_item(item: &RawValue) -> Result<(Submission, [u8; 32], Option<String>), Rejected> {
    let mut value = intake::read_json(item.get().as_bytes())?;
    let field = |path: &str, message: &str| Rejected::Field { path: path.to_owned(), message: message.to_owned() };
    let fields = value.as_object_mut().ok_or_else(|| field("", "a submission must be a JSON object"))?;
    let key = match fields.remove("idempotency_key") {
        None | Some(Value::Null) => None,
        Some(Value::String(key)) => Some(key),
        Some(_) => return Err(field("idempotency_key", "expected a string")),
    };
    let (submission, digest) = intake::read_value(value)?;
    Ok((submission, digest, key))
}

/// Where an item's outcome comes from.
enum Outcome {
    /// The n-th that is sent to the ledger.
    Sent(usize),
    /// Sent before in this body, by another item with the same key and submission.
    Same(usize),
    /// Another submission under the key of one that is sent.
    Other { sent: usize, id: JobId, key: String, digest: [u8; 32] },
    /// Accepted in an earlier request.
    Known(Box<Job>),
    /// Refused.
    Refused(Rejected),
}

/// POST /v1/jobs/batch
pub(crate) async fn submit(
    State(api): State<Arc<Api>>,
    caller: Caller,
    trace: Trace,
    _: Params<Nothing>,
    Whole(body, _room): Whole<BATCH_BYTES>,
) -> Result<Json<BatchAnswer>, Problem> {
    let items = read(&body)?;
    let alone = items.len() == 1;
    let situation = api.yard.situation().await;
    let taking = Taking {
        // One invocation has no room for many.
        invocation_left: if alone { api.inline.left() } else { None },
        companions: u32::try_from(items.len() - 1).unwrap_or(u32::MAX),
    };
    let mut outcomes = Vec::with_capacity(items.len());
    let mut prepared = Vec::with_capacity(items.len());
    let mut keyed: HashMap<JobId, (usize, [u8; 32])> = HashMap::new();
    for item in items {
        let (submission, digest, key) = match read_item(item) {
            Ok(read) => read,
            Err(rejected) => {
                outcomes.push(Outcome::Refused(rejected));
                continue;
            }
        };
        let sender = Sender { caller: &caller.name, key: key.as_deref() };
        outcomes.push(match prepare(&api, sender, &situation, taking, &submission, digest) {
            Ok(ready) => match (keyed.get(&ready.job.id), key) {
                (Some((sent, first)), Some(_)) if *first == digest => Outcome::Same(*sent),
                (Some((sent, _)), Some(key)) => Outcome::Other { sent: *sent, id: ready.job.id, key, digest },
                (_, key) => {
                    if key.is_some() {
                        keyed.insert(ready.job.id, (prepared.len(), digest));
                    }
                    prepared.push(ready);
                    Outcome::Sent(prepared.len() - 1)
                }
            },
            // What was accepted once is answered under its key, whatever the catalog says today.
            Err(rejected) => match known(&api, &caller, key.as_deref(), digest).await? {
                Some(job) => Outcome::Known(Box::new(job)),
                None => Outcome::Refused(rejected),
            },
        });
    }
    let mut taken = take_within_quota(&api, &caller, trace, prepared).await?;
    if let (true, Some(Ok(taken))) = (alone, taken.first_mut())
        && let Some(job) = api.yard.ledger.load(taken.job.id).await?
    {
        // As it is now: run inline, it has ended meanwhile.
        taken.job = job;
    }
    let mut answer = BatchAnswer { items: Vec::with_capacity(outcomes.len()), accepted: 0, repeated: 0, rejected: 0 };
    for outcome in outcomes {
        let (found, fresh) = match outcome {
            Outcome::Sent(n) => (sent(&taken, n)?, true),
            Outcome::Same(n) => (sent(&taken, n)?, false),
            // The first of them may itself have met an older job, which is this one's.
            Outcome::Other { sent: n, id, key, digest } => match sent(&taken, n)? {
                Ok(_) => (Err(Rejected::KeyReused(id)), false),
                Err(_) => match known(&api, &caller, Some(&key), digest).await? {
                    Some(job) => (Ok(Taken { job, fresh: false }), false),
                    None => (Err(Rejected::KeyReused(id)), false),
                },
            },
            Outcome::Known(job) => (Ok(Taken { job: *job, fresh: false }), false),
            Outcome::Refused(rejected) => (Err(rejected), false),
        };
        answer.items.push(match found {
            Ok(taken) => {
                if fresh && taken.fresh {
                    answer.accepted += 1;
                } else {
                    answer.repeated += 1;
                }
                BatchItem::of(&taken.job, &situation)
            }
            Err(rejected) => {
                answer.rejected += 1;
                api.yard.meters.refused(rejected.code());
                BatchItem::refused(&rejected)
            }
        });
    }
    Ok(Json(answer))
}

/// Accepts them, charged together: an answer for each, in their order.
async fn take_within_quota(
    api: &Arc<Api>,
    caller: &Caller,
    trace: Trace,
    prepared: Vec<Prepared>,
) -> Result<Vec<Result<Taken, Rejected>>, Problem> {
    let many = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let charged = quota::charge(&api.yard, &caller.name, many(prepared.len())).await?;
    let mut repeated = Vec::new();
    let mut new = prepared;
    if charged.is_err() {
        // Repeats ask for nothing new: they are looked for only here, so that nobody else pays for looking.
        let mut rest = Vec::new();
        for (n, one) in new.into_iter().enumerate() {
            match intake::repeated(&api.yard, &one).await? {
                Some(found) => repeated.push((n, found)),
                None => rest.push(one),
            }
        }
        new = rest;
        quota::charge(&api.yard, &caller.name, many(new.len())).await??;
    }
    let mut taken = if new.is_empty() { Vec::new() } else { take(api, trace, new).await? };
    // From the first to the last: each finds its place among those before it.
    for (n, found) in repeated {
        taken.insert(n.min(taken.len()), found);
    }
    Ok(taken)
}

/// What the ledger said of the n-th that was sent.
fn sent(taken: &[Result<Taken, Rejected>], n: usize) -> Result<Result<Taken, Rejected>, Problem> {
    taken.get(n).cloned().ok_or_else(|| Problem::new(Code::Internal, "the ledger answered for too few jobs"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use switchyard_core::policies::Policies;
    use switchyard_core::quota::{Quota, Quotas};

    use super::*;
    use crate::admit::Role;
    use crate::testing::{self, Ledger};

    fn greet(name: &str, key: Option<&str>) -> Value {
        let mut item = json!({ "capability": "greet", "payload": { "name": name } });
        if let Some(key) = key {
            item["idempotency_key"] = key.into();
        }
        item
    }

    async fn ask(api: &Arc<Api>, body: &Value) -> Result<BatchAnswer, Problem> {
        let caller = Caller { name: "ci".to_owned(), role: Role::Submitter };
        let body = Whole(body.to_string().into_bytes(), None);
        submit(State(Arc::clone(api)), caller, testing::trace(), Params(Nothing {}), body)
            .await
            .map(|Json(answer)| answer)
    }

    fn counts(answer: &BatchAnswer) -> (usize, usize, usize) {
        (answer.accepted, answer.repeated, answer.rejected)
    }

    fn told(answer: &BatchAnswer) -> Vec<String> {
        let line = |item: &BatchItem| match (&item.job, &item.code, &item.detail) {
            (Some(job), None, None) => format!("{} {} {}", item.status, job.state, job.caller),
            (None, Some(code), Some(detail)) => format!("{} {code}: {detail}", item.status),
            both => panic!("an item has a job or a problem: {both:?}"),
        };
        answer.items.iter().map(line).collect()
    }

    #[tokio::test]
    async fn each_item_has_its_outcome_and_the_good_ones_share_one_write() {
        let (api, ledger) = testing::api_over(Ledger::new());
        let large = "x".repeat(1024 * 1024);
        let body = json!({ "jobs": [
            greet("Ada", None),
            greet("Ada", Some("k")),
            greet("Ada", Some("k")),
            greet("Bob", Some("k")),
            7,
            { "capability": "gret" },
            { "capability": "greet", "payload": {} },
            { "capability": "greet", "prioritty": 1 },
            greet("Ada", Some("")),
            { "capability": "greet", "idempotency_key": 7 },
            greet(&large, None),
            greet("Cleo", Some("c")),
        ] });
        let answer = ask(&api, &body).await.unwrap();
        assert_eq!(counts(&answer), (3, 1, 8));
        assert_eq!(ledger.accepts(), 1, "one durable write");
        let id = |n: usize| answer.items[n].job.as_ref().unwrap().id;
        assert_eq!(id(1), id(2), "the same key and submission is the same job");
        insta::assert_snapshot!(told(&answer).join("\n").replace(&id(1).to_string(), "[id]"));

        let again = ask(&api, &json!({ "jobs": [greet("Bob", Some("k")), greet("Ada", Some("k"))] })).await.unwrap();
        assert_eq!(counts(&again), (0, 1, 1), "the ledger's job is neither's first");
        assert_eq!(again.items[1].job.as_ref().unwrap().id, id(1));
        ledger.accepts();
        let none = ask(&api, &json!({ "jobs": [{}, null] })).await.unwrap();
        assert_eq!((counts(&none), ledger.accepts()), ((0, 0, 2), 0));
    }

    #[tokio::test]
    async fn a_batch_item_is_the_same_job_as_a_single_submission_with_its_key() {
        let api = testing::api();
        let answer = ask(&api, &json!({ "jobs": [greet("Ada", Some("k"))] })).await.unwrap();
        let (_, digest) = intake::read(greet("Ada", None).to_string().as_bytes()).unwrap();
        let caller = Caller { name: "ci".to_owned(), role: Role::Submitter };
        let job = known(&api, &caller, Some("k"), digest).await.unwrap().unwrap();
        assert_eq!(answer.items[0].job.as_ref().unwrap().id, job.id);
    }

    #[tokio::test]
    async fn over_quota_what_is_known_is_answered_and_what_can_never_pass_is_told_so() {
        let api = testing::api();
        let most = Quota { rate: None, open_jobs: Some(2) };
        let quotas = Quotas { every: most, ..Quotas::default() };
        api.yard.shelf.replace(Policies { quotas, ..(*api.yard.policies()).clone() }, api.yard.ambient.now());
        let batch = |keys: &[&str]| {
            let items: Vec<Value> = keys.iter().map(|key| greet("Ada", Some(key))).collect();
            json!({ "jobs": items })
        };
        let never = ask(&api, &batch(&["a", "b", "c"])).await.unwrap_err();
        assert_eq!((never.status, never.code.as_str(), never.retry_after_seconds), (422, "batch_over_quota", None));
        assert_eq!(counts(&ask(&api, &batch(&["a", "b"])).await.unwrap()), (2, 0, 0));
        assert_eq!(counts(&ask(&api, &batch(&["b", "a"])).await.unwrap()), (0, 2, 0), "a replay asks for nothing new");
        let other = ask(&api, &json!({ "jobs": [greet("Bob", Some("a")), greet("Ada", Some("b"))] })).await.unwrap();
        assert_eq!((counts(&other), other.items[0].status), ((0, 1, 1), 422), "each still has its own outcome");
        let over = ask(&api, &batch(&["a", "b", "c"])).await.unwrap_err();
        assert_eq!((over.status, over.code.as_str()), (429, "quota_exceeded"));
        // One ends: there is room for the new one between the two known ones.
        let id = JobId::keyed("ci", "b");
        switchyard_core::settle::cancel_job(&api.yard, id, "ci").await.unwrap();
        let mixed = ask(&api, &batch(&["a", "c", "b"])).await.unwrap();
        assert_eq!(counts(&mixed), (1, 2, 0));
        assert_eq!(mixed.items[2].job.as_ref().unwrap().id, id);
        // A retry by hand is a submission like any other.
        let ci = || Caller { name: "ci".to_owned(), role: Role::Submitter };
        let retry = || crate::jobs::retry(State(Arc::clone(&api)), ci(), crate::params::Id(id), Params(Nothing {}));
        assert_eq!(retry().await.unwrap_err().code, "quota_exceeded");
        switchyard_core::settle::cancel_job(&api.yard, JobId::keyed("ci", "a"), "ci").await.unwrap();
        assert_eq!(retry().await.unwrap().status(), StatusCode::ACCEPTED);
    }

    #[tokio::test]
    async fn a_body_that_is_no_batch_is_refused_whole() {
        let api = testing::api();
        let many = vec![greet("Ada", None); BATCH_JOBS + 1];
        let bodies = [
            json!([]),
            json!({}),
            json!({ "jobs": {} }),
            json!({ "jobs": [] }),
            json!({ "jobs": many }),
            json!({ "jobs": [1], "x": 1 }),
        ];
        let mut told = Vec::new();
        for body in bodies {
            let problem = ask(&api, &body).await.unwrap_err();
            told.push(format!("{} {}: {}", problem.status, problem.code, problem.detail));
        }
        assert_eq!(read(b"{\"jobs\":[").unwrap_err().code, "not_json");
        insta::assert_snapshot!(told.join("\n"));
    }
}
