//! Room 1: a submission becomes a [`Job`], accepted and routed in one durable write.

mod event;
mod json;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use self::event::{
    ANSWERED_BY, Answer, EVENT_JOBS, EventJob, EventPlan, FindingPlan, Read, plan_event, plan_whole_event,
};
pub use self::json::read_json;
pub(crate) use self::json::{Fields, Named, Once};
use crate::brake;
use crate::catalog::{BadPayload, Capability};
use crate::dispatch::{self, Act};
use crate::job::{Epoch, Job, JobId, Nonce, State, Tier, TraceId, Work, one_line};
use crate::policies::Situation;
use crate::ports::{Acceptance, Body, NewJob, PortError, Yard};
use crate::route::{Conditions, Needs, Refused, Route, route};
use crate::schedule;
use crate::tell;
use crate::wire::Supposed;

/// The longest idempotency key, in bytes; the IETF Idempotency-Key draft leaves the limit to the server.
pub const KEY_BYTES: usize = 255;
/// Labels a job can carry.
pub const LABELS: usize = 16;
/// The longest wait before a start, and the longest start deadline: a year. What is planned further ahead is a
/// schedule.
pub const AHEAD_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Names that no caller from outside may have: the yard itself submits under them, and a job's id is derived from its
/// caller's name.
pub const RESERVED_CALLERS: &[&str] = &[schedule::CALLER, FINDINGS];
/// The caller of jobs that findings make, whoever delivers the event.
pub const FINDINGS: &str = "findings";

/// What a caller asks for: the body of POST /v1/jobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The capability to run.
    pub capability: String,
    /// Its input.
    #[serde(default = "empty_object")]
    pub payload: Value,
    /// How soon it must start.
    #[serde(default)]
    pub tier: Tier,
    /// What to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The longest one run may last; at most what the capability allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub run_timeout_seconds: Option<u64>,
    /// It must have started so many seconds after its acceptance, or it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 31622400))]
    pub start_within_seconds: Option<u64>,
    /// It must not start before so many seconds have passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 31622400))]
    pub delay_seconds: Option<u64>,
    /// Whether its settlement is announced.
    #[serde(default)]
    pub announce: bool,
}

pub(crate) fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

/// Why a submission is not accepted. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It is not JSON at all.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// It is JSON, but a field is missing, unknown or of the wrong type.
    #[error("{}{message}", if .path.is_empty() || .path == "." { String::new() } else { format!("field `{}`: ", .path) })]
    Field {
        /// Which field, as a dotted path.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// There is no such capability.
    #[error("there is no capability `{name}`; there are: {known}")]
    UnknownCapability {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The payload does not fit the capability's schema.
    #[error(transparent)]
    Payload(#[from] BadPayload),
    /// The payload is larger than any job's may be.
    #[error("the payload is {bytes} bytes of JSON; at most {} are taken", Body::MAX_BYTES)]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The idempotency key cannot be one.
    #[error("the idempotency key must be 1 to {KEY_BYTES} printable ASCII characters")]
    BadKey,
    /// The same key came with another body before.
    #[error("the idempotency key was used for another submission, job {0}: a new submission needs a new key")]
    KeyReused(JobId),
    /// No venue can run it.
    #[error("{0}")]
    NoFeasibleVenue(Box<Refused>),
}

impl Rejected {
    /// The stable code of the problem document (RFC 9457).
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotJson(_) => "not_json",
            Self::Field { .. } => "invalid_field",
            Self::UnknownCapability { .. } => "unknown_capability",
            Self::Payload(_) => "invalid_payload",
            Self::TooLarge { .. } => "payload_too_large",
            Self::BadKey => "invalid_idempotency_key",
            Self::KeyReused(_) => "idempotency_key_reused",
            Self::NoFeasibleVenue(_) => "no_feasible_venue",
        }
    }
}

/// A submission that was read, checked and routed, ready for the ledger.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The record it becomes.
    pub job: Job,
    /// The payload as JSON text.
    pub payload: String,
}

