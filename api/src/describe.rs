//! What the documents say of each route.

use serde_json::{Value, json};
use switchyard_core::intake::{KEY_BYTES, Submission};
use switchyard_core::job::Phase;
use switchyard_core::ports::UnmappedId;
use switchyard_core::records::{ID_BYTES, Kind};
use switchyard_core::wire::{EventPlanView, Explanation, JobView, Supposed, YardView};
use utoipa::PartialSchema;
use utoipa::openapi::schema::{ArrayBuilder, Object, ObjectBuilder, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{KnownFormat, RefOr, Schema};

use crate::brakes::{PauseBody, ResumeBody};
use crate::openapi::Doc;
use crate::problem::Code;
use crate::{
    AssetsPage, BATCH_BYTES, BATCH_JOBS, BODY_BYTES, BatchAnswer, CostAnswer, EventAnswer, FindingsPage, JobAnswer,
    JobsPage, LoansPage, LogsPage, RecordsPage, ReloadAnswer, ReplayAnswer, SchedulesAnswer, TimelineAnswer,
    UnmappedAnswer, UnmappedPage, WAIT_SECONDS, WorkersAnswer,
};

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// What is said of the header that names a trace.
const OF_TRACE: &str = "The trace that the jobs are of (W3C Trace Context); an invalid one is ignored.";
/// What makes a submission one that is refused; of a batch's item they are its own.
const SUBMISSION: [Code; 8] = [
    Code::InvalidIdempotencyKey,
    Code::PayloadTooLarge,
    Code::InvalidField,
    Code::UnknownCapability,
    Code::InvalidPayload,
    Code::IdempotencyKeyReused,
    Code::NoFeasibleVenue,
    Code::QuotaExceeded,
];

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn whole_number(least: usize, most: u64) -> Object {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least)).maximum(Some(most)).build()
}

fn wait() -> Object {
    whole_number(0, WAIT_SECONDS)
}

fn key() -> Object {
    text().min_length(Some(1)).max_length(Some(KEY_BYTES)).pattern(Some("^[ -~]+$")).build()
}

fn a_submission() -> Value {
    json!({ "capability": "file-digest", "payload": { "path": "/etc/hosts" }, "tier": "standard" })
}

fn a_job() -> Value {
    json!({
        "id": ID,
        "trace_id": TRACE,
        "capability": "file-digest",
        "state": "dispatched",
        "tier": "standard",
        "venue": "fleet",
        "pool": "standard",
        "epoch": 1,
        "attempts_spent": 0,
        "attempts_allowed": 3,
        "interruptions": 0,
        "losses": 0,
        "caller": "ci",
        "created_at": "2026-01-31T12:00:00.000Z",
        "why": "waiting for a slot in the standard tier since 2026-01-31T12:00:00.000Z",
        "choice": "cheapest",
        "verdicts": [{
            "venue": "fleet", "pool": "standard", "chosen": true, "reason": "the cheapest that starts in time",
            "start_ms": 1000, "nanodollars": 1200,
        }],
    })
}

fn an_ended_job() -> Value {
    let mut job = a_job();
    job["state"] = "succeeded".into();
    job["settled_at"] = "2026-01-31T12:00:01.000Z".into();
    if let Some(job) = job.as_object_mut() {
        job.remove("why");
    }
    job
}