impl Prepared {
    /// The same as a part of a trace. It is no part of what was submitted: a repeat from another trace is a repeat.
    #[must_use]
    pub fn traced(mut self, trace: TraceId) -> Self {
        self.job.work.trace = Some(trace);
        self
    }
}

/// Who submits, and under which key.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The role or user, never the session.
    pub caller: &'a str,
    /// The idempotency key, if there is one.
    pub key: Option<&'a str>,
}

/// How a submission is taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taking {
    /// What is left of the invocation that takes it, when that has room to run it.
    pub invocation_left: Option<Duration>,
    /// How many more submissions come with it.
    pub companions: u32,
}

/// Reads the body of a submission; also answers the SHA-256 of its canonical form, which a repeat must match.
///
/// # Errors
///
/// [`Rejected::NotJson`] with line and column, or [`Rejected::Field`] with the field's path.
pub fn read(body: &[u8]) -> Result<(Submission, [u8; 32]), Rejected> {
    read_value(read_json(body)?)
}

/// The same for a submission that was read as JSON already: one of many in a body.
///
/// # Errors
///
/// [`Rejected::Field`] with the field's path.
pub fn read_value(value: Value) -> Result<(Submission, [u8; 32]), Rejected> {
    let digest = canonical_sha256(&value);
    Ok((read_fields(value)?, digest))
}

/// A JSON value as what its fields say.
///
/// # Errors
///
/// [`Rejected::Field`] with the field's path.
pub fn read_fields<T: DeserializeOwned>(value: Value) -> Result<T, Rejected> {
    // A list would be taken for the fields in their order.
    if !value.is_object() {
        return Err(Rejected::Field { path: String::new(), message: "the body must be a JSON object".to_owned() });
    }
    serde_path_to_error::deserialize(value).map_err(|error| Rejected::Field {
        path: one_line(&error.path().to_string(), 120),
        message: one_line(&error.inner().to_string(), 300),
    })
}

/// SHA-256 of a JSON value with its object keys in order, as RFC 8785 orders them for ASCII keys.
pub fn canonical_sha256(value: &Value) -> [u8; 32] {
    fn write(value: &Value, out: &mut Vec<u8>) {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(key, _)| key.as_str());
                out.push(b'{');
                for (key, value) in entries {
                    out.extend_from_slice(Value::from(key.as_str()).to_string().as_bytes());
                    out.push(b':');
                    write(value, out);
                    out.push(b',');
                }
                out.push(b'}');
            }
            Value::Array(items) => {
                out.push(b'[');
                for item in items {
                    write(item, out);
                    out.push(b',');
                }
                out.push(b']');
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                out.extend_from_slice(value.to_string().as_bytes());
            }
        }
    }
    let mut out = Vec::new();
    write(value, &mut out);
    Sha256::digest(&out).into()
}

/// A submission held against the catalog: what it asks of a place, and under which conditions.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// What runs.
    pub capability: &'a Capability,
    /// What it needs.
    pub needs: Needs,
    /// When and how it is taken.
    pub conditions: Conditions,
    labels: Vec<(String, String)>,
    payload: String,
    run_timeout: Duration,
    delay: Option<Duration>,
}

/// Holds a submission against the catalog.
///
/// # Errors
///
/// [`Rejected`] says what is wrong with it and where.
pub fn plan<'a>(submission: &Submission, situation: &'a Situation, taking: Taking) -> Result<Plan<'a>, Rejected> {
    let catalog = &situation.policies.catalog;
    let capability = catalog.get(&submission.capability).ok_or_else(|| Rejected::UnknownCapability {
        name: one_line(&submission.capability, 64),
        known: catalog.iter().map(|capability| capability.name.as_str()).collect::<Vec<_>>().join(", "),
    })?;
    let payload = submission.payload.to_string();
    if payload.len() > Body::MAX_BYTES {
        return Err(Rejected::TooLarge { bytes: payload.len() });
    }
    capability.check(&submission.payload)?;
    let labels = check_labels(&submission.labels)?;
    let field = |path: &str, message: String| Rejected::Field { path: path.to_owned(), message };
    let ahead = |path: &str, seconds: Option<u64>| match seconds {
        None => Ok(None),
        Some(seconds) if (1..=AHEAD_MAX.as_secs()).contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
        Some(_) => Err(field(path, format!("expected 1 to {}", AHEAD_MAX.as_secs()))),
    };
    let run_timeout = match submission.run_timeout_seconds {
        None => capability.timeout,
        Some(seconds) if (1..=capability.timeout.as_secs()).contains(&seconds) => Duration::from_secs(seconds),
        Some(_) => {
            let most = capability.timeout.as_secs();
            return Err(field("run_timeout_seconds", format!("expected 1 to {most}, the capability's own limit")));
        }
    };
    let delay = ahead("delay_seconds", submission.delay_seconds)?;
    let start_within = ahead("start_within_seconds", submission.start_within_seconds)?;
    // A delay that was asked for is none of the capability's patience.
    let start_within = start_within.or(capability.start_within.map(|within| within + delay.unwrap_or_default()));
    if let (Some(delay), Some(start_within)) = (delay, start_within)
        && start_within <= delay
    {
        return Err(field("start_within_seconds", "it would expire before its delay ends".to_owned()));
    }
    let conditions = Conditions {
        tier: submission.tier,
        start_within,
        invocation_left: if delay.is_some() { None } else { taking.invocation_left },
        free: situation.free(&capability.needs),
        companions: taking.companions,
        ..Conditions::default()
    };
    let learnt = situation.observed.needs(capability, situation.limits());
    // What was learnt must not keep a job out that would be taken by what is declared.
    let fits = learnt == capability.needs || route(&learnt, &conditions, situation.limits()).is_ok();
    let needs = if fits { learnt } else { capability.needs.clone() };
    Ok(Plan { capability, needs, conditions, labels, payload, run_timeout, delay })
}

/// Decides what a submission becomes: checked against the catalog, its id derived, routed.
///
/// `body_sha256` is what [`read`] answered, and `random` makes the id when there is no key.
///
/// # Errors
///
/// [`Rejected`] says what is wrong with it and where.
pub fn prepare(
    submission: &Submission,
    body_sha256: [u8; 32],
    sender: Sender<'_>,
    situation: &Situation,
    taking: Taking,
    now: Timestamp,
    random: [u8; 32],
) -> Result<Prepared, Rejected> {
    let Plan { capability, needs, conditions, labels, payload, run_timeout, delay } =
        plan(submission, situation, taking)?;
    let key = match sender.key {
        Some(key) if key.is_empty() || key.len() > KEY_BYTES || !key.bytes().all(|b| (0x20..0x7f).contains(&b)) => {
            return Err(Rejected::BadKey);
        }
        key => key,
    };
    let [a, b, c, d, e, f, g, h, i, j, rest @ ..] = random;
    let id =
        key.map_or_else(|| JobId::ordered(now, [a, b, c, d, e, f, g, h, i, j]), |key| JobId::keyed(sender.caller, key));
    let [k, l, m, n, o, p, q, r, ..] = rest;
    let nonce = Nonce(u64::from_be_bytes([k, l, m, n, o, p, q, r]));
    let chosen = route(&needs, &conditions, situation.limits())
        .map_err(|refused| Rejected::NoFeasibleVenue(Box::new(refused)))?;
    let work = Work {
        capability: capability.name.clone(),
        tier: submission.tier,
        labels,
        caller: sender.caller.to_owned(),
        key: key.map(str::to_owned),
        body_sha256,
        run_timeout,
        start_deadline: conditions.start_within.map(|within| now + within),
        attempts: capability.retry.attempts,
        backoff: capability.retry.backoff,
        announce: submission.announce,
        needs,
        trace: None,
    };
    Ok(Prepared { job: born(id, work, chosen, delay, situation, now, nonce), payload })
}