/// POST /v1/jobs
pub(crate) fn submit() -> Doc {
    let mut doc = Doc::new("submitJob", "submit a job");
    let body = doc.known::<Submission>();
    let location = "Where the job is.";
    let replayed = "`true` where the key led to a job that was accepted before.";
    let mut ended = an_ended_job();
    ended["result"] = json!({ "sha256": "0a1b" });
    doc.more("With `wait` the answer is held back until the job has ended, or for so many seconds.")
        .query("wait", wait(), "How many seconds the answer may be held back for the job's end.")
        .header(
            "Idempotency-Key",
            key(),
            "The same key from the same caller with the same body leads to the same job.",
            "nightly-2026-01-31",
        )
        .header("traceparent", text().build(), OF_TRACE, TRACEPARENT)
        .body(body, a_submission(), BODY_BYTES)
        .answers::<JobAnswer>(200, "The job has ended.", ended)
        .with("Location", location)
        .with("Idempotency-Replayed", replayed)
        .answers::<JobAnswer>(202, "The job is accepted: it will run.", a_job())
        .with("Location", location)
        .with("Idempotency-Replayed", replayed)
        .problems(&SUBMISSION)
}

/// A submission of a batch: one with its key beside its fields.
fn batch_submission() -> RefOr<Schema> {
    let mut schema = Submission::schema();
    if let RefOr::T(Schema::Object(fields)) = &mut schema {
        let mut key = key();
        key.schema_type = SchemaType::Array(vec![Type::String, Type::Null]);
        key.description = Some("As the header Idempotency-Key of a single submission.".to_owned());
        fields.properties.insert("idempotency_key".to_owned(), key.into());
    }
    schema
}

/// POST /v1/jobs/batch
pub(crate) fn batch() -> Doc {
    let mut doc = Doc::new("submitBatch", "submit up to 500 jobs, each with its own outcome");
    doc.known::<Submission>();
    let item = doc.named("BatchSubmission", batch_submission());
    let jobs = ArrayBuilder::new().items(item).min_items(Some(1)).max_items(Some(BATCH_JOBS));
    let mut body = ObjectBuilder::new().property("jobs", jobs).required("jobs").build();
    body.additional_properties = Some(Box::new(utoipa::openapi::schema::AdditionalProperties::FreeForm(false)));
    let body = doc.named("Batch", body.into());
    let mut submission = a_submission();
    submission["idempotency_key"] = "nightly-2026-01-31".into();
    let outcome = json!({
        "items": [
            { "status": 202, "job": a_job() },
            { "status": 422, "code": "unknown_capability", "detail": "there is no capability `x`; there are: file-digest" },
        ],
        "accepted": 1, "repeated": 0, "rejected": 1,
    });
    doc.more(
        "The outcomes are in the order of the submissions, each with the status that it would have met alone. All that \
         are accepted are accepted in one durable write. A quota is held against all that are new together: over it, \
         none is accepted. A batch of which every key is known is answered however much was submitted; one with more \
         new jobs than its caller may have unfinished is refused for good, with `batch_over_quota`.",
    )
    .header("traceparent", text().build(), OF_TRACE, TRACEPARENT)
    .body(body, json!({ "jobs": [submission, { "capability": "x" }] }), BATCH_BYTES)
    .answers::<BatchAnswer>(200, "The outcome of each submission.", outcome)
    .problems(&[Code::InvalidField, Code::BatchOverQuota, Code::QuotaExceeded])
}

/// GET /v1/jobs
pub(crate) fn list() -> Doc {
    let states = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(Phase::ALL.map(Phase::as_str)));
    let time = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).build();
    let uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    Doc::new("listJobs", "list jobs, newest first")
        .query("state", states.build(), "Only jobs in this state.")
        .query("capability", text().build(), "Only jobs of this capability.")
        .query("label", text().pattern(Some("=")).build(), "Only jobs with this label, NAME=VALUE.")
        .query("since", time, "Only jobs accepted at or after this moment.")
        .query("limit", whole_number(1, 500), "At most so many; 50 unless said.")
        .query(
            "cursor",
            text().pattern(Some(format!("^[0-9]{{1,13}}\\.{uuid}$"))).build(),
            "Where the page starts: what the last page gave as `next`.",
        )
        .answers::<JobsPage>(
            200,
            "A page of jobs.",
            json!({ "jobs": [a_job()], "next": format!("1769860800000.{ID}") }),
        )
}

/// GET /v1/jobs/{id}
pub(crate) fn show() -> Doc {
    Doc::new("getJob", "one job, and why it is where it is")
        .more("With `wait` the answer is held back until the job has ended, and carries its result.")
        .query("wait", wait(), "How many seconds the answer may be held back for the job's end.")
        .answers::<JobAnswer>(200, "The job.", a_job())
}

/// GET /v1/jobs/{id}/timeline
pub(crate) fn timeline() -> Doc {
    let entry = json!({
        "at": "2026-01-31T12:00:00.000Z", "state": "dispatched", "epoch": 1, "reason": "accepted", "detail": "fleet",
    });
    Doc::new("getTimeline", "what happened to a job").answers::<TimelineAnswer>(
        200,
        "Its history, oldest first.",
        json!({ "timeline": [entry] }),
    )
}

/// GET /v1/jobs/{id}/logs
pub(crate) fn logs() -> Doc {
    let line = json!({ "at": "2026-01-31T12:00:00.000Z", "epoch": 1, "stream": "stdout", "text": "done" });
    Doc::new("getLogs", "what a job printed")
        .query("cursor", text().build(), "Where the part starts: what the last one gave as `next`.")
        .query("wait", wait(), "How many seconds the answer may be held back while there is nothing new.")
        .answers::<LogsPage>(
            200,
            "A part of its log.",
            json!({ "trace_id": TRACE, "lines": [line], "next": "1.68", "done": false }),
        )
}

/// GET /v1/jobs/{id}/result
pub(crate) fn result() -> Doc {
    let mut doc = Doc::new("getResult", "what a job made, or what it emitted");
    doc.known::<RecordsPage>();
    doc.more("With `kind` it lists the records of that kind that the job's runs emitted, as they emitted them.")
        .query("kind", text().enum_values(Some(Kind::ALL.map(Kind::as_str))).build(), "The records to list.")
        .query("limit", whole_number(1, 500), "With `kind`: at most so many; 50 unless said.")
        .query(
            "cursor",
            text().pattern(Some("^[0-9]{1,10}\\.[0-9]{1,20}$")).build(),
            "With `kind`: where the page starts: what the last page gave as `next`.",
        )
        .answers_with(
            200,
            "Its result: any JSON, as the job wrote it; with `kind` a RecordsPage.",
            utoipa::openapi::schema::empty(),
        )
        .problems(&[Code::NoResult])
}

fn registered(doc: Doc) -> Doc {
    doc.more("One entry each, as it was seen last; what nobody sees for 90 days is forgotten.")
        .query(
            "since",
            text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).build(),
            "Only what was seen since.",
        )
        .query("capability", text().build(), "Only what this capability saw last.")
        .query("limit", whole_number(1, 500), "At most so many; 50 unless said.")
        .query(
            "cursor",
            text().min_length(Some(1)).max_length(Some(ID_BYTES)).build(),
            "After which id the page starts: what the last page gave as `next`.",
        )
}

fn an_entry(id: &str, record: Value) -> Value {
    json!({
        "id": id, "first_seen": "2026-01-30T12:00:00.000Z", "last_seen": "2026-01-31T12:00:00.000Z",
        "job": ID, "capability": "port-scan", "record": record,
    })
}

/// GET /v1/assets
pub(crate) fn assets() -> Doc {
    let record = json!({ "kind": "asset", "id": "host:10.0.0.1", "ports": [22] });
    let answer = json!({ "assets": [an_entry("host:10.0.0.1", record)], "next": "host:10.0.0.1" });
    registered(Doc::new("listAssets", "what jobs saw, by id")).answers::<AssetsPage>(200, "A page of assets.", answer)
}

/// GET /v1/findings
pub(crate) fn findings() -> Doc {
    let record = json!({ "kind": "finding", "id": "open-port:10.0.0.1:22", "severity": "low" });
    let answer = json!({ "findings": [an_entry("open-port:10.0.0.1:22", record)] });
    registered(Doc::new("listFindings", "what jobs found wrong, by id")).answers::<FindingsPage>(
        200,
        "A page of findings.",
        answer,
    )
}