/// Reads the body of a request for an explanation: a submission, and beside it `conditions` in place of the real ones.
///
/// # Errors
///
/// As [`read`].
pub fn read_supposed(body: &[u8]) -> Result<(Submission, Supposed), Rejected> {
    let mut value = read_json(body)?;
    let supposed = value.as_object_mut().and_then(|object| object.remove("conditions"));
    let supposed = match supposed {
        None => Supposed::default(),
        Some(supposed) => serde_path_to_error::deserialize(supposed).map_err(|error| Rejected::Field {
            path: one_line(&format!("conditions.{}", error.path()), 120),
            message: one_line(&error.inner().to_string(), 300),
        })?,
    };
    Ok((read(value.to_string().as_bytes())?.0, supposed))
}

/// The labels as a record keeps them; refused when there are too many, or one cannot be written `name=value`.
pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<Vec<(String, String)>, Rejected> {
    let wrong = |path: String, message: String| Err(Rejected::Field { path, message });
    if labels.len() > LABELS {
        return wrong("labels".to_owned(), format!("expected at most {LABELS}"));
    }
    let fits =
        |text: &str, most: usize| (1..=most).contains(&text.len()) && text.chars().all(|c| !c.is_control() && c != '=');
    for (name, value) in labels {
        if !fits(name, 63) || !fits(value, 255) {
            let path = format!("labels.{}", one_line(name, 63));
            return wrong(
                path,
                "expected a name of 1 to 63 and a value of 1 to 255 bytes, without `=` or control characters"
                    .to_owned(),
            );
        }
    }
    Ok(labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// The record of a new job: waiting for its moment, held, or dispatched at epoch 1.
fn born(
    id: JobId,
    work: Work,
    route: Route,
    delay: Option<Duration>,
    situation: &Situation,
    now: Timestamp,
    nonce: Nonce,
) -> Job {
    let attempts_allowed = work.attempts;
    let (state, epoch) = match delay {
        Some(delay) => (State::Delayed { until: now + delay }, Epoch(0)),
        None => (State::Dispatched { at: now, looks: 0 }, Epoch(1)),
    };
    let mut job = Job {
        id,
        work,
        state,
        epoch,
        attempts_spent: 0,
        attempts_allowed,
        interruptions: 0,
        losses: 0,
        launch_failures: 0,
        route,
        permit: None,
        aged: 0,
        spent_nanodollars: 0,
        timeline: Vec::new(),
        created: now,
        due: None,
        owed: Vec::new(),
        revision: 1,
        nonce,
    };
    let detail = match (delay, situation.brake(&job)) {
        (Some(_), _) => String::new(),
        (None, None) => job.route.place.to_string(),
        // Inline ones too: whoever submitted it hears that it waits.
        (None, Some(brake)) => {
            (job.state, job.epoch) = (State::Held { since: now }, Epoch(0));
            brake.to_string()
        }
    };
    job.note(None, now, "accepted", detail);
    job.due = Some(match job.state {
        State::Delayed { until } => until,
        State::Held { .. } => dispatch::due_in(&job, now, dispatch::HELD_LOOK),
        State::Dispatched { .. } | State::Running(_) | State::Settled(_) => dispatch::first_look(&job, situation, now),
    });
    job
}

/// A job at rest in the ledger.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The record.
    pub job: Job,
    /// Whether this call accepted it; else it was there before, from the same submission.
    pub fresh: bool,
}

impl Taken {
    /// Whether whoever took the job must run it now: it was routed inline.
    pub fn runs_here(&self) -> bool {
        self.fresh && dispatch::acts(&self.job).iter().any(|act| matches!(act, Act::RunHere(_)))
    }
}

/// Accepts what was prepared: large payloads first, then the records in one durable write, then the doorbells.
/// An answer is given only when the record is durable; a doorbell that fails is rung again by the reaper.
///
/// # Errors
///
/// The ledger or blob store failed: nothing of the batch may be assumed accepted, and all of it may be sent again.
pub async fn accept(yard: &Yard, prepared: Vec<Prepared>) -> Result<Vec<Result<Taken, Rejected>>, PortError> {
    let mut new = Vec::with_capacity(prepared.len());
    for Prepared { job, payload } in prepared {
        // A key that was used before stores nothing: the record's own body stays the one there is.
        let known =
            payload.len() > Body::INLINE_BYTES && job.work.key.is_some() && yard.ledger.load(job.id).await?.is_some();
        let payload = if payload.len() > Body::INLINE_BYTES && !known {
            // The name holds the body's hash: a refused repeat with another body must not replace the first one's.
            let digest = job.work.body_sha256;
            let name = format!(
                "payload-{:016x}",
                u64::from_be_bytes([
                    digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7]
                ])
            );
            Body::Blob(yard.blobs.put(job.id, &name, &payload).await?)
        } else {
            Body::Inline(payload)
        };
        new.push(NewJob { job, payload });
    }
    let jobs: Vec<Job> = new.iter().map(|new| new.job.clone()).collect();
    let acceptances = yard.ledger.accept(new).await?;
    let mut taken = Vec::with_capacity(jobs.len());
    let mut fresh = Vec::new();
    for (job, acceptance) in jobs.into_iter().zip(acceptances) {
        taken.push(match judge(job, acceptance) {
            Ok(taken) => {
                tell::taken(yard, &taken);
                if taken.fresh {
                    fresh.push((taken.job.clone(), dispatch::acts(&taken.job)));
                }
                Ok(taken)
            }
            Err(rejected) => Err(rejected),
        });
    }
    // One call of the lanes, and one admission for a whole batch of held jobs.
    let held: BTreeSet<String> = dispatch::act_all(yard, fresh).await.into_iter().flatten().collect();
    brake::admit_all(yard, held, taken.len()).await;
    Ok(taken)
}