/// POST /v1/jobs/{id}/cancel
pub(crate) fn cancel() -> Doc {
    Doc::new("cancelJob", "cancel a job that has not ended")
        .more("A submitter cancels its own jobs, an operator everybody's.")
        .answers::<JobView>(200, "It is cancelled.", {
            let mut job = an_ended_job();
            job["state"] = "cancelled".into();
            job
        })
        .answers::<JobView>(202, "Its holder is asked to end it.", a_job())
        .problems(&[Code::NotYours, Code::Conflict])
}

/// POST /v1/jobs/{id}/retry
pub(crate) fn retry() -> Doc {
    Doc::new("retryJob", "run a job again that ended without success")
        .more(
            "A submitter retries its own jobs, an operator everybody's. To a quota it is a submission of the caller's.",
        )
        .answers::<JobView>(202, "It is dispatched anew, with as many attempts again.", a_job())
        .problems(&[Code::NotYours, Code::Conflict, Code::QuotaExceeded])
}

/// POST /v1/explain
pub(crate) fn explain() -> Doc {
    let mut doc = Doc::new("explain", "where a job would go, and why not elsewhere");
    doc.known::<Submission>();
    let conditions = doc.known::<Supposed>();
    let mut schema = Submission::schema();
    if let RefOr::T(Schema::Object(fields)) = &mut schema {
        fields.properties.insert("conditions".to_owned(), conditions);
    }
    let body = doc.named("Explain", schema);
    let mut submission = a_submission();
    submission["conditions"] = json!({ "companions": 499, "free_pools": ["standard"] });
    let verdict = json!({
        "venue": "fleet", "pool": "standard", "chosen": true, "reason": "the cheapest that starts in time",
        "start_ms": 5, "nanodollars": 1200,
    });
    let answer = json!({
        "venue": "fleet", "pool": "standard", "choice": "cheapest", "reason": "the cheapest that starts in time",
        "start_target_ms": 600_000, "met": true, "estimated_nanodollars": 1200, "verdicts": [verdict],
    });
    doc.more("Nothing is submitted. `conditions` stand in place of those that the yard meets at this moment.")
        .body(body, submission, BODY_BYTES)
        .answers::<Explanation>(200, "The decision; also that no place can run it.", answer)
        .problems(&[Code::PayloadTooLarge, Code::InvalidField, Code::UnknownCapability, Code::InvalidPayload])
}

fn a_glance() -> Value {
    let tier = |tier: &str| json!({ "tier": tier, "waiting": 0, "held": 0 });
    json!({
        "pauses": [{
            "scope": { "tier": "standard" }, "by": "ana", "since": "2026-01-31T12:00:00.000Z", "reason": "it is down",
        }],
        "tiers": [tier("synchronous"), tier("priority"), tier("standard")],
        "open": [{ "state": "held", "jobs": 3 }],
        "capabilities": [{ "capability": "port-scan", "limit": 20, "used": 20, "held": 3 }],
        "ended_last_hour": [{ "state": "succeeded", "jobs": 12 }],
    })
}

/// GET /v1/yard
pub(crate) fn yard() -> Doc {
    Doc::new("getYard", "the yard at a glance: pauses, depths, limits, what ended").answers::<YardView>(
        200,
        "The yard.",
        a_glance(),
    )
}

/// POST /v1/pause
pub(crate) fn pause() -> Doc {
    let mut doc = Doc::new("pause", "let no more jobs start: all, a tier's, or a capability's");
    let body = doc.known::<PauseBody>();
    doc.more("What runs, runs to its end. The scope's earlier pause is replaced.")
        .body(body, json!({ "scope": { "capability": "port-scan" }, "reason": "it is down" }), BODY_BYTES)
        .answers::<YardView>(200, "It is paused.", a_glance())
        .problems(&[Code::InvalidField, Code::UnknownCapability])
}

/// POST /v1/resume
pub(crate) fn resume() -> Doc {
    let mut doc = Doc::new("resume", "lift a pause");
    let body = doc.known::<ResumeBody>();
    doc.body(body, json!({ "scope": "all" }), BODY_BYTES)
        .answers::<YardView>(200, "It goes on.", a_glance())
        .problems(&[Code::InvalidField, Code::NotPaused])
}

/// GET /v1/workers
pub(crate) fn workers() -> Doc {
    let room = |slots: u32| json!({ "slots": slots, "milli_vcpu": slots * 1000, "memory_mib": slots * 512 });
    let worker = json!({
        "holder": "worker/0123456789abcdef", "pool": "standard", "capacity": room(4), "used": room(0),
        "since": "2026-01-31T12:00:00.000Z", "leaving": false, "runs": [],
    });
    Doc::new("listWorkers", "who works, and on what").answers::<WorkersAnswer>(
        200,
        "Every worker that is known.",
        json!({ "workers": [worker] }),
    )
}

/// GET /v1/cost
pub(crate) fn cost() -> Doc {
    let time = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).build();
    let spend = json!({ "capability": "file-digest", "venue": "fleet", "jobs": 12, "nanodollars": 14_400 });
    let answer = json!({
        "spend": [spend], "nanodollars": 14_400, "region": "us-east-1", "as_of": "2026-11-01",
        "note": "what AWS would have charged: on one machine nothing is paid",
    });
    Doc::new("getCost", "what jobs have cost, by capability and venue")
        .more("Of the settled jobs that are still kept.")
        .query("since", time, "Only jobs settled at or after this moment.")
        .answers::<CostAnswer>(200, "The spend.", answer)
}

/// POST /v1/events
pub(crate) fn events() -> Doc {
    let event = json!({
        "version": "0", "id": ID, "source": "aws.guardduty", "detail-type": "GuardDuty Finding",
        "account": "111122223333", "region": "eu-central-1", "time": "2026-01-31T12:00:00Z", "detail": {},
    });
    let answer = json!({ "reading": "unknown", "reason": "no reader knows events of source `my.app`", "repeated": 0 });
    let any = ObjectBuilder::new().schema_type(Type::Object).description(Some("An event's envelope."));
    Doc::new("deliverEvent", "an EventBridge envelope; its findings become jobs")
        .more("A job for every policy and resource. An event that nobody knows, or no mapping answers, is an answer and no error: it is kept for replay.")
        .header("traceparent", text().build(), OF_TRACE, TRACEPARENT)
        .body(any.build().into(), event, BODY_BYTES)
        .answers::<EventAnswer>(200, "What became of it.", answer)
        .problems(&[Code::NotAnEvent])
        .problems(&SUBMISSION)
}

/// POST /v1/events/plan
pub(crate) fn plan() -> Doc {
    let event = json!({ "source": "my.app", "detail-type": "Something Else", "detail": {} });
    let answer = json!({
        "source": "my.app", "detail_type": "Something Else", "reading": "unknown", "left_out": 0, "findings": [],
        "reason": "no reader and no mapping knows events of source `my.app` and detail-type `Something Else`",
        "unmapped": "no reader and no mapping knows events of source `my.app` and detail-type `Something Else`",
    });
    let any = ObjectBuilder::new().schema_type(Type::Object).description(Some("An event's envelope."));
    Doc::new("planEvent", "what an event would lead to, step by step; nothing is stored")
        .more("The mapping for each resource with what else was considered, the jobs, and where each would go.")
        .body(any.build().into(), event, BODY_BYTES)
        .answers::<EventPlanView>(200, "The plan.", answer)
        .problems(&[Code::NotAnEvent])
}