/// What accepting a prepared job would answer where its key was used before; `None`: it would be a new one.
///
/// # Errors
///
/// The ledger failed.
pub async fn repeated(yard: &Yard, prepared: &Prepared) -> Result<Option<Result<Taken, Rejected>>, PortError> {
    if prepared.job.work.key.is_none() {
        return Ok(None);
    }
    let existing = yard.ledger.load(prepared.job.id).await?;
    Ok(existing.map(|existing| judge(prepared.job.clone(), Acceptance::Existing(Box::new(existing)))))
}

/// What an acceptance means: ours, a repeat of ours, or another submission under our key.
fn judge(job: Job, acceptance: Acceptance) -> Result<Taken, Rejected> {
    match acceptance {
        Acceptance::Accepted => Ok(Taken { job, fresh: true }),
        // Our own nonce: this very write took effect and its answer was lost.
        Acceptance::Existing(existing) if existing.nonce == job.nonce => Ok(Taken { job: *existing, fresh: true }),
        Acceptance::Existing(existing) if existing.work.body_sha256 == job.work.body_sha256 => {
            Ok(Taken { job: *existing, fresh: false })
        }
        Acceptance::Existing(existing) => Err(Rejected::KeyReused(existing.id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Builtin, Catalog, no_settings};
    use crate::policies::Policies;
    use crate::route::{Limits, Venue};

    fn catalog() -> Catalog {
        let text = "version: 1\ncapabilities:\n  - name: greet\n    summary: says hello\n    run: { command: [echo, \"{{name}}\"] }\n    input: { type: object, required: [name], properties: { name: { type: string } } }\n    needs: { timeout_seconds: 60 }\n";
        Catalog::parse("c.yaml", text, &[], &BTreeMap::new()).unwrap()
    }

    fn try_prepare(body: &str, key: Option<&str>) -> Result<Prepared, Rejected> {
        let (submission, digest) = read(body.as_bytes())?;
        let sender = Sender { caller: "local", key };
        let policies = Policies { catalog: catalog(), limits: Limits::one_machine(1024), ..Policies::default() };
        let situation = Situation { policies: policies.into(), ..Situation::default() };
        prepare(&submission, digest, sender, &situation, Taking::default(), Timestamp::UNIX_EPOCH, [3; 32])
    }

    #[test]
    fn a_submission_becomes_a_dispatched_job_in_one_piece() {
        let prepared =
            try_prepare(r#"{"capability":"greet","payload":{"name":"Ada"},"labels":{"team":"blue"}}"#, None).unwrap();
        let job = prepared.job;
        assert_eq!(job.phase(), crate::job::Phase::Dispatched);
        assert_eq!((job.epoch, job.revision, job.route.venue()), (Epoch(1), 1, Venue::Fleet));
        assert_eq!(job.work.labels, [("team".to_owned(), "blue".to_owned())]);
        assert!(job.due.is_some());
    }

    #[test]
    fn what_was_learnt_raises_the_needs_where_the_catalog_says_so_and_a_place_has_that_much() {
        let text = |learn: &str| {
            format!(
                "version: 1\ncapabilities:\n  - name: c\n    summary: s\n    run: {{ command: [a] }}\n    \
                 needs: {{ memory_mib: 64, learn: {learn} }}\n"
            )
        };
        let needs = |learn: &str, mib: u32| {
            let catalog = Catalog::parse("c.yaml", &text(learn), &[], &BTreeMap::new()).unwrap();
            let policies = Policies { catalog, limits: Limits::one_machine(1024), ..Policies::default() };
            let situation = Situation { policies: policies.into(), ..Situation::default() };
            for _ in 0..crate::observe::RUNS_LEAST {
                let usage = crate::ports::Usage { max_rss_mib: Some(mib), ..crate::ports::Usage::default() };
                situation.observed.note("c", Duration::from_secs(60), usage);
            }
            let (submission, _) = read(br#"{"capability":"c"}"#).unwrap();
            let needs = plan(&submission, &situation, Taking::default()).unwrap().needs;
            (needs.memory_mib, needs.expected.map(|expected| expected.as_secs()))
        };
        assert_eq!(needs("on", 500), (511, Some(62)));
        assert_eq!(needs("on", 10), (64, Some(62)), "never lowered");
        assert_eq!(needs("on", 2000), (64, None), "no place has that much: the declared needs stand");
        for learn in ["off", "suggest"] {
            assert_eq!(needs(learn, 500), (64, None));
        }
    }

    #[test]
    fn a_delayed_job_waits_at_epoch_zero() {
        let job =
            try_prepare(r#"{"capability":"greet","payload":{"name":"Ada"},"delay_seconds":90}"#, None).unwrap().job;
        assert_eq!(job.state, State::Delayed { until: Timestamp::from_second(90).unwrap() });
        assert_eq!((job.epoch, job.due), (Epoch(0), Some(Timestamp::from_second(90).unwrap())));
    }

    #[test]
    fn a_job_under_a_brake_is_held_at_the_door_also_where_it_would_run_inline() {
        let text = "version: 1\ncapabilities:\n  - name: greet\n    summary: says hello\n    run: { builtin: greet }\n    needs: { expected_seconds: 1 }\n    limits: { concurrent: 1 }\n";
        let catalog =
            Catalog::parse("c.yaml", text, &[Builtin { name: "greet", check: no_settings }], &BTreeMap::new()).unwrap();
        let policies = Policies { catalog, limits: Limits::one_machine(1024), ..Policies::default() };
        let situation = Situation { policies: policies.into(), ..Situation::default() };
        let (submission, digest) = read(br#"{"capability":"greet","start_within_seconds":900}"#).unwrap();
        let sender = Sender { caller: "local", key: None };
        let taking = Taking { invocation_left: Some(Duration::from_secs(29)), companions: 0 };
        let now = Timestamp::UNIX_EPOCH;
        let job = prepare(&submission, digest, sender, &situation, taking, now, [3; 32]).unwrap().job;
        assert_eq!(
            (job.route.venue(), job.state.clone(), job.epoch),
            (Venue::Inline, State::Held { since: now }, Epoch(0))
        );
        assert_eq!(job.due, Some(now + Duration::from_secs(900)), "its start deadline comes before its last resort");
        assert_eq!(job.timeline[0].detail, "its capability's limit is 1 at once");
        let taken = Taken { job, fresh: true };
        assert!(!taken.runs_here(), "whoever took it answers that it waits");
        assert_eq!(dispatch::acts(&taken.job), [Act::Admit("greet".into())]);
    }

    #[test]
    fn the_same_key_gives_the_same_id_and_the_hash_ignores_key_order() {
        let one = try_prepare(r#"{"capability":"greet","payload":{"name":"Ada"}}"#, Some("k")).unwrap().job;
        let two = try_prepare(r#"{ "payload": {"name":"Ada"}, "capability":"greet" }"#, Some("k")).unwrap().job;
        assert_eq!((one.id, one.work.body_sha256), (two.id, two.work.body_sha256));
        let three = try_prepare(r#"{"capability":"greet","payload":{"name":"Bob"}}"#, Some("k")).unwrap().job;
        assert_eq!(one.id, three.id);
        assert_ne!(one.work.body_sha256, three.work.body_sha256);
        // Explicit defaults are another body, as submitted.
        let four =
            try_prepare(r#"{"capability":"greet","payload":{"name":"Ada"},"tier":"standard"}"#, Some("k")).unwrap().job;
        assert_ne!(one.work.body_sha256, four.work.body_sha256);
    }

    #[test]
    fn bad_submissions_are_refused_with_the_place() {
        let large = format!(r#"{{"capability":"greet","payload":{{"name":"{}"}}}}"#, "x".repeat(Body::MAX_BYTES));
        let cases: Vec<(&str, Option<&str>)> = vec![
            ("{", None),
            ("[]", None),
            (r#"{"payload":{}}"#, None),
            (r#"{"capability":7}"#, None),
            (r#"{"capability":"greet","prioritty":"x"}"#, None),
            (r#"{"capability":"greet","tier":"fast"}"#, None),
            (r#"{"capability":"gret"}"#, None),
            (r#"{"capability":"greet","payload":{}}"#, None),
            (r#"{"capability":"greet","payload":{"name":"-n"}}"#, None),
            (r#"{"capability":"greet","payload":{"name":"A"},"run_timeout_seconds":61}"#, None),
            (r#"{"capability":"greet","payload":{"name":"A"},"delay_seconds":0}"#, None),
            (r#"{"capability":"greet","payload":{"name":"A"},"delay_seconds":60,"start_within_seconds":60}"#, None),
            (r#"{"capability":"greet","payload":{"name":"A"},"labels":{"a=b":"c"}}"#, None),
            (r#"{"capability":"greet","payload":{"name":"A"},"labels":{"a":7}}"#, None),
            (r#"{"capability":"greet","payload":{"name":"A"}}"#, Some("")),
            (&large, None),
        ];
        let messages: Vec<String> = cases
            .iter()
            .map(|(body, key)| {
                let rejected = try_prepare(body, *key).unwrap_err();
                format!("{:<24} {}", rejected.code(), rejected)
            })
            .collect();
        insta::assert_snapshot!(messages.join("\n"));
    }

    #[test]
    fn an_existing_job_is_ours_a_repeat_or_a_misuse_of_the_key() {
        let ours = try_prepare(r#"{"capability":"greet","payload":{"name":"Ada"}}"#, Some("k")).unwrap().job;
        let lost_answer = judge(ours.clone(), Acceptance::Existing(Box::new(ours.clone()))).unwrap();
        assert!(lost_answer.fresh);
        let repeat = Job { nonce: Nonce(99), ..ours.clone() };
        assert!(!judge(ours.clone(), Acceptance::Existing(Box::new(repeat.clone()))).unwrap().fresh);
        let mut other = repeat;
        other.work.body_sha256 = [0; 32];
        assert_eq!(
            judge(ours.clone(), Acceptance::Existing(Box::new(other))).unwrap_err(),
            Rejected::KeyReused(ours.id)
        );
    }
}