const UNMAPPED: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

fn an_unmapped_event() -> Value {
    json!({
        "id": UNMAPPED, "source": "my.app", "detail_type": "Order Placed",
        "why": "no reader knows events of source `my.app`", "bytes": 231,
        "first_seen": "2026-01-31T12:00:00.000Z", "last_seen": "2026-01-31T12:05:00.000Z", "seen": 2,
    })
}

/// GET /v1/events/unmapped
pub(crate) fn unmapped() -> Doc {
    let next = format!("1769861100000.{UNMAPPED}");
    Doc::new("listUnmappedEvents", "events that no mapping answers, seen last first")
        .more(
            "They are kept to be replayed when one does: 10,000 of them and 64 MiB; the longest unseen make room. The \
             same event again is counted, and moves to the front.",
        )
        .query("limit", whole_number(1, 500), "At most so many; 50 unless said.")
        .query(
            "cursor",
            text().pattern(Some("^[0-9]{1,13}\\.[0-9a-f]{32}$")).build(),
            "Where the page starts: what the last page gave as `next`.",
        )
        .answers::<UnmappedPage>(
            200,
            "A page of events, without their texts.",
            json!({ "events": [an_unmapped_event()], "next": next, "kept": 1, "dropped": 0 }),
        )
}

/// POST /v1/events/unmapped/replay
pub(crate) fn unmapped_replay() -> Doc {
    let answer = json!({ "tried": 1, "answered": 1, "jobs": 2 });
    Doc::new("replayUnmappedEvents", "delivers kept events again, if the rules in force answer them now")
        .more("Those that are answered are kept no longer. The same finding makes no second job.")
        .header("traceparent", text().build(), OF_TRACE, TRACEPARENT)
        .query("limit", whole_number(1, 500), "At most so many; 50 unless said.")
        .query(
            "cursor",
            text().pattern(Some("^[0-9]{1,13}\\.[0-9a-f]{32}$")).build(),
            "Where it goes on: what the last call gave as `next`.",
        )
        .answers::<ReplayAnswer>(200, "What came of it.", answer)
}

/// GET /v1/events/unmapped/{id}
pub(crate) fn unmapped_event() -> Doc {
    let mut answer = an_unmapped_event();
    answer["event"] = json!({ "source": "my.app", "detail-type": "Order Placed", "detail": { "order": 7 } });
    Doc::new("getUnmappedEvent", "one unmapped event, as it came")
        .of::<UnmappedId>("The event's id, as the list of unmapped events shows it.", Code::NoSuchEvent)
        .answers::<UnmappedAnswer>(200, "The event.", answer)
}

/// GET /v1/loans
pub(crate) fn loans() -> Doc {
    let time = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).build();
    let id = || text().format(Some(SchemaFormat::Custom("uuid".to_owned()))).build();
    let loan = json!({
        "id": "019c13a5-9c00-7000-8000-00000000002a", "at": "2026-01-31T12:00:00.000Z", "job": ID, "epoch": 1,
        "capability": "account-audit", "caller": "ana", "holder": "worker-1/5f3a",
        "scope": { "kind": "aws", "role": "arn:aws:iam::123456789012:role/switchyard-scan" }, "outcome": "lent",
        "until": "2026-01-31T13:00:00.000Z", "reference": "ASIAIOSFODNN7EXAMPLE",
    });
    Doc::new("listLoans", "what credentials were lent and refused, and given back, newest first")
        .more("Who asked, for which job, for what, and until when. No credential is in it. Kept for 90 days.")
        .query("job", id(), "Only those of this job.")
        .query("since", time, "Only those at or after this moment.")
        .query("limit", whole_number(1, 500), "At most so many; 50 unless said.")
        .query("cursor", id(), "Where the page starts: what the last page gave as `next`.")
        .answers::<LoansPage>(200, "A page of records.", json!({ "loans": [loan] }))
}

/// What may run, as the list of capabilities shows it.
fn capabilities_schema() -> Schema {
    let count = |nullable: bool| {
        let mut number = whole_number(0, u64::from(u32::MAX));
        if nullable {
            number.schema_type = SchemaType::Array(vec![Type::Integer, Type::Null]);
        }
        number
    };
    let observed = ObjectBuilder::new().schema_type(SchemaType::Array(vec![Type::Object, Type::Null]));
    let observed = observed.description(Some("What its runs have shown of their needs."));
    let capability = ObjectBuilder::new()
        .property("name", text())
        .property("summary", text())
        .property("input", ObjectBuilder::new().description(Some("A JSON Schema of the payload.")))
        .property("timeout_seconds", count(false))
        .property("expected_seconds", count(true))
        .property("attempts", count(false))
        .property("observed", observed)
        .required("name")
        .required("summary")
        .required("timeout_seconds")
        .required("attempts");
    let nullable = |kind| ObjectBuilder::new().schema_type(SchemaType::Array(vec![kind, Type::Null]));
    ObjectBuilder::new()
        .property("capabilities", ArrayBuilder::new().items(capability))
        .property("loaded_at", nullable(Type::String).description(Some("Since when the policies are in force.")))
        .property("digest", text().description(Some("The digest of the policies in force.")))
        .property("refused", nullable(Type::Object).description(Some("What was refused since, and why.")))
        .required("capabilities")
        .build()
        .into()
}

/// GET /v1/capabilities
pub(crate) fn capabilities() -> Doc {
    Doc::new("listCapabilities", "what may run").answers_with(200, "Every capability.", capabilities_schema())
}

/// POST /v1/reload
pub(crate) fn reload() -> Doc {
    let answer = json!({
        "loaded_at": "2026-01-31T12:00:00.000Z", "digest": "9f86d081884c7d65",
        "changes": ["capability file-digest: changed"],
    });
    Doc::new("reloadPolicies", "read the policies again")
        .more("Broken ones change nothing. Jobs that were accepted keep the needs they were accepted with.")
        .answers::<ReloadAnswer>(200, "They are in force.", answer)
        .problems(&[Code::NothingToReload, Code::InvalidPolicies])
}

/// GET /v1/schedules
pub(crate) fn schedules() -> Doc {
    let schedule = json!({
        "name": "nightly", "when": "30 3 * * *", "time_zone": "Europe/Berlin", "capability": "disk-usage",
        "enabled": true, "next_tick": "2026-02-01T02:30:00Z", "skipped": 0,
    });
    Doc::new("listSchedules", "what runs by the clock").answers::<SchedulesAnswer>(
        200,
        "Every schedule.",
        json!({ "schedules": [schedule] }),
    )
}

/// GET /metrics
pub(crate) fn metrics() -> Doc {
    let formats = text().enum_values(Some(crate::metrics::FORMATS)).build();
    Doc::new("getMetrics", "what is counted, and what stands where")
        .more("In Prometheus' text exposition format, or as lines of CloudWatch's embedded metric format.")
        .query("format", formats, "`prometheus`, which it is unless said, or `emf`.")
        .answers_text(200, "The metrics.", &["text/plain", "application/x-ndjson"])
}

/// GET /health
pub(crate) fn health() -> Doc {
    let answer = ObjectBuilder::new()
        .property("status", text().enum_values(Some(["ok"])))
        .property("compute", text())
        .property("version", text())
        .required("status")
        .required("compute")
        .required("version");
    Doc::new("getHealth", "whether the yard lives, and where").answers_with(200, "It lives.", answer.build().into())
}

/// GET /openapi.json
pub(crate) fn openapi() -> Doc {
    let answer = ObjectBuilder::new().schema_type(Type::Object).build();
    Doc::new("getDescription", "this API, in OpenAPI 3.1").answers_with(200, "The description.", answer.into())
}
